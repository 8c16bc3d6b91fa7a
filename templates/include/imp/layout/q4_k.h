// Q4_K: superblocks of 256 = 8 blocks of 32 four-bit codes, 6-bit scales and minima. w = (d * sc) * q - dmin * m.
#pragma once
#include "imp/layout/four_bits.h"
#include "imp/layout/k_scales.h"

namespace imp {

template <TileShape T>
struct Q4_K {
  static constexpr TileShape kTile = T;
  static constexpr bool kInteger = true;
  static constexpr int kVector = 32;  // one block: 16 bytes
  static constexpr int kRowBytes = T.cols / 2;
  static constexpr int kMeta = T.rows * kRowBytes;
  static constexpr int kTileBytes = kMeta + T.rows * (T.cols / 256) * 16;
  static_assert(T.cols % 256 == 0, "Q4_K has superblocks of 256 weights");

  struct Lane {
    uint4 codes;
    uint4 meta;
  };
  struct Input {
    uint4 low;
    uint4 high;
    float d16;   // scale / 16
    float sum4;  // of the 32 activations, / 4
  };
  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    const auto* meta = reinterpret_cast<const uint4*>(tile + kMeta) + row * (T.cols / 256);
    return {Memory::load16(tile + row * kRowBytes + vector * 16), meta[group_of<8>(vector)]};
  }
  static __device__ __forceinline__ Input input(const Q8Activations& x, int vector) {
    const uint2 scale = x.scales[vector];
    const float d = bits_to_float(scale.x);
    return {x.chunk(vector * 2), x.chunk(vector * 2 + 1), d * (1.0f / 16.0f),
            d * (0.25f * static_cast<float>(low_sum(scale.y) + high_sum(scale.y)))};
  }
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int vector, float before) {
    const KScales::Fields f = KScales::fields_of(w.meta, vector & 7);
    const float2 d = half2_to_float2(w.meta.x);
    // A multiple of 16 below 2^26: exact as a float.
    const auto sum16 = static_cast<float>(FourBits::dot16(w.codes, in.low, in.high, 0) * static_cast<int>(f.scale));
    return fma(in.d16, d.x * sum16, fma(-in.sum4, d.y * static_cast<float>(f.minimum4), before));
  }

  // Half `half` of block `index` of a row. The scale times the code is a whole number below 2^11, which a half holds: so
  // only the offset and the result are rounded. Upper nibbles are 16 times too large, which the same operation mends.
  static __device__ __forceinline__ HalfPairs halfs(const Lane (&w)[1], int index, int half) {
    const std::uint32_t nibbles = half == 0 ? 0x000f000fu : 0x00f000f0u;
    const KScales::Fields f = KScales::fields_of(w[0].meta, index & 7);
    const auto scale = static_cast<float>(f.scale);
    const std::uint32_t factor = twice(half == 0 ? scale : scale * (1.0f / 16.0f));
    const std::uint32_t zero = twice(scale * (half == 0 ? -1024.0f : -64.0f));
    const std::uint32_t d = byte_permute(w[0].meta.x, 0, 0x1010);
    const std::uint32_t offset = twice(half2_to_float2(w[0].meta.x).y * (-0.25f * static_cast<float>(f.minimum4)));
    const auto weights = [&](std::uint32_t word) {
      const std::uint32_t codes = and_or(word, nibbles, 0x64006400u);  // 1024 + the code, or + 16 times it
      return half2_fma(half2_fma(codes, factor, zero), d, offset);
    };
    const std::uint32_t words[4] = {w[0].codes.x, w[0].codes.y, w[0].codes.z, w[0].codes.w};
    HalfPairs out;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      out.pairs[2 * i] = weights(words[i]);
      out.pairs[2 * i + 1] = weights(words[i] >> 8);
    }
    return out;
  }
  static __device__ __forceinline__ float value(const std::uint8_t* tile, int row, int col) {
    const int index = col / 32;
    const uint4 meta = (reinterpret_cast<const uint4*>(tile + kMeta) + row * (T.cols / 256))[index >> 3];
    const KScales::Scale s = KScales::scale_of(meta, index & 7);
    const int q = FourBits::code(tile + row * kRowBytes + index * 16, col % 32);
    return s.scale * static_cast<float>(q) - s.offset;
  }
};

}  // namespace imp
