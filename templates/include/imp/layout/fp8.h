// FP8: e4m3 codes, a float32 scale per 128, the last of a row for fewer. They are halfs, and read halfs.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

template <TileShape T>
struct FP8 {
  static constexpr TileShape kTile = T;
  static constexpr bool kInteger = false;
  static constexpr bool kReadsHalfs = true;
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
    uint4 low;
    uint4 high;
    float scale;
  };

  static __device__ __forceinline__ float scale(const std::uint8_t* tile, int row, int vector) {
    return reinterpret_cast<const float*>(tile + kScales)[row * kGroups + group_of<8>(vector)];
  }
  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    return {Memory::load16(tile + row * T.cols + vector * kVector), scale(tile, row, vector)};
  }
  static __device__ __forceinline__ Input input(const HalfActivations& x, int vector) {
    return {x.chunk(vector * 2), x.chunk(vector * 2 + 1), x.scales[group_of<8>(vector)]};
  }
  // Sums of eight products are halfs: no number is larger than 448 here and 8 there. Rounding them leaves more than of int8
  // activations; as floats they would take twice the time.
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int, float before) {
    std::uint32_t sums = half2_multiply(first_pair(w.codes.x), in.low.x);
    sums = half2_fma(second_pair(w.codes.x), in.low.y, sums);
    sums = half2_fma(first_pair(w.codes.y), in.low.z, sums);
    sums = half2_fma(second_pair(w.codes.y), in.low.w, sums);
    sums = half2_fma(first_pair(w.codes.z), in.high.x, sums);
    sums = half2_fma(second_pair(w.codes.z), in.high.y, sums);
    sums = half2_fma(first_pair(w.codes.w), in.high.z, sums);
    sums = half2_fma(second_pair(w.codes.w), in.high.w, sums);
    const float2 both = half2_to_float2(sums);
    return fma(w.scale * in.scale, both.x + both.y, before);
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
    return scale(tile, row, col / kVector) * half_to_float(static_cast<std::uint16_t>(pair));
  }

 private:
  static __device__ __forceinline__ std::uint32_t first_pair(std::uint32_t codes) {
    return e4m3x2_to_half2(static_cast<std::uint16_t>(codes));
  }
  static __device__ __forceinline__ std::uint32_t second_pair(std::uint32_t codes) { return first_pair(codes >> 16); }
};

}  // namespace imp
