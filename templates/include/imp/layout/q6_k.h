// Q6_K: superblocks of 256 six-bit codes, one int8 scale per 16, one f16 scale for all. w = (d * sc) * (q - 32).
#pragma once
#include "imp/layout/tile.h"

namespace imp {

template <TileShape T>
struct Q6_K {
  static constexpr TileShape kTile = T;
  static constexpr bool kInteger = true;
  static constexpr int kVector = 32;  // six words
  static constexpr int kRest = T.rows * (T.cols / 2);
  static constexpr int kScales = kRest + T.rows * (T.cols / 4);
  static constexpr int kD = kScales + T.rows * (T.cols / 16);
  static constexpr int kTileBytes = round_up(kD + T.rows * (T.cols / 256) * 2, 16);
  static_assert(T.cols % 256 == 0, "Q6_K has superblocks of 256 weights");

  struct Lane {
    uint4 first;  // a, b of each half
    uint2 rest;   // c of each half
    std::uint16_t scales;
    std::uint16_t d;
  };
  struct Input {
    uint4 low;
    uint4 high;
    float d;
    int bias_low;  // -32 times the sum of 16 activations
    int bias_high;
  };

  // The sixteen codes of half a block. Each word holds four, and in the upper two bits of its bytes a third of four more.
  struct Codes {
    std::uint32_t a, b, c, d;
    __device__ __forceinline__ Codes(std::uint32_t wa, std::uint32_t wb, std::uint32_t wc)
        : a(wa & 0x3f3f3f3fu), b(wb & 0x3f3f3f3fu), c(wc & 0x3f3f3f3fu), d((wa >> 6) & 0x03030303u) {
      d = (d & ~0x0c0c0c0cu) | ((wb >> 4) & 0x0c0c0c0cu);
      d = (d & ~0x30303030u) | ((wc >> 2) & 0x30303030u);
    }
    __device__ __forceinline__ int dot(const uint4& x, int sum) const {
      return dp4a(d, x.w, dp4a(c, x.z, dp4a(b, x.y, dp4a(a, x.x, sum))));
    }
  };

  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    const auto* scales = reinterpret_cast<const std::uint16_t*>(tile + kScales) + row * (T.cols / 32);
    const auto* d = reinterpret_cast<const std::uint16_t*>(tile + kD) + row * (T.cols / 256);
    return {Memory::load16(tile + row * (T.cols / 2) + vector * 16),
            Memory::load8(tile + kRest + row * (T.cols / 4) + vector * 8), scales[vector], d[group_of<8>(vector)]};
  }
  static __device__ __forceinline__ Input input(const Q8Activations& x, int vector) {
    const uint2 scale = x.scales[vector];
    return {x.chunk(vector * 2), x.chunk(vector * 2 + 1), bits_to_float(scale.x), -32 * low_sum(scale.y),
            -32 * high_sum(scale.y)};
  }
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int, float before) {
    const int low = Codes(w.first.x, w.first.y, w.rest.x).dot(in.low, in.bias_low);
    const int high = Codes(w.first.z, w.first.w, w.rest.y).dot(in.high, in.bias_high);
    const int s0 = static_cast<std::int8_t>(w.scales & 0xffu);
    const int s1 = static_cast<std::int8_t>(w.scales >> 8);
    return fma(static_cast<float>(s0 * low + s1 * high), half_to_float(w.d) * in.d, before);
  }

  // Half `half` of a block.
  static __device__ __forceinline__ HalfPairs halfs(const Lane (&w)[1], int, int half) {
    const Lane& lane = w[0];
    const Codes codes = half == 0 ? Codes(lane.first.x, lane.first.y, lane.rest.x)
                                  : Codes(lane.first.z, lane.first.w, lane.rest.y);
    const int scale = static_cast<std::int8_t>(lane.scales >> 8 * half & 0xffu);
    const std::uint32_t d = twice(half_to_float(lane.d) * static_cast<float>(scale));
    const std::uint32_t words[4] = {codes.a, codes.b, codes.c, codes.d};
    HalfPairs out;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      out.pairs[2 * i] = half2_multiply(even_halfs<32>(words[i]), d);
      out.pairs[2 * i + 1] = half2_multiply(odd_halfs<32>(words[i]), d);
    }
    return out;
  }
  static __device__ __forceinline__ float value(const std::uint8_t* tile, int row, int col) {
    const Lane lane = load(tile, row, col / 32);
    const Codes low(lane.first.x, lane.first.y, lane.rest.x);
    const Codes high(lane.first.z, lane.first.w, lane.rest.y);
    const WordsOf32 words{{low.a, low.b, low.c, low.d, high.a, high.b, high.c, high.d}};
    const int scale = static_cast<std::int8_t>(lane.scales >> 8 * (col % 32 / 16) & 0xffu);
    return half_to_float(lane.d) * static_cast<float>(scale) * static_cast<float>(words.code(col % 32) - 32);
  }
};

}  // namespace imp
