// What numbers go through on their way out of a product: a gate's function, the soft cap, the sum with the residual stream.
#pragma once
#include "isa.h"

namespace imp {

struct Silu {
  static __device__ __forceinline__ float of(float x) { return divide_fast(x, 1.0f + exp_fast(-x)); }
};
// x times the share of a normal distribution that is below x.
struct Gelu {
  static __device__ __forceinline__ float of(float x) { return 0.5f * fma(x, erf(x * 0.70710678f), x); }
};
// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), and (1 + tanh(u)) / 2 is 1 / (1 + exp(-2u)).
struct GeluTanh {
  static __device__ __forceinline__ float of(float x) {
    const float twice = x * fma(0.071354816f * x, x, 1.5957691f);
    return divide_fast(x, 1.0f + exp_fast(-twice));
  }
};
// Of gpt-oss: x / (1 + exp(-1.702 x)) of at most 7, times one more than the other factor, which lies within 7 of zero. What
// is no number stays none.
struct ClampedSilu {
  static __device__ __forceinline__ float gated(float gate, float up) {
    gate = gate > 7.0f ? 7.0f : gate;
    up = up > 7.0f ? 7.0f : up < -7.0f ? -7.0f : up;
    return divide_fast(gate, 1.0f + exp_fast(-1.702f * gate)) * (up + 1.0f);
  }
};

// What a gate leaves of the other factor: most functions are of the gate alone.
template <class F>
__device__ __forceinline__ float gated(float gate, float up) {
  if constexpr (requires { F::gated(gate, up); }) {
    return F::gated(gate, up);
  } else {
    return F::of(gate) * up;
  }
}

// cap * tanh(x / cap). What is infinite becomes NaN: a number that means nothing must not look like the cap.
__device__ __forceinline__ float soft_cap(float x, float cap) {
  const float power = exp_fast(x * (2.0f / cap));
  return cap - divide_fast(2.0f * cap, 1.0f + power) + (x - x);
}

// What a residual stream becomes: its old value and `Scale` times what a branch adds.
template <float Scale>
__device__ __forceinline__ float add_scaled(float old, float value) {
  if constexpr (Scale == 1.0f) {
    return old + value;
  } else {
    return fma(Scale, value, old);
  }
}

// What becomes of a row's sum, its bias included: with a scale and a soft cap (0: none), or added to what is there.
template <bool Accumulate, float Scale, float Cap>
__device__ __forceinline__ float leave_product(float value, float old) {
  if constexpr (Accumulate) return add_scaled<Scale>(old, value);
  if constexpr (Scale != 1.0f) value *= Scale;
  if constexpr (Cap > 0) value = soft_cap(value, Cap);
  return value;
}

}  // namespace imp
