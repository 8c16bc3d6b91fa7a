// F16: IEEE binary16.
#pragma once
#include "imp/layout/dense.h"

namespace imp {

struct ConvertF16 {
  static __device__ __forceinline__ float2 pair(std::uint32_t bits) { return half2_to_float2(bits); }
  // Of four values 0 to 3, the halfs of 0 and 2 and of 1 and 3.
  static __device__ __forceinline__ void halfs(std::uint32_t first, std::uint32_t second, std::uint32_t& even,
                                               std::uint32_t& odd) {
    even = byte_permute(first, second, 0x5410);
    odd = byte_permute(first, second, 0x7632);
  }
};

template <TileShape T>
struct F16 : Dense16<T, ConvertF16> {
  static constexpr int kTerms = 2;
};

}  // namespace imp
