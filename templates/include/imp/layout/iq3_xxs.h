// IQ3_XXS: points of four weights out of 256, a scale of four bits per 32. w = d * (2 s + 1) / 4 * number.
#pragma once
#include "imp/layout/grid.h"

namespace imp {

__device__ const std::uint32_t iq3_xxs_points[256] = {
#include "imp/layout/points_iq3_xxs.inc"
};

// Three words: a byte for each of eight points; the signs, and above them the scale.
template <TileShape T>
struct Iq3XxsBlocks {
  static constexpr float kStep = 0.25f;
  static constexpr int kSigns = T.rows * (T.cols / 4);
  static constexpr int kBytes = kSigns + T.rows * (T.cols / 8);
  struct Loaded {
    uint2 codes;
    std::uint32_t signs;
  };
  template <class Memory>
  static __device__ __forceinline__ Loaded load(const std::uint8_t* tile, int row, int block) {
    const auto* signs = reinterpret_cast<const std::uint32_t*>(tile + kSigns) + row * (T.cols / 32);
    return {Memory::load8(tile + row * (T.cols / 4) + block * 8), signs[block]};
  }
  // Minus a byte is its complement plus one, and no complement is 255.
  template <int K>
  static __device__ __forceinline__ std::uint32_t word(std::uint32_t code, std::uint32_t signs) {
    const std::uint32_t minus = negative<K>(signs);
    return (load_entry(iq3_xxs_points, code) ^ minus) + (minus & 0x01010101u);
  }
  static __device__ __forceinline__ WordsOf32 words(const Loaded& w) {
    const std::uint32_t a = w.codes.x, b = w.codes.y, signs = even_signs(w.signs);
    return {{word<0>(byte_of<0>(a), signs), word<1>(byte_of<1>(a), signs), word<2>(byte_of<2>(a), signs),
             word<3>(byte_of<3>(a), signs), word<4>(byte_of<0>(b), signs), word<5>(byte_of<1>(b), signs),
             word<6>(byte_of<2>(b), signs), word<7>(byte_of<3>(b), signs)}};
  }
  static __device__ __forceinline__ int first_scale(const Loaded& w) { return static_cast<int>(w.signs >> 27 | 1u); }
  static __device__ __forceinline__ int second_scale(const Loaded& w) { return first_scale(w); }
};

template <TileShape T>
using IQ3_XXS = GridTile<T, Iq3XxsBlocks<T>>;

}  // namespace imp
