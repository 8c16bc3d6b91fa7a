// TQ1_0: five codes of 0, 1 or 2 a byte. w = d * (q - 1).
#pragma once
#include "imp/layout/ternary.h"

namespace imp {

// Bytes 0 and 2 of a word, fractions of 256: each turn makes them three times as much, and what is then above them is a code.
struct Trits {
  std::uint32_t left;
  __device__ __forceinline__ std::uint32_t next() {
    const std::uint32_t product = (left & 0x00ff00ffu) * 3u;
    left = product;
    return product;  // the codes are its bytes 1 and 3
  }
};

// A word with 20 codes, two bytes with ten, a nibble with two.
template <TileShape T>
struct Tq1Blocks {
  static constexpr int kFactor = 1;
  static constexpr int kHalves = T.rows * (T.cols / 8);
  static constexpr int kNibbles = kHalves + T.rows * (T.cols / 16);
  static constexpr int kBytes = kNibbles + round_up(T.rows * (T.cols / 64), 16);
  struct Loaded {
    std::uint32_t word;
    std::uint16_t half;
    std::uint8_t nibble;
  };
  template <class Memory>
  static __device__ __forceinline__ Loaded load(const std::uint8_t* tile, int row, int block) {
    const auto* words = reinterpret_cast<const std::uint32_t*>(tile) + row * (T.cols / 32);
    const auto* halves = reinterpret_cast<const std::uint16_t*>(tile + kHalves) + row * (T.cols / 32);
    const std::uint32_t two = tile[kNibbles + row * (T.cols / 64) + group_of<2>(block)];
    return {words[block], halves[block], static_cast<std::uint8_t>(two >> block % 2 * 4 & 15u)};
  }
  static __device__ __forceinline__ WordsOf32 words(const Loaded& w) {
    WordsOf32 out;
    Trits even{w.word}, odd{w.word >> 8}, pair{byte_permute(w.half, 0, 0x4140)};
#pragma unroll
    for (int n = 0; n < 5; n++) {
      const std::uint32_t first = even.next();
      out.q[n] = byte_permute(first, odd.next(), 0x7351);
    }
#pragma unroll
    for (int n = 5; n < 7; n++) {
      const std::uint32_t first = pair.next();
      out.q[n] = byte_permute(first, pair.next(), 0x7531);
    }
    const std::uint32_t third = w.nibble * 11u >> 5;  // of nine numbers
    out.q[7] = byte_permute(pair.next(), third | (w.nibble - 3u * third) << 8, 0x5431);
    return out;
  }
  static __device__ __forceinline__ int dot(const Loaded& w, const uint4& low, const uint4& high, int start) {
    const WordsOf32 q = words(w);
    const int first = dp4a(q.q[3], low.w, dp4a(q.q[2], low.z, dp4a(q.q[1], low.y, dp4a(q.q[0], low.x, start))));
    return dp4a(q.q[7], high.w, dp4a(q.q[6], high.z, dp4a(q.q[5], high.y, dp4a(q.q[4], high.x, first))));
  }
};

template <TileShape T>
using TQ1_0 = TernaryTile<T, Tq1Blocks<T>>;

}  // namespace imp
