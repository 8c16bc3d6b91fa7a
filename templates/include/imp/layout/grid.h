// Weights that come as points of a grid: a code says which of a list of points eight weights are, or four, and bits beside it
// their signs. w = d * (2 s + 1) * Step * number, a scale s for 16 or 32, one f16 d for 256.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

// 32 signs, where the g-th eight have bit g of each nibble, and of their last the file has none, since an even number of eight
// are negative: the upper four bits are something else.
__device__ __forceinline__ std::uint32_t even_signs(std::uint32_t word) {
  const std::uint32_t given = word & 0x0fffffffu;
  std::uint32_t sum = given ^ (given << 16);
  sum ^= sum << 8;
  sum ^= sum << 4;
  return given | (sum & 0xf0000000u);
}
template <int I>
__device__ __forceinline__ std::uint32_t byte_of(std::uint32_t word) {
  return byte_permute(word, 0, 0x4440 + I);
}
__device__ __forceinline__ uint4 look_up(const std::uint32_t* points, const uint4& codes) {
  return {load_entry(points, codes.x), load_entry(points, codes.y), load_entry(points, codes.z),
          load_entry(points, codes.w)};
}
template <int Count>
__device__ __forceinline__ std::uint32_t shift_left(std::uint32_t word) {
  return Count < 0 ? word >> (-Count & 31) : word << (Count & 31);
}

// Points of eight: a word with a nibble for each weight that selects one of eight numbers.
template <int... Numbers>
struct PointsOf8 {
  static_assert(sizeof...(Numbers) == 8, "a nibble selects one of eight");
  static constexpr int kNumbers[] = {Numbers...};
  static constexpr std::uint32_t word(int first) {
    std::uint32_t bytes = 0;
    for (int i = 0; i < 4; i++) bytes |= (static_cast<std::uint32_t>(kNumbers[first + i]) & 255u) << 8 * i;
    return bytes;
  }
  // The second four numbers for those weights whose bit is set in the G-th bits of the nibbles of `signs`.
  template <int G>
  static __device__ __forceinline__ std::uint32_t turned(std::uint32_t point, std::uint32_t signs) {
    return point | (shift_left<2 - G>(signs) & 0x44444444u);
  }
  static __device__ __forceinline__ WordsOf32 words(const uint4& points) {
    constexpr std::uint32_t second = word(4);
    const std::uint32_t first = lane_constant(word(0));
    const auto bytes = [&](std::uint32_t selector) { return byte_permute(first, second, selector); };
    return {{bytes(points.x), bytes(points.x >> 16), bytes(points.y), bytes(points.y >> 16), bytes(points.z),
             bytes(points.z >> 16), bytes(points.w), bytes(points.w >> 16)}};
  }
};

// Points of four, whose weights are bytes: of word K of a block those that are negative as 0xff, the others as 0. Nibble
// 2 j + K % 2 of `signs` has the bit of byte j.
template <int K>
__device__ __forceinline__ std::uint32_t negative(std::uint32_t signs) {
  return byte_permute(signs << (7 - K / 2 - 4 * (K % 2)), 0, 0xba98);
}

// Tiles of `Blocks` of 32 weights, which say how those lie, all d behind them: Loaded, kBytes, load(tile, row, block), their
// words and first_scale and second_scale, 2 s + 1 of each half.
template <TileShape T, class Blocks>
struct GridTile {
  static constexpr TileShape kTile = T;
  static constexpr bool kInteger = true;
  static constexpr int kVector = 32;
  static constexpr int kD = Blocks::kBytes;
  static constexpr int kTileBytes = kD + round_up(T.rows * (T.cols / 256) * 2, 16);
  static_assert(T.cols % 256 == 0, "there are superblocks of 256 weights");
  static_assert(kD % 16 == 0, "sections begin at multiples of 16");

  struct Lane {
    typename Blocks::Loaded block;
    std::uint16_t d;
  };
  struct Input {
    uint4 low;
    uint4 high;
    float d;  // the scale, times the blocks' step
  };

  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    const auto* d = reinterpret_cast<const std::uint16_t*>(tile + kD) + row * (T.cols / 256);
    return {Blocks::template load<Memory>(tile, row, vector), d[group_of<8>(vector)]};
  }
  static __device__ __forceinline__ Input input(const Q8Activations& x, int vector) {
    return {x.chunk(vector * 2), x.chunk(vector * 2 + 1), bits_to_float(x.scales[vector].x) * Blocks::kStep};
  }
  static __device__ __forceinline__ int dot16(const std::uint32_t* q, const uint4& x) {
    return dp4a(q[3], x.w, dp4a(q[2], x.z, dp4a(q[1], x.y, dp4a(q[0], x.x, 0))));
  }
  // Sums of 16 times a scale are below 2^23: both together are exact as a float.
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int, float before) {
    const WordsOf32 q = Blocks::words(w.block);
    const int low = dot16(q.q, in.low) * Blocks::first_scale(w.block);
    const int high = dot16(q.q + 4, in.high) * Blocks::second_scale(w.block);
    return fma(static_cast<float>(low + high), half_to_float(w.d) * in.d, before);
  }

  static __device__ __forceinline__ int scale(const Lane& w, int half) {
    return half == 0 ? Blocks::first_scale(w.block) : Blocks::second_scale(w.block);
  }
  // Half `half` of a block. A scale times a number is below 2^11, which a half holds: so only the weight is rounded.
  static __device__ __forceinline__ HalfPairs halfs(const Lane (&w)[1], int, int half) {
    const std::uint32_t s = twice(static_cast<float>(scale(w[0], half)) * Blocks::kStep);
    const std::uint32_t d = byte_permute(w[0].d, 0, 0x1010);
    return Blocks::words(w[0].block).template halfs<128>(half, [&](std::uint32_t pair) {
      return half2_multiply(half2_multiply(pair, s), d);
    });
  }
  static __device__ __forceinline__ float value(const std::uint8_t* tile, int row, int col) {
    const Lane lane = load(tile, row, col / 32);
    const int number = static_cast<std::int8_t>(Blocks::words(lane.block).code(col % 32));
    const float s = static_cast<float>(scale(lane, col % 32 / 16)) * Blocks::kStep;
    return half_to_float(lane.d) * s * static_cast<float>(number);
  }
};

}  // namespace imp
