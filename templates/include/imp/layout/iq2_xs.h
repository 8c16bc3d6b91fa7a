// IQ2_XS: points of eight weights out of 512, a scale of four bits per 16. w = d * (2 s + 1) / 8 * number.
#pragma once
#include "imp/layout/iq2.h"

namespace imp {

__device__ const std::uint32_t iq2_xs_points[512] = {
#include "imp/layout/points_iq2_xs.inc"
};

// Two words and a byte: three codes of nine bits and five bits of the fourth; the signs, and above them its other four; the
// scales.
template <TileShape T>
struct Iq2XsBlocks {
  static constexpr float kStep = 0.125f;
  static constexpr int kScales = T.rows * (T.cols / 4);
  static constexpr int kBytes = kScales + round_up(T.rows * (T.cols / 32), 16);
  struct Loaded {
    uint2 codes;
    std::uint8_t scales;
  };
  template <class Memory>
  static __device__ __forceinline__ Loaded load(const std::uint8_t* tile, int row, int block) {
    return {Memory::load8(tile + row * (T.cols / 4) + block * 8), tile[kScales + row * (T.cols / 32) + block]};
  }
  static __device__ __forceinline__ WordsOf32 words(const Loaded& w) {
    const std::uint32_t c = w.codes.x, signs = w.codes.y;
    const uint4 codes{c & 511u, c >> 9 & 511u, c >> 18 & 511u, c >> 27 | (signs >> 28) << 5};
    return iq2_words(look_up(iq2_xs_points, codes), even_signs(signs));
  }
  static __device__ __forceinline__ int first_scale(const Loaded& w) { return (w.scales << 1 & 31) | 1; }
  static __device__ __forceinline__ int second_scale(const Loaded& w) { return w.scales >> 3 | 1; }
};

template <TileShape T>
using IQ2_XS = GridTile<T, Iq2XsBlocks<T>>;

}  // namespace imp
