// Activations as int8 codes with a scale per 32: what both encoders, of one vector and of a chunk, make of a block.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

// Eight lanes hold a block, four neighbouring values each. Codes are rounded to even from value * 127 / largest.
struct Q8Block {
  std::uint32_t codes;  // this lane's four
  float largest;        // magnitude, NaN if a value is; the scale is a 127th of it
  std::uint32_t sums;   // of the codes of both halves, as int16; in the first lane

  static __device__ __forceinline__ Q8Block encode(float4 v) {
    // What is no finite number has the code 0: the scale must not forget it.
    const float peak = group_max<8>(max_nan(max_nan(fabsf(v.x), fabsf(v.y)), max_nan(fabsf(v.z), fabsf(v.w))));
    const float largest = peak <= 1e-30f ? 0.0f : peak;  // below, 127 / peak would overflow
    const float inverse = largest > 0 ? divide_fast(127.0f, largest) : 0.0f;
    const int a = round_int(v.x * inverse);
    const int b = round_int(v.y * inverse);
    const int c = round_int(v.z * inverse);
    const int d = round_int(v.w * inverse);
    const int half_sum = group_sum<4>(a + b + c + d);
    const int other = shuffle_xor(half_sum, 4);
    return {(static_cast<std::uint32_t>(a) & 255u) | (static_cast<std::uint32_t>(b) & 255u) << 8 |
                (static_cast<std::uint32_t>(c) & 255u) << 16 | static_cast<std::uint32_t>(d) << 24,
            largest, (static_cast<std::uint32_t>(half_sum) & 0xffffu) | static_cast<std::uint32_t>(other) << 16};
  }

  // As activations are read: the scale, times what else the sums are to be multiplied with, and the sums.
  __device__ __forceinline__ uint2 scale(float factor = 1.0f) const {
    return make_uint2(float_to_bits(largest * (1.0f / 127.0f) * factor), sums);
  }

  // This lane's four, from column k on, of a vector as matrices read it.
  __device__ __forceinline__ void store(int k, std::uint8_t* to, uint2* scales) const {
    *reinterpret_cast<std::uint32_t*>(to + swizzle_chunk(k / 16) * 16 + k % 16) = codes;
    if (lane_index() % 8 == 0) scales[k / 32] = scale();
  }
};

// So many bytes a vector's codes take, behind which its scales lie: a swizzle moves a chunk within 128 codes.
constexpr int q8_codes(int cols) { return round_up(cols, 128); }
constexpr int q8_scales(int cols) { return round_up(cols / 4, 16); }

}  // namespace imp
