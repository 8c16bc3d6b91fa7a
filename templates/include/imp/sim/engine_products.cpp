// Products of warpgroups. One is made as late as the ISA allows, when somebody waits for it: whoever changes its fragments
// or its panel before, or reads its sums, gets other numbers. A warp computes its own 16 rows.
#include <cstring>

#include "engine.h"
#include "isa_math.h"

namespace imp::sim {

namespace {

// Pieces of 16 bytes that make up the right operand: eight halfs of a line of a swizzled panel.
int chunks(const Product& product) { return 2 * product.columns; }
const std::uint8_t* chunk_of(const Product& product, int index) {
  const bool rows = product.between > 0;  // lines are, each with eight chunks in each panel
  const int line = rows ? 16 * product.step + index % 16 : index / 2;
  const int chunk = rows ? index / 16 : 2 * product.step + index % 2;
  return product.panel + chunk / 8 * product.between + line * 128 + (chunk % 8 ^ line % 8) * 16;
}
// Of row k and a column.
float right(const Product& product, int k, int column) {
  const bool rows = product.between > 0;
  std::uint16_t half;
  std::memcpy(&half, chunk_of(product, rows ? column / 8 * 16 + k : column * 2 + k / 8) + (rows ? column : k) % 8 * 2, 2);
  return half_to_float(half);
}

void make(const Product& product) {
  float left[16][16];
  for (int lane = 0; lane < 32; ++lane)
    for (int r = 0; r < 4; ++r)
      for (int e = 0; e < 2; ++e)
        left[lane % 4 * 2 + e + r / 2 * 8][lane / 4 + r % 2 * 8] =
            half_to_float(static_cast<std::uint16_t>(product.fragments[lane][r] >> 16 * e));
  for (int column = 0; column < product.columns; ++column) {
    const auto sum = [&](int row) -> float& {
      return product.sums[row % 8 * 4 + column % 8 / 2][column / 8 * 4 + row / 8 * 2 + column % 2];
    };
    float sums[16];
    for (int row = 0; row < 16; ++row) sums[row] = sum(row);
    for (int k = 0; k < 16; ++k) {
      const float value = right(product, k, column);
      for (int row = 0; row < 16; ++row) sums[row] += left[k][row] * value;
    }
    for (int row = 0; row < 16; ++row) sum(row) = sums[row];
  }
}

// Products of the groups but the last `left`.
std::size_t due(const Warp& warp, int left) {
  const auto groups = static_cast<std::ptrdiff_t>(warp.product_groups.size());
  return groups > left ? warp.product_groups[static_cast<std::size_t>(groups - left - 1)] : 0;
}

}  // namespace

void product_issue(const Product& product, Location where) {
  Product own = product;
  if ((product.panel - current->block->shared) % 1024)
    fail(where, "wgmma_f16: the panel does not begin at a multiple of 1,024 bytes");
  warp_arrive(
      "wgmma_f16", &own,
      [](void* const* lanes) {
        Product all = *static_cast<const Product*>(lanes[0]);
        for (int lane = 0; lane < 32; ++lane) {
          all.sums[lane] = static_cast<const Product*>(lanes[lane])->sums[0];
          all.fragments[lane] = static_cast<const Product*>(lanes[lane])->fragments[0];
        }
        current->warp->products.push_back(all);
      },
      where);
}

void product_commit(Location where) {
  warp_arrive(
      "wgmma_commit", nullptr,
      [](void* const*) { current->warp->product_groups.push_back(current->warp->products.size()); }, where);
}

void product_wait(int left, Location where) {
  Warp& warp = *current->warp;
  if (observer) {
    const std::size_t count = due(warp, left);
    for (std::size_t i = 0; i < count; ++i)
      for (int chunk = current->lane; chunk < chunks(warp.products[i]); chunk += 32)
        observer->access(*current, {chunk_of(warp.products[i], chunk), 16, false, false}, where);
  }
  warp_arrive(
      "wgmma_wait", &left,
      [](void* const* lanes) {
        Warp& warp = *current->warp;
        const int left = *static_cast<const int*>(lanes[0]);
        const std::size_t count = due(warp, left);
        if (count == 0) return;
        for (std::size_t i = 0; i < count; ++i) make(warp.products[i]);
        warp.products.erase(warp.products.begin(), warp.products.begin() + static_cast<std::ptrdiff_t>(count));
        warp.product_groups.erase(warp.product_groups.begin(), warp.product_groups.end() - left);
        for (std::size_t& end : warp.product_groups) end -= count;
      },
      where);
}

}  // namespace imp::sim
