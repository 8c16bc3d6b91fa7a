// Q5_K: superblocks of 256 = 8 blocks of 32 five-bit codes, 6-bit scales and minima. w = (d * sc) * q - dmin * m.
#pragma once
#include "imp/layout/five_bits.h"
#include "imp/layout/k_scales.h"

namespace imp {

template <TileShape T>
struct Q5_K {
  static constexpr TileShape kTile = T;
  static constexpr bool kInteger = true;
  static constexpr int kVector = 32;  // five words
  static constexpr int kRest = T.rows * (T.cols / 2);
  static constexpr int kMeta = kRest + T.rows * (T.cols / 8);
  static constexpr int kTileBytes = kMeta + T.rows * (T.cols / 256) * 16;
  static_assert(T.cols % 256 == 0, "Q5_K has superblocks of 256 weights");

  struct Lane {
    uint4 first;
    std::uint32_t rest;
    uint4 meta;
    __device__ __forceinline__ FiveBits codes() const { return FiveBits(first, rest); }
  };
  struct Input {
    uint4 low;
    uint4 high;
    float d8;    // scale / 8
    float sum4;  // of the 32 activations, / 4
  };

  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    const auto* rest = reinterpret_cast<const std::uint32_t*>(tile + kRest) + row * (T.cols / 32);
    const auto* meta = reinterpret_cast<const uint4*>(tile + kMeta) + row * (T.cols / 256);
    return {Memory::load16(tile + row * (T.cols / 2) + vector * 16), rest[vector], meta[group_of<8>(vector)]};
  }
  static __device__ __forceinline__ Input input(const Q8Activations& x, int vector) {
    const uint2 scale = x.scales[vector];
    const float d = bits_to_float(scale.x);
    return {x.chunk(vector * 2), x.chunk(vector * 2 + 1), d * (1.0f / 8.0f),
            d * (0.25f * static_cast<float>(low_sum(scale.y) + high_sum(scale.y)))};
  }
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int vector, float before) {
    const KScales::Fields f = KScales::fields_of(w.meta, vector & 7);
    const float2 d = half2_to_float2(w.meta.x);
    // A multiple of 8 below 2^26: exact as a float.
    const auto sum8 = static_cast<float>(w.codes().dot8(in.low, in.high, 0) * static_cast<int>(f.scale));
    return fma(in.d8, d.x * sum8, fma(-in.sum4, d.y * static_cast<float>(f.minimum4), before));
  }

  // Half `half` of block `index` of a row.
  static __device__ __forceinline__ HalfPairs halfs(const Lane (&w)[1], int index, int half) {
    return KScales::halfs(w[0].codes().words(), w[0].meta, index & 7, half);
  }
  static __device__ __forceinline__ float value(const std::uint8_t* tile, int row, int col) {
    const Lane lane = load(tile, row, col / 32);
    const KScales::Scale s = KScales::scale_of(lane.meta, col / 32 & 7);
    return s.scale * static_cast<float>(lane.codes().words().code(col % 32)) - s.offset;
  }
};

}  // namespace imp
