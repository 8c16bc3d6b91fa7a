// Twins of imp/ptx/isa_math.h. The approximate GPU functions are the accurate ones here.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "types.h"

namespace imp {

__forceinline__ float bits_to_float(std::uint32_t bits) { return std::bit_cast<float>(bits); }
__forceinline__ std::uint32_t float_to_bits(float x) { return std::bit_cast<std::uint32_t>(x); }

__forceinline__ int dp4a(std::uint32_t a, std::uint32_t b, int c) {
  int sum = 0;
  for (int i = 0; i < 4; ++i) sum += static_cast<std::int8_t>(a >> 8 * i) * static_cast<std::int8_t>(b >> 8 * i);
  return static_cast<int>(static_cast<std::uint32_t>(c) + static_cast<std::uint32_t>(sum));
}
__forceinline__ int dp4a_unsigned(std::uint32_t a, std::uint32_t b, int c) {
  int sum = 0;
  for (int i = 0; i < 4; ++i) sum += static_cast<std::uint8_t>(a >> 8 * i) * static_cast<std::int8_t>(b >> 8 * i);
  return static_cast<int>(static_cast<std::uint32_t>(c) + static_cast<std::uint32_t>(sum));
}
__forceinline__ std::uint32_t rotate_right(std::uint32_t word, int by) { return std::rotr(word, by & 31); }
__forceinline__ std::uint32_t byte_permute(std::uint32_t a, std::uint32_t b, std::uint32_t selector) {
  const std::uint64_t bytes = static_cast<std::uint64_t>(b) << 32 | a;
  std::uint32_t d = 0;
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t s = selector >> 4 * i & 15;
    std::uint32_t byte = static_cast<std::uint32_t>(bytes >> 8 * (s & 7)) & 255;
    if (s & 8) byte = byte & 128 ? 255 : 0;
    d |= byte << 8 * i;
  }
  return d;
}
__forceinline__ std::uint32_t and_or(std::uint32_t a, std::uint32_t mask, std::uint32_t bits) { return (a & mask) | bits; }

__forceinline__ float exp2_fast(float x) { return ::exp2f(x); }
__forceinline__ float exp2_flushed(float x) {
  const float y = ::exp2f(x);
  return y < 0x1p-126f ? 0.0f : y;
}
__forceinline__ float exp_fast(float x) { return exp2_fast(x * 1.4426950408889634f); }
__forceinline__ float rsqrt_fast(float x) { return 1.0f / ::sqrtf(x); }
__forceinline__ float divide_fast(float a, float b) { return a / b; }
__forceinline__ float erf(float x) { return ::erff(x); }
inline void sincospi(float x, float& sine, float& cosine) {
  const double turn = x - 2.0 * std::nearbyint(x * 0.5);  // exact, in [-1, 1]
  sine = static_cast<float>(std::sin(turn * 3.14159265358979323846));
  cosine = static_cast<float>(std::cos(turn * 3.14159265358979323846));
}
__forceinline__ int round_int(float x) {
  if (x >= 2147483648.0f) return 2147483647;
  if (x <= -2147483648.0f) return -2147483647 - 1;
  return x == x ? static_cast<int>(__builtin_lrintf(x)) : 0;
}

__forceinline__ float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
// A NaN loses against a number, as in the ISA.
__forceinline__ float max(float a, float b) { return a > b || b != b ? a : b; }
__forceinline__ float max_nan(float a, float b) { return a > b || a != a ? a : b; }
__forceinline__ float min(float a, float b) { return a < b || b != b ? a : b; }
__forceinline__ int max(int a, int b) { return a > b ? a : b; }
__forceinline__ int min(int a, int b) { return a < b ? a : b; }

