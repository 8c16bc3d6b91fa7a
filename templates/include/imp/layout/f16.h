// F16: IEEE binary16.
#pragma once
#include "imp/layout/dense.h"

namespace imp {

struct ConvertF16 {
  static __device__ __forceinline__ float2 pair(std::uint32_t bits) { return half2_to_float2(bits); }
};

template <TileShape T>
struct F16 : Dense16<T, ConvertF16> {
  static constexpr int kTerms = 2;
};

}  // namespace imp
