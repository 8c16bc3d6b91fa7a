// TQ2_0: two bits a code. w = d * (q - 1).
#pragma once
#include "imp/layout/ternary.h"

namespace imp {

// Two words: bits 2k, 2k + 1 of all their bytes are the codes 8k to 8k + 7.
template <TileShape T>
struct Tq2Blocks {
  static constexpr int kFactor = 64;
  static constexpr int kBytes = T.rows * (T.cols / 4);
  using Loaded = uint2;
  template <class Memory>
  static __device__ __forceinline__ Loaded load(const std::uint8_t* tile, int row, int block) {
    return Memory::load8(tile + row * (T.cols / 4) + block * 8);
  }
  // Codes stay where they are, 4^k times too large.
  static __device__ __forceinline__ int dot(const Loaded& w, const uint4& low, const uint4& high, int start) {
    const int q0 = dp4a(w.y & 0x03030303u, low.y, dp4a(w.x & 0x03030303u, low.x, 0));
    const int q1 = dp4a(w.y & 0x0c0c0c0cu, low.w, dp4a(w.x & 0x0c0c0c0cu, low.z, q0 * 4));
    const int q2 = dp4a(w.y & 0x30303030u, high.y, dp4a(w.x & 0x30303030u, high.x, q1 * 4));
    return dp4a_unsigned(w.y & 0xc0c0c0c0u, high.w, dp4a_unsigned(w.x & 0xc0c0c0c0u, high.z, q2 * 4 + start));
  }
  static __device__ __forceinline__ WordsOf32 words(const Loaded& w) {
    constexpr std::uint32_t kCode = 0x03030303u;
    return {{w.x & kCode, w.y & kCode, (w.x >> 2) & kCode, (w.y >> 2) & kCode, (w.x >> 4) & kCode, (w.y >> 4) & kCode,
             (w.x >> 6) & kCode, (w.y >> 6) & kCode}};
  }
};

template <TileShape T>
using TQ2_0 = TernaryTile<T, Tq2Blocks<T>>;

}  // namespace imp
