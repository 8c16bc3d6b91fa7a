// Q5_1: blocks of 32 five-bit codes, an f16 scale and an f16 minimum. w = d * q + m.
#pragma once
#include "imp/layout/five_bits.h"

namespace imp {

template <TileShape T>
struct Q5_1 {
  static constexpr TileShape kTile = T;
  static constexpr bool kInteger = true;
  static constexpr int kVector = 32;  // five words
  static constexpr int kRest = T.rows * (T.cols / 2);
  static constexpr int kPairs = kRest + round_up(T.rows * (T.cols / 8), 16);
  static constexpr int kTileBytes = round_up(kPairs + T.rows * T.cols / 8, 16);
  static_assert(T.cols % 32 == 0, "Q5_1 has blocks of 32 weights");

  struct Lane {
    uint4 first;
    std::uint32_t rest;
    std::uint32_t pair;  // d | m << 16
    __device__ __forceinline__ FiveBits codes() const { return FiveBits(first, rest); }
  };
  struct Input {
    uint4 low;
    uint4 high;
    float d8;   // scale / 8
    float sum;  // of the 32 activations
  };

  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    const auto* rest = reinterpret_cast<const std::uint32_t*>(tile + kRest) + row * (T.cols / 32);
    const auto* pairs = reinterpret_cast<const std::uint32_t*>(tile + kPairs) + row * (T.cols / 32);
    return {Memory::load16(tile + row * (T.cols / 2) + vector * 16), rest[vector], pairs[vector]};
  }
  static __device__ __forceinline__ Input input(const Q8Activations& x, int vector) {
    const uint2 scale = x.scales[vector];
    const float d = bits_to_float(scale.x);
    return {x.chunk(vector * 2), x.chunk(vector * 2 + 1), d * (1.0f / 8.0f),
            d * static_cast<float>(low_sum(scale.y) + high_sum(scale.y))};
  }
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int, float before) {
    const auto sum8 = static_cast<float>(w.codes().dot8(in.low, in.high, 0));
    const float2 d = half2_to_float2(w.pair);
    return fma(in.d8 * d.x, sum8, fma(in.sum, d.y, before));
  }

  // Half `half` of a block.
  static __device__ __forceinline__ HalfPairs halfs(const Lane (&w)[1], int, int half) {
    const std::uint32_t d = byte_permute(w[0].pair, 0, 0x1010);
    const std::uint32_t m = byte_permute(w[0].pair, 0, 0x3232);
    return w[0].codes().words().template halfs<0>(half, [&](std::uint32_t pair) { return half2_fma(pair, d, m); });
  }
  static __device__ __forceinline__ float value(const std::uint8_t* tile, int row, int col) {
    const Lane lane = load(tile, row, col / 32);
    const float2 d = half2_to_float2(lane.pair);
    return d.x * static_cast<float>(lane.codes().words().code(col % 32)) + d.y;
  }
};

}  // namespace imp
