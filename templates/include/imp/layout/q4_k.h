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
    float d;
    float sum;  // of the 32 activations
  };
  struct Scale {
    float scale;
    float offset;
  };

  // meta = d | dmin << 16, then 8 bytes of low bits, then 4 bits a block of high bits.
  static __device__ __forceinline__ Scale scale_of(const uint4& meta, int block) {
    const std::uint32_t bytes = (block & 4) ? meta.z : meta.y;
    const std::uint32_t low = bytes >> ((block & 3) * 8);
    const std::uint32_t high = meta.w >> (block * 4);
    const float2 d = half2_to_float2(meta.x);
    const int scale = static_cast<int>((low & 15u) | ((high & 3u) << 4));
    const int minimum = static_cast<int>(((low >> 4) & 15u) | ((high & 12u) << 2));
    return {d.x * static_cast<float>(scale), d.y * static_cast<float>(minimum)};
  }

  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    const auto* meta = reinterpret_cast<const uint4*>(tile + kMeta) + row * (T.cols / 256);
    return {Memory::load16(tile + row * kRowBytes + vector * 16), meta[vector >> 3]};
  }
  static __device__ __forceinline__ Input input(const Q8Activations& x, int vector) {
    const uint2 scale = x.scales[vector];
    const float d = bits_to_float(scale.x);
    return {x.chunk(vector * 2), x.chunk(vector * 2 + 1), d,
            d * static_cast<float>(low_sum(scale.y) + high_sum(scale.y))};
  }
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int vector) {
    constexpr std::uint32_t kNibbles = 0x0f0f0f0fu;
    int sum = dp4a(w.codes.x & kNibbles, in.low.x, 0);
    sum = dp4a(w.codes.y & kNibbles, in.low.y, sum);
    sum = dp4a(w.codes.z & kNibbles, in.low.z, sum);
    sum = dp4a(w.codes.w & kNibbles, in.low.w, sum);
    sum = dp4a((w.codes.x >> 4) & kNibbles, in.high.x, sum);
    sum = dp4a((w.codes.y >> 4) & kNibbles, in.high.y, sum);
    sum = dp4a((w.codes.z >> 4) & kNibbles, in.high.z, sum);
    sum = dp4a((w.codes.w >> 4) & kNibbles, in.high.w, sum);
    const Scale s = scale_of(w.meta, vector & 7);
    return static_cast<float>(sum) * (s.scale * in.d) - s.offset * in.sum;
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
