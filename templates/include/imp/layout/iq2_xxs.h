// IQ2_XXS: points of eight weights out of 256, a scale of four bits per 32. w = d * (2 s + 1) / 8 * number.
#pragma once
#include "imp/layout/iq2.h"

namespace imp {

__device__ const std::uint32_t iq2_xxs_points[256] = {
#include "imp/layout/points_iq2_xxs.inc"
};

// Two words: a byte for each of four points; their signs, and above them the scale.
template <TileShape T>
struct Iq2XxsBlocks {
  static constexpr float kStep = 0.125f;
  static constexpr int kBytes = T.rows * (T.cols / 4);
  using Loaded = uint2;
  template <class Memory>
  static __device__ __forceinline__ Loaded load(const std::uint8_t* tile, int row, int block) {
    return Memory::load8(tile + row * (T.cols / 4) + block * 8);
  }
  static __device__ __forceinline__ WordsOf32 words(const Loaded& w) {
    const uint4 codes{byte_of<0>(w.x), byte_of<1>(w.x), byte_of<2>(w.x), byte_of<3>(w.x)};
    return iq2_words(look_up(iq2_xxs_points, codes), even_signs(w.y));
  }
  static __device__ __forceinline__ int first_scale(const Loaded& w) { return static_cast<int>(w.y >> 27 | 1u); }
  static __device__ __forceinline__ int second_scale(const Loaded& w) { return first_scale(w); }
};

template <TileShape T>
using IQ2_XXS = GridTile<T, Iq2XxsBlocks<T>>;

}  // namespace imp
