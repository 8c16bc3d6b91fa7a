// Twins of imp/ptx/isa_mma.h, from the fragment layouts of the PTX ISA.
#pragma once

#include <cstring>

#include "isa_math.h"
#include "isa_memory.h"

namespace imp {

namespace sim {

template <int N, bool Transposed>
inline void load_matrices(std::uint32_t (&r)[N], const void* row, const char* name, Location where) {
  struct Argument {
    std::uint32_t* registers;
    const std::uint8_t* row;
  } argument{r, static_cast<const std::uint8_t*>(row)};
  // Only the first 8 N lanes give addresses.
  if (current->lane < 8 * N) {
    require_aligned(row, 16, name, where);
    if (observer) observer->access(*current, {row, 16, false, false}, where);
  }
  collective(
      name, argument,
      [](Argument* const* lanes) {
        for (int lane = 0; lane < 32; ++lane) {
          const int g = lane / 4, t = lane % 4;
          for (int n = 0; n < N; ++n) {
            std::uint32_t& out = lanes[lane]->registers[n];
            if constexpr (Transposed) {
              std::uint16_t low, high;
              std::memcpy(&low, lanes[8 * n + 2 * t]->row + 2 * g, 2);
              std::memcpy(&high, lanes[8 * n + 2 * t + 1]->row + 2 * g, 2);
              out = low | static_cast<std::uint32_t>(high) << 16;
            } else {
              std::memcpy(&out, lanes[8 * n + g]->row + 4 * t, 4);
            }
          }
        }
      },
      where);
}

using Columns = float __attribute__((vector_size(32)));  // the eight of a row: compilers do not make one of a loop

// Elements of one 32-bit register, lowest bits first.
struct ElementF16 {
  static constexpr int per_register = 2;
  static float get(std::uint32_t r, int e) { return half_to_float(static_cast<std::uint16_t>(r >> 16 * e)); }
};
struct ElementBf16 {
  static constexpr int per_register = 2;
  static float get(std::uint32_t r, int e) { return bits_to_float(r >> 16 * e << 16); }
};

// m16n8: A has Registers registers per lane, B half as many. Register r of A holds row g + 8 (r % 2), those of B column g;
// with E elements per register, k = E t + e + 4 E (r / 2) for A and E t + e + 4 E r for B.
template <class Element, int Registers>
inline void mma(float (&d)[4], const std::uint32_t (&a)[Registers],
                const std::uint32_t (&b)[Registers / 2], const char* name, Location where) {
  struct Argument {
    float* d;
    const std::uint32_t* a;
    const std::uint32_t* b;
  } argument{d, a, b};
  collective(
      name, argument,
      [](Argument* const* lanes) {
        constexpr int E = Element::per_register, K = 2 * E * Registers;
        float left[16][K];
        Columns right[K], sum[16];
        for (int lane = 0; lane < 32; ++lane) {
          const int g = lane / 4, t = lane % 4;
          const Argument& x = *lanes[lane];
#pragma GCC unroll 4
          for (int r = 0; r < Registers; ++r)
#pragma GCC unroll 4
            for (int e = 0; e < E; ++e) left[g + r % 2 * 8][E * t + e + r / 2 * 4 * E] = Element::get(x.a[r], e);
#pragma GCC unroll 4
          for (int r = 0; r < Registers / 2; ++r)
#pragma GCC unroll 4
            for (int e = 0; e < E; ++e) right[E * t + e + r * 4 * E][g] = Element::get(x.b[r], e);
          for (int c = 0; c < 4; ++c) sum[g + c / 2 * 8][2 * t + c % 2] = x.d[c];
        }
        for (int m = 0; m < 16; ++m)
#pragma GCC unroll 16
          for (int k = 0; k < K; ++k) sum[m] += left[m][k] * right[k];
        for (int lane = 0; lane < 32; ++lane)
          for (int c = 0; c < 4; ++c) lanes[lane]->d[c] = sum[lane / 4 + c / 2 * 8][lane % 4 * 2 + c % 2];
      },
      where);
}

}  // namespace sim

inline std::uint32_t transpose8x8(std::uint32_t pair, sim::Location where = sim::Location::current()) {
  struct Argument {
    std::uint32_t pair;
    std::uint32_t turned;
  } argument{pair, 0};
  sim::collective(
      "transpose8x8", argument,
      [](Argument* const* lanes) {
        // Element (row, column) lies in lane 4 row + column / 2.
        const auto element = [&](int row, int column) {
          return lanes[4 * row + column / 2]->pair >> 16 * (column % 2) & 0xffffu;
        };
        for (int lane = 0; lane < 32; ++lane) {
          const int g = lane / 4, t = lane % 4;
          lanes[lane]->turned = element(2 * t, g) | element(2 * t + 1, g) << 16;
        }
      },
      where);
  return argument.turned;
}

inline void ldmatrix_x4(std::uint32_t (&r)[4], const void* row, sim::Location where = sim::Location::current()) {
  sim::load_matrices<4, false>(r, row, "ldmatrix_x4", where);
}
inline void ldmatrix_x2(std::uint32_t (&r)[2], const void* row, sim::Location where = sim::Location::current()) {
  sim::load_matrices<2, false>(r, row, "ldmatrix_x2", where);
}
inline void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row, sim::Location where = sim::Location::current()) {
  sim::load_matrices<4, true>(r, row, "ldmatrix_x4_trans", where);
}

inline void mma_f16_k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                        sim::Location where = sim::Location::current()) {
  sim::mma<sim::ElementF16, 4>(d, a, b, "mma_f16_k16", where);
}
inline void mma_bf16_k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                         sim::Location where = sim::Location::current()) {
  sim::mma<sim::ElementBf16, 4>(d, a, b, "mma_bf16_k16", where);
}

// Products and their sum of 16 are exact to float32, and rounded once as they are added to what was there.
inline void mma_f16_k16(std::uint32_t (&d)[2], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                        sim::Location where = sim::Location::current()) {
  const float2 upper = half2_to_float2(d[0]);
  const float2 lower = half2_to_float2(d[1]);
  float sums[4] = {upper.x, upper.y, lower.x, lower.y};
  sim::mma<sim::ElementF16, 4>(sums, a, b, "mma_f16_k16", where);
  d[0] = floats_to_half2(sums[0], sums[1]);
  d[1] = floats_to_half2(sums[2], sums[3]);
}

}  // namespace imp
