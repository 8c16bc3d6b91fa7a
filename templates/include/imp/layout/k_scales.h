// Eight scales and minima of six bits, and what they are multiplied with, in 16 bytes: Q4_K's and Q5_K's.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

struct KScales {
  struct Fields {
    std::uint32_t scale;
    std::uint32_t minimum4;  // 4 * m
  };
  struct Scale {
    float scale;
    float offset;
  };

  // meta = d | dmin << 16; a byte a block, low four bits of its scale and high four of its minimum; the other bits, four a
  // block, the minimum's first.
  static __device__ __forceinline__ Fields fields_of(const uint4& meta, int block) {
    const std::uint32_t byte = byte_permute(meta.y, meta.z, static_cast<std::uint32_t>(block));
    const std::uint32_t rest = rotate_right(meta.w, 4 * block - 2) & 0x3cu;
    return {(byte & 0x0fu) | (rest & ~0x0fu), (byte & 0xf0u) | (rest & ~0xf0u)};
  }
  static __device__ __forceinline__ Scale scale_of(const uint4& meta, int block) {
    const Fields f = fields_of(meta, block);
    const float2 d = half2_to_float2(meta.x);
    return {d.x * static_cast<float>(f.scale), d.y * (0.25f * static_cast<float>(f.minimum4))};
  }
  // Weights as halfs, of codes up to 31. The scale times the code is a whole number below 2^11, which a half holds: so only
  // the offset and the result are rounded.
  static __device__ __forceinline__ HalfPairs halfs(const WordsOf32& codes, const uint4& meta, int block, int half) {
    const Fields f = fields_of(meta, block);
    const std::uint32_t scale = twice(static_cast<float>(f.scale));
    const std::uint32_t d = byte_permute(meta.x, 0, 0x1010);
    const std::uint32_t offset = twice(half2_to_float2(meta.x).y * (-0.25f * static_cast<float>(f.minimum4)));
    return codes.halfs<0>(half, [&](std::uint32_t pair) { return half2_fma(half2_multiply(pair, scale), d, offset); });
  }
};

}  // namespace imp
