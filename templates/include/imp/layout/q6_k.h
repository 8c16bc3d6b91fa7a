// Q6_K: superblocks of 256 six-bit codes, one int8 scale per 16, one f16 scale for all. w = (d * sc) * (q - 32).
#pragma once
#include "imp/layout/tile.h"

namespace imp {

template <TileShape T>
struct Q6_K {
  static constexpr TileShape kTile = T;
  static constexpr bool kInteger = true;
  static constexpr int kScaleGroup = 16;
  static constexpr bool kOffset = false;
  static constexpr int kVector = 32;  // 16 bytes of low bits and 8 of high bits
  static constexpr int kHigh = T.rows * (T.cols / 2);
  static constexpr int kScales = kHigh + T.rows * (T.cols / 4);
  static constexpr int kD = kScales + T.rows * (T.cols / 16);
  static constexpr int kTileBytes = round_up(kD + T.rows * (T.cols / 256) * 2, 16);
  static_assert(T.cols % 256 == 0, "Q6_K has superblocks of 256 weights");

  struct Lane {
    uint4 low;
    uint2 high;
    std::uint16_t scales;
    std::uint16_t d;
  };
  struct Input {
    uint4 low;
    uint4 high;
    float d;
    std::uint32_t sums;
  };

  static __device__ __forceinline__ std::uint32_t code(std::uint32_t nibbles, std::uint32_t high, int field) {
    return (nibbles & 0x0f0f0f0fu) | (((high >> (2 * field)) & 0x03030303u) << 4);
  }
  // Biased codes 0..63 to signed bytes: none of the four subtractions borrows once bit 7 is set.
  static __device__ __forceinline__ std::uint32_t unbias(std::uint32_t codes) {
    return ((codes | 0x80808080u) - 0x20202020u) ^ 0x80808080u;
  }

  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    const auto* scales = reinterpret_cast<const std::uint16_t*>(tile + kScales) + row * (T.cols / 32);
    const auto* d = reinterpret_cast<const std::uint16_t*>(tile + kD) + row * (T.cols / 256);
    return {Memory::load16(tile + row * (T.cols / 2) + vector * 16),
            Memory::load8(tile + kHigh + row * (T.cols / 4) + vector * 8), scales[vector], d[vector >> 3]};
  }
  static __device__ __forceinline__ Input input(const Q8Activations& x, int vector) {
    const uint2 scale = x.scales[vector];
    return {x.chunk(vector * 2), x.chunk(vector * 2 + 1), bits_to_float(scale.x), scale.y};
  }
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int) {
    int low = dp4a(code(w.low.x, w.high.x, 0), in.low.x, 0);
    low = dp4a(code(w.low.y, w.high.x, 1), in.low.y, low);
    low = dp4a(code(w.low.z, w.high.x, 2), in.low.z, low);
    low = dp4a(code(w.low.w, w.high.x, 3), in.low.w, low);
    int high = dp4a(code(w.low.x >> 4, w.high.y, 0), in.high.x, 0);
    high = dp4a(code(w.low.y >> 4, w.high.y, 1), in.high.y, high);
    high = dp4a(code(w.low.z >> 4, w.high.y, 2), in.high.z, high);
    high = dp4a(code(w.low.w >> 4, w.high.y, 3), in.high.w, high);
    const int s0 = static_cast<std::int8_t>(w.scales & 0xffu);
    const int s1 = static_cast<std::int8_t>(w.scales >> 8);
    const int sum = s0 * (low - 32 * low_sum(in.sums)) + s1 * (high - 32 * high_sum(in.sums));
    return static_cast<float>(sum) * (half_to_float(w.d) * in.d);
  }

  // Block `index` of a row.
  static __device__ __forceinline__ WeightBlock unpack(const Lane (&w)[1], int) {
    const uint4 q = w[0].low;
    const uint2 h = w[0].high;
    const float d = half_to_float(w[0].d);
    const int s0 = static_cast<std::int8_t>(w[0].scales & 0xffu);
    const int s1 = static_cast<std::int8_t>(w[0].scales >> 8);
    return {{unbias(code(q.x, h.x, 0)), unbias(code(q.y, h.x, 1)), unbias(code(q.z, h.x, 2)),
             unbias(code(q.w, h.x, 3)), unbias(code(q.x >> 4, h.y, 0)), unbias(code(q.y >> 4, h.y, 1)),
             unbias(code(q.z >> 4, h.y, 2)), unbias(code(q.w >> 4, h.y, 3))},
            {d * static_cast<float>(s0), d * static_cast<float>(s1)},
            0.0f};
  }
  static __device__ __forceinline__ float value(const std::uint8_t* tile, int row, int col) {
    const Lane lanes[1] = {load(tile, row, col / 32)};
    const WeightBlock b = unpack(lanes, col / 32);
    const int i = col % 32;
    std::uint32_t word = 0;
#pragma unroll
    for (int j = 0; j < 8; j++) word = i / 4 == j ? b.q[j] : word;
    return (i < 16 ? b.scale[0] : b.scale[1]) * static_cast<float>(static_cast<std::int8_t>(word >> (i % 4 * 8)));
  }
};

}  // namespace imp
