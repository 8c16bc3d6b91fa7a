// Vectors that kernels, or the CTAs of one kernel, hand to one another: floats of 31 bits. The lowest bit of a word is free
// for a tag, which tells a reader that polls the word whether it is this step's or an older one.
#pragma once
#include "isa.h"

namespace imp {

// The nearest float whose last bit is zero (ties to even): what is handed on, tagged or not.
__device__ __forceinline__ float untagged(float value) {
  const std::uint32_t bits = float_to_bits(value);
  return bits_to_float((bits + ((bits >> 1) & 1u)) & ~1u);
}

// A plain vector, complete before anybody reads it.
struct PlainInput {
  const float* values;
  template <int N>
  __device__ __forceinline__ void read(float4 (&v)[N], const int (&at)[N]) const {
#pragma unroll
    for (int i = 0; i < N; i++) {
      v[i] = at[i] >= 0 ? *reinterpret_cast<const float4*>(values + at[i]) : make_float4(0, 0, 0, 0);
    }
  }
  __device__ __forceinline__ float operator()(int at) const { return values[at]; }
};

}  // namespace imp
