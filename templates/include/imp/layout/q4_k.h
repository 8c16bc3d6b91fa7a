// Q4_K: superblocks of 256 = 8 blocks of 32 four-bit codes, 6-bit scales and minima. w = (d * sc) * q - dmin * m.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

template <TileShape T>
struct Q4_K {
  static constexpr TileShape kTile = T;
  static constexpr bool kInteger = true;
  static constexpr int kScaleGroup = 32;
  static constexpr bool kOffset = true;
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

  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    const auto* meta = reinterpret_cast<const uint4*>(tile + kMeta) + row * (T.cols / 256);
    return {Memory::load16(tile + row * kRowBytes + vector * 16), meta[vector >> 3]};
  }
  static __device__ __forceinline__ Input input(const Q8Activations& x, int vector) {
    const uint2 scale = x.scales[vector];
    const float d = bits_to_float(scale.x);
    return {x.chunk(vector * 2), x.chunk(vector * 2 + 1), d * (1.0f / 16.0f),
            d * (0.25f * static_cast<float>(low_sum(scale.y) + high_sum(scale.y)))};
  }
  // Upper nibbles stay where they are, sixteen times too large: shifting them down would cost four instructions.
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int vector, float before) {
    constexpr std::uint32_t kNibbles = 0x0f0f0f0fu;
    int low = dp4a(w.codes.x & kNibbles, in.low.x, 0);
    low = dp4a(w.codes.y & kNibbles, in.low.y, low);
    low = dp4a(w.codes.z & kNibbles, in.low.z, low);
    low = dp4a(w.codes.w & kNibbles, in.low.w, low);
    int high = dp4a_unsigned(w.codes.x & ~kNibbles, in.high.x, 0);
    high = dp4a_unsigned(w.codes.y & ~kNibbles, in.high.y, high);
    high = dp4a_unsigned(w.codes.z & ~kNibbles, in.high.z, high);
    high = dp4a_unsigned(w.codes.w & ~kNibbles, in.high.w, high);
    const Fields f = fields_of(w.meta, vector & 7);
    const float2 d = half2_to_float2(w.meta.x);
    // A multiple of 16 below 2^26: exact as a float.
    const auto sum16 = static_cast<float>((low * 16 + high) * static_cast<int>(f.scale));
    return fma(in.d16, d.x * sum16, fma(-in.sum4, d.y * static_cast<float>(f.minimum4), before));
  }

  // Block `index` of a row.
  static __device__ __forceinline__ WeightBlock unpack(const Lane (&w)[1], int index) {
    constexpr std::uint32_t kNibbles = 0x0f0f0f0fu;
    const uint4 q = w[0].codes;
    const Scale s = scale_of(w[0].meta, index & 7);
    return {{q.x & kNibbles, q.y & kNibbles, q.z & kNibbles, q.w & kNibbles, (q.x >> 4) & kNibbles,
             (q.y >> 4) & kNibbles, (q.z >> 4) & kNibbles, (q.w >> 4) & kNibbles},
            {s.scale, s.scale},
            s.offset};
  }
  // Half `half` of block `index` of a row. The scale times the code is a whole number below 2^11, which a half holds: so
  // only the offset and the result are rounded. Upper nibbles are 16 times too large, which the same operation mends.
  static __device__ __forceinline__ HalfPairs halfs(const Lane (&w)[1], int index, int half) {
    const std::uint32_t nibbles = half == 0 ? 0x000f000fu : 0x00f000f0u;
    const Fields f = fields_of(w[0].meta, index & 7);
    const auto scale = static_cast<float>(f.scale);
    const std::uint32_t factor = twice(half == 0 ? scale : scale * (1.0f / 16.0f));
    const std::uint32_t zero = twice(scale * (half == 0 ? -1024.0f : -64.0f));
    const std::uint32_t d = byte_permute(w[0].meta.x, 0, 0x1010);
    const std::uint32_t offset = twice(half2_to_float2(w[0].meta.x).y * (-0.25f * static_cast<float>(f.minimum4)));
    const auto weights = [&](std::uint32_t word) {
      const std::uint32_t codes = (word & nibbles) | 0x64006400u;  // 1024 + the code, or + 16 times it
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
    const Scale s = scale_of(meta, index & 7);
    const std::uint8_t byte = tile[row * kRowBytes + index * 16 + col % 16];
    const int q = (col % 32 < 16) ? byte & 15 : byte >> 4;
    return s.scale * static_cast<float>(q) - s.offset;
  }
};

}  // namespace imp
