// Plain values, row after row: what F32, F16 and BF16 share. They read float activations: no weight bit is lost.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

template <TileShape T, int Bytes>
struct DenseTile {
  static constexpr TileShape kTile = T;
  static constexpr bool kInteger = false;
  static constexpr int kVector = 16 / Bytes;  // weights of one 16-byte load
  static constexpr int kTileBytes = round_up(T.rows * T.cols * Bytes, 16);
  static_assert(T.cols % kVector == 0, "a row must consist of 16-byte vectors");
  using Lane = uint4;
  struct Input {
    float4 x[kVector / 4];
  };

  static __device__ __forceinline__ const std::uint8_t* at(const std::uint8_t* tile, int row, int col) {
    return tile + (row * T.cols + col) * Bytes;
  }
  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    return Memory::load16(at(tile, row, vector * kVector));
  }
};

template <TileShape T, class Convert>
struct Dense16 : DenseTile<T, 2> {
  using Base = DenseTile<T, 2>;
  using typename Base::Input;
  using typename Base::Lane;

  template <class Floats>
  static __device__ __forceinline__ Input input(const Floats& x, int vector) {
    return {{x.chunk(vector * 2), x.chunk(vector * 2 + 1)}};
  }
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int, float before) {
    const float2 a = Convert::pair(w.x);
    const float2 b = Convert::pair(w.y);
    const float2 c = Convert::pair(w.z);
    const float2 d = Convert::pair(w.w);
    float sum = a.x * in.x[0].x;
    sum = fma(a.y, in.x[0].y, sum);
    sum = fma(b.x, in.x[0].z, sum);
    sum = fma(b.y, in.x[0].w, sum);
    sum = fma(c.x, in.x[1].x, sum);
    sum = fma(c.y, in.x[1].y, sum);
    sum = fma(d.x, in.x[1].z, sum);
    return before + fma(d.y, in.x[1].w, sum);
  }
  static __device__ __forceinline__ void unpack(const Lane& w, float (&values)[8]) {
    const std::uint32_t words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float2 pair = Convert::pair(words[i]);
      values[2 * i] = pair.x;
      values[2 * i + 1] = pair.y;
    }
  }
  // Half `half` of 32 weights.
  static __device__ __forceinline__ HalfPairs halfs(const Lane (&w)[4], int, int half) {
    HalfPairs out;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const Lane& lane = w[2 * half + i];
      Convert::halfs(lane.x, lane.y, out.pairs[4 * i], out.pairs[4 * i + 1]);
      Convert::halfs(lane.z, lane.w, out.pairs[4 * i + 2], out.pairs[4 * i + 3]);
    }
    return out;
  }
  static __device__ __forceinline__ float value(const std::uint8_t* tile, int row, int col) {
    return Convert::pair(*reinterpret_cast<const std::uint16_t*>(Base::at(tile, row, col))).x;
  }
};

}  // namespace imp
