// IQ3_S: points of four weights out of 512, odd numbers, a scale of four bits per 32. w = d * (2 s + 1) * number.
#pragma once
#include "imp/layout/grid.h"

namespace imp {

__device__ const std::uint32_t iq3_s_points[512] = {
#include "imp/layout/points_iq3_s.inc"
};

// Three words and a byte: three codes of nine bits and five bits of the seventh, three more and five bits of the eighth; the
// signs; the other four bits of both. Then a nibble for each scale.
template <TileShape T>
struct Iq3SBlocks {
  static constexpr float kStep = 1.0f;
  static constexpr int kSigns = T.rows * (T.cols / 4);
  static constexpr int kRest = kSigns + T.rows * (T.cols / 8);
  static constexpr int kScales = kRest + round_up(T.rows * (T.cols / 32), 16);
  static constexpr int kBytes = kScales + round_up(T.rows * (T.cols / 64), 16);
  struct Loaded {
    uint2 codes;
    std::uint32_t signs;
    std::uint8_t rest;
    std::uint8_t scale;
  };
  template <class Memory>
  static __device__ __forceinline__ Loaded load(const std::uint8_t* tile, int row, int block) {
    const auto* signs = reinterpret_cast<const std::uint32_t*>(tile + kSigns) + row * (T.cols / 32);
    const std::uint32_t two = tile[kScales + row * (T.cols / 64) + group_of<2>(block)];
    return {Memory::load8(tile + row * (T.cols / 4) + block * 8), signs[block],
            tile[kRest + row * (T.cols / 32) + block], static_cast<std::uint8_t>(two >> block % 2 * 4 & 15u)};
  }
  // Of odd numbers minus is all bits but the lowest turned.
  template <int K>
  static __device__ __forceinline__ std::uint32_t word(std::uint32_t code, std::uint32_t signs) {
    return load_entry(iq3_s_points, code) ^ (negative<K>(signs) & 0xfefefefeu);
  }
  static __device__ __forceinline__ WordsOf32 words(const Loaded& w) {
    const std::uint32_t a = w.codes.x, b = w.codes.y, rest = w.rest, signs = w.signs;
    return {{word<0>(a & 511u, signs), word<1>(a >> 9 & 511u, signs), word<2>(a >> 18 & 511u, signs),
             word<3>(b & 511u, signs), word<4>(b >> 9 & 511u, signs), word<5>(b >> 18 & 511u, signs),
             word<6>(a >> 27 | (rest & 15u) << 5, signs), word<7>(b >> 27 | (rest >> 4) << 5, signs)}};
  }
  static __device__ __forceinline__ int first_scale(const Loaded& w) { return 2 * w.scale + 1; }
  static __device__ __forceinline__ int second_scale(const Loaded& w) { return first_scale(w); }
};

template <TileShape T>
using IQ3_S = GridTile<T, Iq3SBlocks<T>>;

}  // namespace imp
