// Activations as halfs with a scale per 128: what an encoder makes of a block.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

// A warp holds a block, four neighbouring values a lane. Its largest value becomes 8: eight of them times e4m3's largest,
// 448, add up to what a half holds.
struct HalfBlock {
  uint2 halfs;  // this lane's four
  float scale;  // no finite number if a value is none

  static __device__ __forceinline__ HalfBlock encode(float4 v) {
    const float peak = warp_max(max_nan(max_nan(fabsf(v.x), fabsf(v.y)), max_nan(fabsf(v.z), fabsf(v.w))));
    const float largest = peak <= 1e-30f ? 0.0f : peak;  // below, 8 / peak would overflow
    const float inverse = largest > 0 ? divide_fast(8.0f, largest) : 0.0f;
    return {make_uint2(floats_to_half2(v.x * inverse, v.y * inverse), floats_to_half2(v.z * inverse, v.w * inverse)),
            largest * (1.0f / 8.0f)};
  }
};

}  // namespace imp
