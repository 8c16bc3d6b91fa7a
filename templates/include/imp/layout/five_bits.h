// 32 codes of five bits in five words. Bytes of the words hold 20 codes in their lower five bits, and in the other three the
// remaining twelve: three bits of each in a, c or e, two in b or d (layouts/_five_bits.py).
#pragma once
#include "imp/layout/tile.h"

namespace imp {

struct FiveBits {
  std::uint32_t low[5];   // codes 0 to 19
  std::uint32_t high[3];  // the others, eight times too large, as fewest instructions make them

  __device__ __forceinline__ FiveBits(const uint4& w, std::uint32_t e)
      : low{w.x & 0x1f1f1f1fu, w.y & 0x1f1f1f1fu, w.z & 0x1f1f1f1fu, w.w & 0x1f1f1f1fu, e & 0x1f1f1f1fu},
        high{((w.x >> 2) & 0x38383838u) | (w.y & 0xc0c0c0c0u), ((w.z >> 2) & 0x38383838u) | (w.w & 0xc0c0c0c0u),
             ((e >> 2) & 0x38383838u)} {
    high[2] |= (w.y << 1) & 0x40404040u;
    high[2] |= (w.w << 2) & 0x80808080u;
  }

  // `start` and eight times the product.
  __device__ __forceinline__ int dot8(const uint4& x_low, const uint4& x_high, int start) const {
    int sum = dp4a(low[0], x_low.x, 0);
    sum = dp4a(low[1], x_low.y, sum);
    sum = dp4a(low[2], x_low.z, sum);
    sum = dp4a(low[3], x_low.w, sum);
    sum = dp4a(low[4], x_high.x, sum);
    int sum8 = dp4a_unsigned(high[0], x_high.y, start);
    sum8 = dp4a_unsigned(high[1], x_high.z, sum8);
    sum8 = dp4a_unsigned(high[2], x_high.w, sum8);
    return sum * 8 + sum8;
  }
  // The codes as bytes, k ascending.
  __device__ __forceinline__ WordsOf32 words() const {
    constexpr std::uint32_t kCode = 0x1f1f1f1fu;
    return {{low[0], low[1], low[2], low[3], low[4], (high[0] >> 3) & kCode, (high[1] >> 3) & kCode,
             (high[2] >> 3) & kCode}};
  }
};

}  // namespace imp
