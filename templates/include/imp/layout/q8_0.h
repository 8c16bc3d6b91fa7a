// Q8_0: blocks of 32 int8 codes with one f16 scale. w = d * q.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

template <TileShape T>
struct Q8_0 {
  static constexpr TileShape kTile = T;
  static constexpr bool kInteger = true;
  static constexpr int kVector = 16;  // weights of one lane's 16-byte load: half a block
  static constexpr int kScales = T.rows * T.cols;
  static constexpr int kTileBytes = round_up(kScales + T.rows * T.cols / 16, 16);
  static_assert(T.cols % 32 == 0, "Q8_0 has blocks of 32 weights");
  static_assert(kScales % 16 == 0, "the scales must begin at a multiple of 16 bytes");

  struct Lane {
    uint4 codes;
    std::uint16_t d;
  };
  struct Input {
    uint4 x;
    float d;
  };

  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    const auto* d = reinterpret_cast<const std::uint16_t*>(tile + kScales) + row * (T.cols / 32);
    return {Memory::load16(tile + row * T.cols + vector * 16), d[group_of<2>(vector)]};
  }
  static __device__ __forceinline__ Input input(const Q8Activations& x, int vector) {
    return {x.chunk(vector), bits_to_float(x.scales[group_of<2>(vector)].x)};
  }
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int, float before) {
    int sum = dp4a(w.codes.x, in.x.x, 0);
    sum = dp4a(w.codes.y, in.x.y, sum);
    sum = dp4a(w.codes.z, in.x.z, sum);
    sum = dp4a(w.codes.w, in.x.w, sum);
    return fma(static_cast<float>(sum), half_to_float(w.d) * in.d, before);
  }

  // Half `half` of a block. The scale is the second lane's in both, so that nobody loads it twice.
  static __device__ __forceinline__ HalfPairs halfs(const Lane (&w)[2], int, int half) {
    const Lane& lane = w[half];
    const std::uint32_t d = byte_permute(w[1].d, 0, 0x1010);
    const std::uint32_t words[4] = {lane.codes.x, lane.codes.y, lane.codes.z, lane.codes.w};
    HalfPairs out;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      out.pairs[2 * i] = half2_multiply(even_halfs<128>(words[i]), d);
      out.pairs[2 * i + 1] = half2_multiply(odd_halfs<128>(words[i]), d);
    }
    return out;
  }
  static __device__ __forceinline__ float value(const std::uint8_t* tile, int row, int col) {
    const auto* d = reinterpret_cast<const std::uint16_t*>(tile + kScales) + row * (T.cols / 32);
    return half_to_float(d[col / 32]) * static_cast<float>(static_cast<std::int8_t>(tile[row * T.cols + col]));
  }
};

}  // namespace imp
