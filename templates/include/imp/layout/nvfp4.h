// NVFP4: blocks of 16 four-bit codes, twice an e2m1 each, with an e4m3 scale, and a factor. w = factor * (s / 2 * values[q]).
#pragma once
#include "imp/layout/table16.h"

namespace imp {

template <TileShape T, int... Values>
struct NVFP4 {
  using Table = Table16<Values...>;
  static constexpr TileShape kTile = T;
  static constexpr bool kInteger = true;
  static constexpr int kVector = 32;  // two blocks: 16 bytes
  static constexpr int kRowBytes = T.cols / 2;
  static constexpr int kScales = T.rows * kRowBytes;
  static constexpr int kFactors = kScales + round_up(T.rows * T.cols / 16, 16);
  static constexpr int kTileBytes = kFactors + round_up(T.rows * 4, 16);
  static_assert(T.cols % 32 == 0, "a lane takes two blocks of 16 weights");

  struct Lane {
    uint4 codes;
    std::uint16_t scales;
    float factor;
  };
  struct Input {
    uint4 low;
    uint4 high;
    float d128;  // 128 times the scale
  };

  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    const auto* scales = reinterpret_cast<const std::uint16_t*>(tile + kScales) + row * (T.cols / 32);
    const auto* factors = reinterpret_cast<const float*>(tile + kFactors);
    return {Memory::load16(tile + row * kRowBytes + vector * 16), scales[vector], factors[row]};
  }
  // Both scales / 256: the bits of an e4m3 are those of such a half, seven places lower.
  static __device__ __forceinline__ std::uint32_t halfs256(std::uint16_t scales) {
    return byte_permute(scales, 0, 0x4140) << 7;
  }
  static __device__ __forceinline__ Input input(const Q8Activations& x, int vector) {
    return {x.chunk(vector * 2), x.chunk(vector * 2 + 1), bits_to_float(x.scales[vector].x) * 128.0f};
  }
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int, float before) {
    const auto low = static_cast<float>(Table::dot16(w.codes.x, w.codes.y, in.low));
    const auto high = static_cast<float>(Table::dot16(w.codes.z, w.codes.w, in.high));
    const float2 s = half2_to_float2(halfs256(w.scales));
    return fma(fma(s.y, high, s.x * low), in.d128 * w.factor, before);
  }

  // Block `half` of two.
  static __device__ __forceinline__ HalfPairs halfs(const Lane (&w)[1], int, int half) {
    const float2 both = half2_to_float2(halfs256(w[0].scales));
    const std::uint32_t s = twice((half == 0 ? both.x : both.y) * (128.0f * w[0].factor));
    return Table::words(w[0].codes).template halfs<128>(half, [&](std::uint32_t pair) { return half2_multiply(pair, s); });
  }
  // The scales of block `vector`, which is even, and of the next, for products on FP4 tensor cores; and the row's factor.
  static __device__ __forceinline__ std::uint32_t four_scales(const std::uint8_t* tile, int row, int vector) {
    return *reinterpret_cast<const std::uint32_t*>(tile + kScales + row * (T.cols / 16) + vector * 2);
  }
  static __device__ __forceinline__ float factor(const std::uint8_t* tile, int row) {
    return reinterpret_cast<const float*>(tile + kFactors)[row];
  }
  static __device__ __forceinline__ float value(const std::uint8_t* tile, int row, int col) {
    const Lane lane = load(tile, row, col / 32);
    const float2 s = half2_to_float2(halfs256(lane.scales));
    const auto number = static_cast<float>(Table::value(tile + row * kRowBytes, col));
    return (col % 32 < 16 ? s.x : s.y) * 128.0f * number * lane.factor;
  }
};

}  // namespace imp
