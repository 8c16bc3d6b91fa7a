// Arithmetic that is one instruction on the GPU, and number formats. Halfs and bfloats travel as bit patterns.
#pragma once

#include <cstdint>

namespace imp {

__device__ __forceinline__ float bits_to_float(std::uint32_t bits) { return __uint_as_float(bits); }
__device__ __forceinline__ std::uint32_t float_to_bits(float x) { return __float_as_uint(x); }

// c + the dot product of four s8 pairs.
__device__ __forceinline__ int dp4a(std::uint32_t a, std::uint32_t b, int c) {
  return __dp4a(static_cast<int>(a), static_cast<int>(b), c);
}
// The same with bytes of `a` from 0 to 255.
__device__ __forceinline__ int dp4a_unsigned(std::uint32_t a, std::uint32_t b, int c) {
  int d;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
// By the lowest five bits of `by`.
__device__ __forceinline__ std::uint32_t rotate_right(std::uint32_t word, int by) {
  return __funnelshift_r(word, word, static_cast<unsigned>(by));
}
// Byte i of the result is byte s of {b, a} (a = bytes 0-3), s = selector nibble i; its bit 3 spreads the byte's sign.
__device__ __forceinline__ std::uint32_t byte_permute(std::uint32_t a, std::uint32_t b, std::uint32_t selector) {
  std::uint32_t d;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
  return d;
}

// (a & mask) | bits as one instruction: of two constants the compiler keeps none in a register, and makes two.
__device__ __forceinline__ std::uint32_t and_or(std::uint32_t a, std::uint32_t mask, std::uint32_t bits) {
  std::uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(mask), "r"(bits));
  return d;
}

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// Zero instead of what is below 2^-126, which saves three instructions.
__device__ __forceinline__ float exp2_flushed(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float exp_fast(float x) { return exp2_fast(x * 1.4426950408889634f); }
__device__ __forceinline__ float rsqrt_fast(float x) {
  float y;
  asm("rsqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float divide_fast(float a, float b) { return __fdividef(a, b); }
__device__ __forceinline__ float erf(float x) { return ::erff(x); }
__device__ __forceinline__ void sincospi(float x, float& sine, float& cosine) { ::sincospif(x, &sine, &cosine); }
// To nearest, ties to even; saturates; NaN gives 0.
__device__ __forceinline__ int round_int(float x) { return __float2int_rn(x); }

__device__ __forceinline__ float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ float max(float a, float b) { return ::fmaxf(a, b); }
// NaN if one of them is.
__device__ __forceinline__ float max_nan(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
__device__ __forceinline__ float min(float a, float b) { return ::fminf(a, b); }
__device__ __forceinline__ int max(int a, int b) { return a > b ? a : b; }
__device__ __forceinline__ int min(int a, int b) { return a < b ? a : b; }

__device__ __forceinline__ float half_to_float(std::uint16_t bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}
__device__ __forceinline__ std::uint16_t float_to_half(float x) {
  std::uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
__device__ __forceinline__ float2 half2_to_float2(std::uint32_t pair) {
  return make_float2(half_to_float(static_cast<std::uint16_t>(pair)),
                     half_to_float(static_cast<std::uint16_t>(pair >> 16)));
}
__device__ __forceinline__ std::uint32_t floats_to_half2(float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ __forceinline__ std::uint32_t floats_to_bfloat2(float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
// Two e4m3 numbers, which halfs hold exactly.
__device__ __forceinline__ std::uint32_t e4m3x2_to_half2(std::uint16_t pair) {
  std::uint32_t halfs;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halfs) : "h"(pair));
  return halfs;
}

// Pairs of halfs, the lower one in the lower bits; each result is rounded once.
__device__ __forceinline__ std::uint32_t half2_subtract(std::uint32_t a, std::uint32_t b) {
  std::uint32_t d;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
__device__ __forceinline__ std::uint32_t half2_multiply(std::uint32_t a, std::uint32_t b) {
  std::uint32_t d;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
__device__ __forceinline__ std::uint32_t half2_fma(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

}  // namespace imp
