// IQ2_S: points of eight weights out of 1024, a scale of four bits per 16. w = d * (2 s + 1) / 8 * number.
#pragma once
#include "imp/layout/iq2.h"

namespace imp {

__device__ const std::uint32_t iq2_s_points[1024] = {
#include "imp/layout/points_iq2_s.inc"
};

// Two words and two bytes: three codes of ten bits and two bits of the fourth; the signs; its other eight bits; the scales.
template <TileShape T>
struct Iq2SBlocks {
  static constexpr float kStep = 0.125f;
  static constexpr int kRest = T.rows * (T.cols / 4);
  static constexpr int kBytes = kRest + T.rows * (T.cols / 16);
  struct Loaded {
    uint2 codes;
    std::uint16_t rest;
  };
  template <class Memory>
  static __device__ __forceinline__ Loaded load(const std::uint8_t* tile, int row, int block) {
    const auto* rest = reinterpret_cast<const std::uint16_t*>(tile + kRest) + row * (T.cols / 32);
    return {Memory::load8(tile + row * (T.cols / 4) + block * 8), rest[block]};
  }
  static __device__ __forceinline__ WordsOf32 words(const Loaded& w) {
    const std::uint32_t c = w.codes.x;
    const uint4 codes{c & 1023u, c >> 10 & 1023u, c >> 20 & 1023u, c >> 30 | (w.rest & 255u) << 2};
    return iq2_words(look_up(iq2_s_points, codes), w.codes.y);
  }
  static __device__ __forceinline__ int first_scale(const Loaded& w) { return (w.rest >> 7 & 31) | 1; }
  static __device__ __forceinline__ int second_scale(const Loaded& w) { return w.rest >> 11 | 1; }
};

template <TileShape T>
using IQ2_S = GridTile<T, Iq2SBlocks<T>>;

}  // namespace imp
