// Q2_K: superblocks of 256 two-bit codes, a scale and a minimum of four bits per 16. w = (d * s) * q - dmin * m.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

template <TileShape T>
struct Q2_K {
  static constexpr TileShape kTile = T;
  static constexpr bool kInteger = true;
  static constexpr int kVector = 32;  // two words
  static constexpr int kScales = T.rows * (T.cols / 4);
  static constexpr int kD = kScales + T.rows * (T.cols / 16);
  static constexpr int kTileBytes = round_up(kD + T.rows * (T.cols / 256) * 4, 16);
  static_assert(T.cols % 256 == 0, "Q2_K has superblocks of 256 weights");

  struct Lane {
    uint2 codes;
    std::uint16_t scales;  // s1 | s0 << 4 | m0 << 8 | m1 << 12: of the first half and of the second
    std::uint32_t d;       // d | dmin << 16
  };
  struct Input {
    uint4 low;
    uint4 high;
    float d64;    // scale / 64
    float d4096;  // scale / 4096
    int sum_low;  // sixteen times that of the first half's activations
    int sum_high;
  };

  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    const auto* scales = reinterpret_cast<const std::uint16_t*>(tile + kScales) + row * (T.cols / 32);
    const auto* d = reinterpret_cast<const std::uint32_t*>(tile + kD) + row * (T.cols / 256);
    return {Memory::load8(tile + row * (T.cols / 4) + vector * 8), scales[vector], d[group_of<8>(vector)]};
  }
  static __device__ __forceinline__ Input input(const Q8Activations& x, int vector) {
    const uint2 scale = x.scales[vector];
    const float d = bits_to_float(scale.x);
    return {x.chunk(vector * 2),   x.chunk(vector * 2 + 1), d * (1.0f / 64.0f),
            d * (1.0f / 4096.0f), 16 * low_sum(scale.y),    high_sum(scale.y)};
  }
  // Bits 2k, 2k + 1 of all bytes of both words are the codes 8k to 8k + 7. They stay where they are, 4^k times too large.
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int, float before) {
    const std::uint32_t a = w.codes.x, b = w.codes.y;
    const int q0 = dp4a(b & 0x03030303u, in.low.y, dp4a(a & 0x03030303u, in.low.x, 0));
    const int q1 = dp4a(b & 0x0c0c0c0cu, in.low.w, dp4a(a & 0x0c0c0c0cu, in.low.z, 0));
    const int q2 = dp4a(b & 0x30303030u, in.high.y, dp4a(a & 0x30303030u, in.high.x, 0));
    const int q3 = dp4a_unsigned(b & 0xc0c0c0c0u, in.high.w, dp4a_unsigned(a & 0xc0c0c0c0u, in.high.z, 0));
    const int s = w.scales;
    // Scales and minima stay where they are, too: 64 times what the codes make, and 4096 times what the minima do. One is
    // below 2^24, the other a multiple of 4096, both exact as floats.
    const int codes = (q0 * 4 + q1) * (s & 0xf0) + (q2 * 4 + q3) * (s & 0x0f);
    const int minima = in.sum_low * (s & 0xf00) + in.sum_high * (s & 0xf000);
    const float2 d = half2_to_float2(w.d);
    return fma(d.x * in.d64, static_cast<float>(codes), fma(-(d.y * in.d4096), static_cast<float>(minima), before));
  }

  static __device__ __forceinline__ WordsOf32 words(const Lane& w) {
    constexpr std::uint32_t kCode = 0x03030303u;
    const std::uint32_t a = w.codes.x, b = w.codes.y;
    return {{a & kCode, b & kCode, (a >> 2) & kCode, (b >> 2) & kCode, (a >> 4) & kCode, (b >> 4) & kCode,
             (a >> 6) & kCode, (b >> 6) & kCode}};
  }
  static __device__ __forceinline__ int scale_number(const Lane& w, int half) { return w.scales >> (4 - 4 * half) & 15; }
  struct Scale {
    float scale;
    float offset;
  };
  static __device__ __forceinline__ Scale scale_of(const Lane& w, int half) {
    const float2 d = half2_to_float2(w.d);
    return {d.x * static_cast<float>(scale_number(w, half)), d.y * static_cast<float>(w.scales >> (8 + 4 * half) & 15)};
  }
  // Half `half` of a block. The scale times the code is a whole number: only the offset and the result are rounded.
  static __device__ __forceinline__ HalfPairs halfs(const Lane (&w)[1], int, int half) {
    const std::uint32_t s = twice(static_cast<float>(scale_number(w[0], half)));
    const std::uint32_t d = byte_permute(w[0].d, 0, 0x1010);
    const std::uint32_t offset = twice(-scale_of(w[0], half).offset);
    return words(w[0]).template halfs<0>(half, [&](std::uint32_t pair) {
      return half2_fma(half2_multiply(pair, s), d, offset);
    });
  }
  static __device__ __forceinline__ float value(const std::uint8_t* tile, int row, int col) {
    const Lane lane = load(tile, row, col / 32);
    const Scale s = scale_of(lane, col % 32 / 16);
    return s.scale * static_cast<float>(words(lane).code(col % 32)) - s.offset;
  }
};

}  // namespace imp
