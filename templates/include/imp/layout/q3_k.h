// Q3_K: superblocks of 256 three-bit codes, one signed scale per 16, one f16 scale for all. w = (d * s) * (q - 4).
#pragma once
#include "imp/layout/tile.h"

namespace imp {

template <TileShape T>
struct Q3_K {
  static constexpr TileShape kTile = T;
  static constexpr bool kInteger = true;
  static constexpr int kVector = 32;  // three words
  static constexpr int kRest = T.rows * (T.cols / 4);
  static constexpr int kScales = kRest + T.rows * (T.cols / 8);
  static constexpr int kD = kScales + T.rows * (T.cols / 16);
  static constexpr int kTileBytes = round_up(kD + T.rows * (T.cols / 256) * 2, 16);
  static_assert(T.cols % 256 == 0, "Q3_K has superblocks of 256 weights");

  struct Lane {
    uint2 first;
    std::uint32_t rest;
    std::uint16_t scales;
    std::uint16_t d;
  };
  struct Input {
    uint4 low;
    uint4 high;
    float d8;       // scale / 8
    int bias_low;   // -4 times the sum of 16 activations
    int bias_high;  // -32 times, since its codes are eight times too large
  };

  // The words a, b and c hold eight codes in each of their bytes, one above the other; two bits of eight more are in a and
  // c, the third ones in b (layouts/q3_k.py).
  struct Codes {
    std::uint32_t low[4];
    std::uint32_t high[4];  // eight times too large: where they are
    __device__ __forceinline__ explicit Codes(const Lane& w)
        : low{w.first.x & 0x07070707u, w.first.y & 0x07070707u, w.rest & 0x07070707u, (w.first.x >> 6) & 0x03030303u},
          high{w.first.x & 0x38383838u, w.first.y & 0x38383838u, w.rest & 0x38383838u, (w.rest >> 3) & 0x18181818u} {
      low[3] |= (w.first.y >> 4) & 0x04040404u;
      high[3] |= (w.first.y >> 2) & 0x20202020u;
    }
    static __device__ __forceinline__ int dot(const std::uint32_t (&q)[4], const uint4& x, int sum) {
      return dp4a(q[3], x.w, dp4a(q[2], x.z, dp4a(q[1], x.y, dp4a(q[0], x.x, sum))));
    }
    __device__ __forceinline__ WordsOf32 words() const {
      return {{low[0], low[1], low[2], low[3], high[0] >> 3, high[1] >> 3, high[2] >> 3, high[3] >> 3}};
    }
  };

  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    const auto* rest = reinterpret_cast<const std::uint32_t*>(tile + kRest) + row * (T.cols / 32);
    const auto* scales = reinterpret_cast<const std::uint16_t*>(tile + kScales) + row * (T.cols / 32);
    const auto* d = reinterpret_cast<const std::uint16_t*>(tile + kD) + row * (T.cols / 256);
    return {Memory::load8(tile + row * (T.cols / 4) + vector * 8), rest[vector], scales[vector], d[group_of<8>(vector)]};
  }
  static __device__ __forceinline__ Input input(const Q8Activations& x, int vector) {
    const uint2 scale = x.scales[vector];
    return {x.chunk(vector * 2), x.chunk(vector * 2 + 1), bits_to_float(scale.x) * (1.0f / 8.0f), -4 * low_sum(scale.y),
            -32 * high_sum(scale.y)};
  }
  static __device__ __forceinline__ int first_scale(std::uint16_t scales) {
    return static_cast<std::int8_t>(scales & 0xffu);
  }
  static __device__ __forceinline__ int second_scale(std::uint16_t scales) {
    return static_cast<std::int8_t>(scales >> 8);
  }
  // Multiples of 8 below 2^24, each: exact as a float.
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int, float before) {
    const Codes codes(w);
    const int low = Codes::dot(codes.low, in.low, in.bias_low) * first_scale(w.scales);
    const int high = Codes::dot(codes.high, in.high, in.bias_high) * second_scale(w.scales);
    return fma(static_cast<float>(low * 8 + high), half_to_float(w.d) * in.d8, before);
  }

  // Half `half` of a block. A scale times a code less four is a whole number up to 2^7, so that only the weight is rounded.
  static __device__ __forceinline__ HalfPairs halfs(const Lane (&w)[1], int, int half) {
    const int scale = half == 0 ? first_scale(w[0].scales) : second_scale(w[0].scales);
    const std::uint32_t s = twice(static_cast<float>(scale));
    const std::uint32_t d = byte_permute(w[0].d, 0, 0x1010);
    return Codes(w[0]).words().template halfs<4>(half, [&](std::uint32_t pair) {
      return half2_multiply(half2_multiply(pair, s), d);
    });
  }
  static __device__ __forceinline__ float value(const std::uint8_t* tile, int row, int col) {
    const Lane lane = load(tile, row, col / 32);
    const int scale = col % 32 < 16 ? first_scale(lane.scales) : second_scale(lane.scales);
    const int q = Codes(lane).words().code(col % 32) - 4;
    return half_to_float(lane.d) * static_cast<float>(scale) * static_cast<float>(q);
  }
};

}  // namespace imp
