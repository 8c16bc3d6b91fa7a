// The largest of many values and where it is: arg-max with ties to the smaller index. A value that is no finite number
// shows as NaN in the result, however the others compare.
#pragma once
#include "imp/stage/cta.h"

namespace imp {

struct Best {
  float value = -INFINITY;
  std::uint32_t index = 0;

  __device__ __forceinline__ void offer(float v, std::uint32_t i) {
    if (v > value || (v == value && i < index) || v != v) {
      value = v;
      index = i;
    }
  }
  // The same for values offered in ascending order of index, and infinite ones count as NaN.
  __device__ __forceinline__ void offer_next(float v, std::uint32_t i) {
    const float checked = v + (v - v);
    if (checked > value || checked != checked) {
      value = checked;
      index = i;
    }
  }
};

inline constexpr int best_bytes(int warps) { return round_up(warps * 8, 16); }

// The best that any thread of the CTA has; every thread gets it. `shared` holds best_bytes(Warps). Indices are below
// 2^24: exact as floats.
template <int Warps, class Cta = WholeCta>
__device__ __forceinline__ Best cta_best(Best mine, std::uint8_t* shared) {
  auto* values = reinterpret_cast<float*>(shared);
  auto* indices = reinterpret_cast<std::uint32_t*>(shared) + Warps;
  const bool poisoned = ballot(mine.value != mine.value) != 0;
  const float best = warp_max(mine.value);
  const float first = -warp_max(mine.value == best ? -static_cast<float>(mine.index) : -INFINITY);
  Cta::sync();
  if (lane_index() == 0) {
    values[warp_index()] = poisoned ? bits_to_float(0x7fc00000u) : best;
    indices[warp_index()] = poisoned ? 0 : static_cast<std::uint32_t>(first);
  }
  Cta::sync();
  Best result{values[0], indices[0]};
  for (int w = 1; w < Warps; w++) result.offer(values[w], indices[w]);
  return result;
}

}  // namespace imp
