// IQ1_S: a scale of three bits per 32, and whether its weights are an eighth less or more. w = d * (2 s + 1) / 8 * number.
#pragma once
#include "imp/layout/iq1.h"

namespace imp {

// A word and a half: the codes, above them whether less, and the scale.
template <TileShape T>
struct Iq1SBlocks {
  static constexpr float kStep = 0.125f;
  static constexpr int kRest = T.rows * (T.cols / 8);
  static constexpr int kBytes = kRest + T.rows * (T.cols / 16);
  struct Loaded {
    std::uint32_t codes;
    std::uint16_t rest;
  };
  template <class Memory>
  static __device__ __forceinline__ Loaded load(const std::uint8_t* tile, int row, int block) {
    const auto* codes = reinterpret_cast<const std::uint32_t*>(tile) + row * (T.cols / 32);
    const auto* rest = reinterpret_cast<const std::uint16_t*>(tile + kRest) + row * (T.cols / 32);
    return {codes[block], rest[block]};
  }
  static __device__ __forceinline__ WordsOf32 words(const Loaded& w) {
    const std::uint32_t less = (w.rest >> 12 & 1u) * 0x44444444u;
    const uint4 points = iq1_points_of(w.codes, w.rest);
    return Iq1Points::words({points.x | less, points.y | less, points.z | less, points.w | less});
  }
  static __device__ __forceinline__ int first_scale(const Loaded& w) { return w.rest >> 12 | 1; }
  static __device__ __forceinline__ int second_scale(const Loaded& w) { return first_scale(w); }
};

template <TileShape T>
using IQ1_S = GridTile<T, Iq1SBlocks<T>>;

}  // namespace imp
