// 32 codes of four bits in 16 bytes: byte i holds the codes i and, above, 16 + i.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

struct FourBits {
  static constexpr std::uint32_t kLow = 0x0f0f0f0fu;

  // `start` and sixteen times the product. Upper codes stay where they are, sixteen times too large: shifting them down
  // would cost four instructions.
  static __device__ __forceinline__ int dot16(const uint4& codes, const uint4& x_low, const uint4& x_high, int start) {
    int low = dp4a(codes.x & kLow, x_low.x, 0);
    low = dp4a(codes.y & kLow, x_low.y, low);
    low = dp4a(codes.z & kLow, x_low.z, low);
    low = dp4a(codes.w & kLow, x_low.w, low);
    int high = dp4a_unsigned(codes.x & ~kLow, x_high.x, start);
    high = dp4a_unsigned(codes.y & ~kLow, x_high.y, high);
    high = dp4a_unsigned(codes.z & ~kLow, x_high.z, high);
    high = dp4a_unsigned(codes.w & ~kLow, x_high.w, high);
    return low * 16 + high;
  }
  // The codes as bytes, k ascending.
  static __device__ __forceinline__ WordsOf32 words(const uint4& codes) {
    return {{codes.x & kLow, codes.y & kLow, codes.z & kLow, codes.w & kLow, (codes.x >> 4) & kLow, (codes.y >> 4) & kLow,
             (codes.z >> 4) & kLow, (codes.w >> 4) & kLow}};
  }
  // Code `index` of the 16 bytes.
  static __device__ __forceinline__ int code(const std::uint8_t* bytes, int index) {
    return index < 16 ? bytes[index] & 15 : bytes[index - 16] >> 4;
  }
};

}  // namespace imp
