// BF16: the upper half of a binary32.
#pragma once
#include "imp/layout/dense.h"

namespace imp {

struct ConvertBf16 {
  static __device__ __forceinline__ float2 pair(std::uint32_t bits) {
    return make_float2(bits_to_float(bits << 16), bits_to_float(bits & 0xffff0000u));
  }
  // Of four values 0 to 3, the halfs of 0 and 2 and of 1 and 3.
  static __device__ __forceinline__ void halfs(std::uint32_t first, std::uint32_t second, std::uint32_t& even,
                                               std::uint32_t& odd) {
    even = floats_to_half2(pair(first).x, pair(second).x);
    odd = floats_to_half2(pair(first).y, pair(second).y);
  }
};

template <TileShape T>
struct BF16 : Dense16<T, ConvertBf16> {
  static constexpr int kTerms = 1;
};

}  // namespace imp
