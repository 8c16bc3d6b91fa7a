// Q4_0: blocks of 32 four-bit codes with one f16 scale. w = d * (q + First).
#pragma once
#include "imp/layout/four_bits.h"

namespace imp {

template <TileShape T, int First>
struct Q4_0 {
  static constexpr TileShape kTile = T;
  static constexpr bool kInteger = true;
  static constexpr int kVector = 32;  // one block: 16 bytes
  static constexpr int kRowBytes = T.cols / 2;
  static constexpr int kScales = T.rows * kRowBytes;
  static constexpr int kTileBytes = round_up(kScales + T.rows * T.cols / 16, 16);
  static_assert(T.cols % 32 == 0, "Q4_0 has blocks of 32 weights");
  static_assert(First <= 0 && First > -64, "codes begin with a number that bytes can be lessened by");

  struct Lane {
    uint4 codes;
    std::uint16_t d;
  };
  struct Input {
    uint4 low;
    uint4 high;
    float d16;   // scale / 16
    int first16;  // what 16 * First adds
  };

  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    const auto* d = reinterpret_cast<const std::uint16_t*>(tile + kScales) + row * (T.cols / 32);
    return {Memory::load16(tile + row * kRowBytes + vector * 16), d[vector]};
  }
  static __device__ __forceinline__ Input input(const Q8Activations& x, int vector) {
    const uint2 scale = x.scales[vector];
    return {x.chunk(vector * 2), x.chunk(vector * 2 + 1), bits_to_float(scale.x) * (1.0f / 16.0f),
            16 * First * (low_sum(scale.y) + high_sum(scale.y))};
  }
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int, float before) {
    const int sum16 = FourBits::dot16(w.codes, in.low, in.high, in.first16);
    return fma(static_cast<float>(sum16), half_to_float(w.d) * in.d16, before);
  }

  // Half `half` of a block.
  static __device__ __forceinline__ HalfPairs halfs(const Lane (&w)[1], int, int half) {
    const std::uint32_t d = byte_permute(w[0].d, 0, 0x1010);
    return FourBits::words(w[0].codes).template halfs<-First>(half, [&](std::uint32_t pair) {
      return half2_multiply(pair, d);
    });
  }
  static __device__ __forceinline__ float value(const std::uint8_t* tile, int row, int col) {
    const auto* d = reinterpret_cast<const std::uint16_t*>(tile + kScales) + row * (T.cols / 32);
    const int q = FourBits::code(tile + row * kRowBytes + col / 32 * 16, col % 32);
    return half_to_float(d[col / 32]) * static_cast<float>(q + First);
  }
};

}  // namespace imp
