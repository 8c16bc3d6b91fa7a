// Which experts a token goes to: those with the largest of a router's logits. A warp knows them, one a lane.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

struct RouteConfig {
  int experts;
  int others;      // logits behind theirs
  int used;        // of them
  bool normalise;  // shares of those chosen add up to one, else of all
};

// Lane i holds the i-th of them, largest first and of equals the lower number, and its share; lanes behind them zeros.
struct Routed {
  int expert = 0;
  float share = 0;
};

// A number's place among floats: greater for greater ones, with one zero; 0 is that of no number.
__device__ __forceinline__ std::uint32_t order_of(float value) {
  const std::uint32_t bits = float_to_bits(value + 0.0f);
  const std::uint32_t order = bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
  return order > 0 ? order : 1;
}
__device__ __forceinline__ float value_of(std::uint32_t order) {
  return bits_to_float(order ^ (order >> 31 != 0 ? 0x80000000u : 0xffffffffu));
}

// A warp's choice by logits [experts].
template <RouteConfig C>
__device__ __forceinline__ Routed choose_experts(const float* logits) {
  static_assert(0 < C.used && C.used <= C.experts && C.used <= kWarp, "a lane holds one of the experts chosen");
  constexpr int kEach = ceil_div(C.experts, kWarp);
  std::uint32_t order[kEach];
#pragma unroll
  for (int i = 0; i < kEach; i++) {
    const int expert = i * kWarp + lane_index();
    order[i] = expert < C.experts ? order_of(logits[expert]) : 0;
  }
  Routed found;
  float largest = 0;
  float weight = 0;
  float all = 0;
#pragma unroll 1
  for (int n = 0; n < C.used; n++) {
    std::uint32_t best = 0;
    std::uint32_t last = 0;  // what its number leaves of the largest, so that the lowest number has most
#pragma unroll
    for (int i = kEach - 1; i >= 0; i--) {
      if (order[i] < best) continue;
      best = order[i];
      last = 0xffffffffu - static_cast<std::uint32_t>(i * kWarp + lane_index());
    }
    const std::uint32_t most = warp_max(best);
    const int expert = static_cast<int>(0xffffffffu - warp_max(best == most ? last : 0));
    if (n == 0) {
      largest = value_of(most);
#pragma unroll
      for (int i = 0; i < kEach; i++) {
        if (!C.normalise && order[i] > 0) all += exp_fast(value_of(order[i]) - largest);
      }
    }
    if (n == lane_index()) {
      found.expert = expert;
      weight = exp_fast(value_of(most) - largest);
    }
#pragma unroll
    for (int i = 0; i < kEach; i++) order[i] = i * kWarp + lane_index() == expert ? 0 : order[i];
  }
  found.share = divide_fast(weight, warp_sum(C.normalise ? weight : all));
  return found;
}

}  // namespace imp
