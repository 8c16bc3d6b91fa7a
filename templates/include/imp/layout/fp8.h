// FP8: e4m3 codes, a float32 scale per 128, the last of a row for fewer. They read float activations: a code has less than a half, and loses nothing.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

template <TileShape T>
struct FP8 {
  static constexpr TileShape kTile = T;
  static constexpr bool kInteger = false;
  static constexpr int kGroup = 128;  // codes of a scale
  static constexpr int kGroups = ceil_div(T.cols, kGroup);
  static constexpr int kVector = 16;
  static constexpr int kScales = round_up(T.rows * T.cols, 16);
  static constexpr int kTileBytes = kScales + round_up(T.rows * kGroups * 4, 16);
  static_assert(T.cols % 32 == 0, "products take 32 weights of a row");

  struct Lane {
    uint4 codes;
    float scale;
  };
  struct Input {
    float4 x[4];
  };

  static __device__ __forceinline__ float scale(const std::uint8_t* tile, int row, int col) {
    return reinterpret_cast<const float*>(tile + kScales)[row * kGroups + col / kGroup];
  }
  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    return {Memory::load16(tile + row * T.cols + vector * kVector), scale(tile, row, vector * kVector)};
  }
  template <class Floats>
  static __device__ __forceinline__ Input input(const Floats& x, int vector) {
    return {{x.chunk(vector * 4), x.chunk(vector * 4 + 1), x.chunk(vector * 4 + 2), x.chunk(vector * 4 + 3)}};
  }
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int, float before) {
    const std::uint32_t words[4] = {w.codes.x, w.codes.y, w.codes.z, w.codes.w};
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float2 a = half2_to_float2(e4m3x2_to_half2(static_cast<std::uint16_t>(words[i])));
      const float2 b = half2_to_float2(e4m3x2_to_half2(static_cast<std::uint16_t>(words[i] >> 16)));
      sum = fma(a.x, in.x[i].x, sum);
      sum = fma(a.y, in.x[i].y, sum);
      sum = fma(b.x, in.x[i].z, sum);
      sum = fma(b.y, in.x[i].w, sum);
    }
    return fma(w.scale, sum, before);
  }
  // Half `half` of 32 weights. Scales may be small halfs or none: they are taken 2^8 times as large, and what a half does
  // not hold of one is multiplied, too.
  static __device__ __forceinline__ HalfPairs halfs(const Lane (&w)[2], int, int half) {
    const Lane& lane = w[half];
    const float scale = lane.scale * 256.0f;
    const std::uint32_t high = twice(scale);
    const std::uint32_t low = twice(scale - half_to_float(static_cast<std::uint16_t>(high)));
    const auto weights = [&](std::uint32_t codes) {
      const std::uint32_t small = half2_multiply(e4m3x2_to_half2(static_cast<std::uint16_t>(codes)), 0x1c001c00u);
      return half2_fma(small, high, half2_multiply(small, low));
    };
    const std::uint32_t words[4] = {lane.codes.x, lane.codes.y, lane.codes.z, lane.codes.w};
    HalfPairs out;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      out.pairs[2 * i] = weights(byte_permute(words[i], 0, 0x4420));
      out.pairs[2 * i + 1] = weights(byte_permute(words[i], 0, 0x4431));
    }
    return out;
  }
  static __device__ __forceinline__ float value(const std::uint8_t* tile, int row, int col) {
    const std::uint32_t pair = e4m3x2_to_half2(tile[row * T.cols + col]);
    return scale(tile, row, col) * half_to_float(static_cast<std::uint16_t>(pair));
  }
};

}  // namespace imp
