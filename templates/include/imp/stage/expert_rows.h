// What becomes of the rows of experts' products. Of an epilogue with `kTogether`, so many neighbouring rows are one CTA's.
#pragma once
#include "imp/stage/epilogue.h"
#include "imp/stage/gemv.h"

namespace imp {

// y = value, of experts: the biases of all experts of a matrix lie one after the other.
template <unsigned Biased>
struct StoreExperts : StoreRows<Biased> {
  int expert;  // of the route, one a lane
  template <class Route>
  __device__ __forceinline__ StoreExperts(const typename StoreRows<Biased>::Args& args, const Route& route, std::uint8_t*)
      : StoreRows<Biased>(args, nullptr), expert(route.routed.expert) {}
  // Where the biases begin of the route's expert `slot`, of `rows` rows; the whole warp asks.
  __device__ __forceinline__ int first(int slot, int rows) const {
    if constexpr (Biased == 0) return 0;
    return shuffle(expert, slot) * rows;
  }
};

// The same, and of `Used` experts, `Rows` values each, the codes of what they count: times their shares, as matrices read a
// vector. A CTA makes whole blocks of 32 of them, which lie in its shared memory until it ends.
template <unsigned Biased, GemvConfig C, int Used, int Rows>
struct EncodeExperts : StoreExperts<Biased> {
  using Store = StoreExperts<Biased>;
  static constexpr int kTogether = 32;
  static constexpr int kBlocks = Used * Rows / kTogether;
  static constexpr int kMost = ceil_div(kBlocks, C.grid);  // of a CTA
  static constexpr int kSharedBytes = kMost * kTogether * 4;
  static_assert(Rows % kTogether == 0, "no block has values of two experts");
  struct Args {
    float* y;
    Biases<Biased> bias;
    std::uint8_t* made;
  };
  std::uint8_t* made;
  float* values;
  float share;  // of the route, one a lane
  template <class Route>
  __device__ __forceinline__ EncodeExperts(const Args& args, const Route& route, std::uint8_t* shared)
      : Store({args.y, args.bias}, route, nullptr), made(args.made), values(reinterpret_cast<float*>(shared)),
        share(route.routed.share) {}
  __device__ __forceinline__ void store(int row, float value) {
    Store::store(row, value);
    values[row / kTogether / C.grid * kTogether + row % kTogether] = untagged(value);
  }
  __device__ __forceinline__ void finish() {
    block_sync();
    for (int first = warp_index() * 4; first < kMost; first += C.warps * 4) {
      const int mine = first + lane_index() / 8;
      const int block = block_index() + mine * C.grid;
      const bool inside = mine < kMost && block < kBlocks;
      const float4 v =
          inside ? reinterpret_cast<const float4*>(values)[mine * 8 + lane_index() % 8] : make_float4(0, 0, 0, 0);
      const float by = shuffle(share, inside ? block * kTogether / Rows : 0);
      const Q8Block codes = Q8Block::encode(make_float4(v.x * by, v.y * by, v.z * by, v.w * by));
      auto* scales = reinterpret_cast<uint2*>(made + q8_codes(Used * Rows));
      if (inside) codes.store(block * kTogether + lane_index() % 8 * 4, made, scales);
    }
  }
};

// y += Scale * value, to which `Used` experts of `Rows` rows have added their biases, each times its share.
template <unsigned Biased, int Used, int Rows, float Scale = 1.0f>
struct AddExperts : AddRows<0, Scale> {
  using Add = AddRows<0, Scale>;
  struct Args {
    float* y;
    Biases<Biased> bias;
  };
  const float* bias;
  const float* route;  // [2][Used]: experts, shares
  float ahead[Add::kReads] = {};
  template <class Route>
  __device__ __forceinline__ AddExperts(const Args& args, const Route& known, std::uint8_t*)
      : Add({args.y, {}}, nullptr), bias(args.bias.of[0]), route(known.shares - Used) {}
  __device__ __forceinline__ void read(int unit, int row) {
    Add::read(unit, row);
    if constexpr (Biased != 0) ahead[unit] = row >= 0 ? weighed(row) : 0;
  }
  __device__ __forceinline__ float biased(int, int row, float value) {
    if constexpr (Biased == 0) return value;
    return value + (Add::units < Add::kReads ? pick(ahead, Add::units) : weighed(row));
  }

 private:
  __device__ __forceinline__ float weighed(int row) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < Used; i++) sum = fma(route[Used + i], bias[static_cast<int>(route[i]) * Rows + row], sum);
    return sum;
  }
};

}  // namespace imp
