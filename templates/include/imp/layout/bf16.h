// BF16: the upper half of a binary32.
#pragma once
#include "imp/layout/dense.h"

namespace imp {

struct ConvertBf16 {
  static __device__ __forceinline__ float2 pair(std::uint32_t bits) {
    return make_float2(bits_to_float(bits << 16), bits_to_float(bits & 0xffff0000u));
  }
};

template <TileShape T>
struct BF16 : Dense16<T, ConvertBf16> {
  static constexpr int kTerms = 1;
};

}  // namespace imp
