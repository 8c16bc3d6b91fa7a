// IQ1_M: a scale of three bits per 16, and for each eight whether they are an eighth less or more. w = d * (2 s + 1) / 8 * number.
#pragma once
#include "imp/layout/iq1.h"

namespace imp {

// A word, a half and a byte: the codes, above them whether less; the scales.
template <TileShape T>
struct Iq1MBlocks {
  static constexpr float kStep = 0.125f;
  static constexpr int kRest = T.rows * (T.cols / 8);
  static constexpr int kScales = kRest + T.rows * (T.cols / 16);
  static constexpr int kBytes = kScales + round_up(T.rows * (T.cols / 32), 16);
  struct Loaded {
    std::uint32_t codes;
    std::uint16_t rest;
    std::uint8_t scales;
  };
  template <class Memory>
  static __device__ __forceinline__ Loaded load(const std::uint8_t* tile, int row, int block) {
    const auto* codes = reinterpret_cast<const std::uint32_t*>(tile) + row * (T.cols / 32);
    const auto* rest = reinterpret_cast<const std::uint16_t*>(tile + kRest) + row * (T.cols / 32);
    return {codes[block], rest[block], tile[kScales + row * (T.cols / 32) + block]};
  }
  template <int G>
  static __device__ __forceinline__ std::uint32_t less(std::uint32_t rest) {
    return (rest >> (12 + G) & 1u) * 0x44444444u;
  }
  static __device__ __forceinline__ WordsOf32 words(const Loaded& w) {
    const uint4 points = iq1_points_of(w.codes, w.rest);
    return Iq1Points::words({points.x | less<0>(w.rest), points.y | less<1>(w.rest), points.z | less<2>(w.rest),
                             points.w | less<3>(w.rest)});
  }
  static __device__ __forceinline__ int first_scale(const Loaded& w) { return (w.scales << 1 & 15) | 1; }
  static __device__ __forceinline__ int second_scale(const Loaded& w) { return w.scales >> 3 | 1; }
};

template <TileShape T>
using IQ1_M = GridTile<T, Iq1MBlocks<T>>;

}  // namespace imp
