// Q5_0: blocks of 32 five-bit codes with one f16 scale. w = d * (q + First).
#pragma once
#include "imp/layout/five_bits.h"

namespace imp {

template <TileShape T, int First>
struct Q5_0 {
  static constexpr TileShape kTile = T;
  static constexpr bool kInteger = true;
  static constexpr int kVector = 32;  // five words
  static constexpr int kRest = T.rows * (T.cols / 2);
  static constexpr int kScales = kRest + round_up(T.rows * (T.cols / 8), 16);
  static constexpr int kTileBytes = round_up(kScales + T.rows * T.cols / 16, 16);
  static_assert(T.cols % 32 == 0, "Q5_0 has blocks of 32 weights");
  static_assert(First <= 0 && First > -64, "codes begin with a number that bytes can be lessened by");

  struct Lane {
    uint4 first;
    std::uint32_t rest;
    std::uint16_t d;
    __device__ __forceinline__ FiveBits codes() const { return FiveBits(first, rest); }
  };
  struct Input {
    uint4 low;
    uint4 high;
    float d8;    // scale / 8
    int first8;  // what 8 * First adds
  };

  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    const auto* rest = reinterpret_cast<const std::uint32_t*>(tile + kRest) + row * (T.cols / 32);
    const auto* d = reinterpret_cast<const std::uint16_t*>(tile + kScales) + row * (T.cols / 32);
    return {Memory::load16(tile + row * (T.cols / 2) + vector * 16), rest[vector], d[vector]};
  }
  static __device__ __forceinline__ Input input(const Q8Activations& x, int vector) {
    const uint2 scale = x.scales[vector];
    return {x.chunk(vector * 2), x.chunk(vector * 2 + 1), bits_to_float(scale.x) * (1.0f / 8.0f),
            8 * First * (low_sum(scale.y) + high_sum(scale.y))};
  }
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int, float before) {
    const int sum8 = w.codes().dot8(in.low, in.high, in.first8);
    return fma(static_cast<float>(sum8), half_to_float(w.d) * in.d8, before);
  }

  // Half `half` of a block.
  static __device__ __forceinline__ HalfPairs halfs(const Lane (&w)[1], int, int half) {
    const std::uint32_t d = byte_permute(w[0].d, 0, 0x1010);
    return w[0].codes().words().template halfs<-First>(half, [&](std::uint32_t pair) { return half2_multiply(pair, d); });
  }
  static __device__ __forceinline__ float value(const std::uint8_t* tile, int row, int col) {
    const Lane lane = load(tile, row, col / 32);
    return half_to_float(lane.d) * static_cast<float>(lane.codes().words().code(col % 32) + First);
  }
};

}  // namespace imp