#ifdef __F16C__
namespace sim {
using Halves = short __attribute__((vector_size(16)));
using Floats = float __attribute__((vector_size(16)));
}  // namespace sim
__forceinline__ float half_to_float(std::uint16_t bits) {
  return __builtin_ia32_vcvtph2ps(sim::Halves{static_cast<short>(bits)})[0];
}
__forceinline__ std::uint16_t float_to_half(float x) {
  return x == x ? static_cast<std::uint16_t>(__builtin_ia32_vcvtps2ph(sim::Floats{x}, 0)[0]) : 0x7fff;
}
#else
inline float half_to_float(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000) << 16;
  const std::uint32_t exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent == 31) return bits_to_float(sign | 0x7f800000u | fraction << 13);
  if (exponent) return bits_to_float(sign | (exponent + 112) << 23 | fraction << 13);
  return bits_to_float(sign | float_to_bits(static_cast<float>(fraction) * 0x1p-24f));
}
inline std::uint16_t float_to_half(float x) {
  const std::uint32_t bits = float_to_bits(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7fff;
  if (magnitude >= 0x477ff000) return static_cast<std::uint16_t>(sign | 0x7c00);  // 65520 and more round to infinity
  if (magnitude < 0x38800000) {
    // Below 2^-14 halfs are multiples of 2^-24: adding 0.5 makes that the float's last bit, and rounds.
    return static_cast<std::uint16_t>(sign | (float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000));
  }
  const std::uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return static_cast<std::uint16_t>(sign | ((rounded >> 13) - (112u << 10)));
}
#endif
__forceinline__ float2 half2_to_float2(std::uint32_t pair) {
  return {half_to_float(static_cast<std::uint16_t>(pair)), half_to_float(static_cast<std::uint16_t>(pair >> 16))};
}
__forceinline__ std::uint32_t floats_to_half2(float low, float high) {
  return float_to_half(low) | static_cast<std::uint32_t>(float_to_half(high)) << 16;
}
namespace sim {
__forceinline__ std::uint32_t float_to_bfloat(float x) {
  const std::uint32_t bits = float_to_bits(x);
  return x == x ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fff;
}
}  // namespace sim
__forceinline__ std::uint32_t floats_to_bfloat2(float low, float high) {
  return sim::float_to_bfloat(low) | sim::float_to_bfloat(high) << 16;
}

namespace sim {
// Exponent and mantissa moved to where a half has them: 2^8 too small.
__forceinline__ std::uint32_t e4m3_to_half(std::uint32_t code) {
  if ((code & 0x7f) == 0x7f) return 0x7fff;
  const std::uint32_t small = (code & 0x80) << 8 | (code & 0x7f) << 7;
  return float_to_half(half_to_float(static_cast<std::uint16_t>(small)) * 256.0f);
}
}  // namespace sim
__forceinline__ std::uint32_t e4m3x2_to_half2(std::uint16_t pair) {
  return sim::e4m3_to_half(pair & 0xff) | sim::e4m3_to_half(pair >> 8) << 16;
}

namespace sim {

// The half next to value + rest, rest being too small for a double to show: by way of a float whose last bit says that
// something was cut off.
inline std::uint32_t round_half(double value, double rest) {
  float x = static_cast<float>(value);
  const double cut = value - static_cast<double>(x) + rest;
  if (cut != 0 && std::isfinite(cut) && (float_to_bits(x) & 1) == 0) x = std::nextafter(x, cut > 0 ? INFINITY : -INFINITY);
  return float_to_half(x);
}
template <class Function>
__forceinline__ std::uint32_t each_half(Function function) {
  return function(0) | function(16) << 16;
}
__forceinline__ float half_at(std::uint32_t pair, int bit) { return half_to_float(static_cast<std::uint16_t>(pair >> bit)); }

}  // namespace sim

// A float has 24 bits, twice those of a half and two more: rounding a difference or a product twice is rounding it once.
inline std::uint32_t half2_subtract(std::uint32_t a, std::uint32_t b) {
  return sim::each_half([=](int bit) {
    return static_cast<std::uint32_t>(float_to_half(sim::half_at(a, bit) - sim::half_at(b, bit)));
  });
}
inline std::uint32_t half2_multiply(std::uint32_t a, std::uint32_t b) {
  return sim::each_half([=](int bit) {
    return static_cast<std::uint32_t>(float_to_half(sim::half_at(a, bit) * sim::half_at(b, bit)));
  });
}
inline std::uint32_t half2_fma(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  return sim::each_half([=](int bit) {
    const double product = sim::half_at(a, bit) * sim::half_at(b, bit);  // which a float holds
    const double added = sim::half_at(c, bit);
    const double sum = product + added, part = sum - product;  // Knuth's two-sum
    return sim::round_half(sum, (product - (sum - part)) + (added - part));
  });
}

}  // namespace imp
