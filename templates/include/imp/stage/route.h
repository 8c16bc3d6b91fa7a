// Which experts a token goes to: those with the largest of a router's logits. A warp knows them, one a lane.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

struct RouteConfig {
  int experts;
  int others;      // logits behind theirs
  int used;        // of them
  bool normalise;  // shares of those chosen add up to one, else of all
  bool sigmoid = false;  // scores are that of each logit, not the softmax of all
  int groups = 1;        // of neighbours,
  int groups_used = 1;   // of which the best are chosen from
  float scale = 1.0f;    // of shares
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

// A logit's score by itself.
__device__ __forceinline__ float sigmoid_of(float logit) { return divide_fast(1.0f, 1.0f + exp_fast(-logit)); }

// Of the experts' places those of the best groups, and 0 of the others: a group is as good as its best expert, or with a
// sigmoid its best two together. Lane l has the experts l, l + 32, ...
template <RouteConfig C, int Each>
__device__ __forceinline__ void keep_groups(std::uint32_t (&order)[Each]) {
  constexpr int kSize = C.experts / C.groups;
  static_assert(C.groups <= kWarp && C.experts % C.groups == 0, "a lane holds what one group is worth");
  std::uint32_t worth = 0;
#pragma unroll 1
  for (int g = 0; g < C.groups; g++) {
    std::uint32_t best = 0;
    std::uint32_t second = 0;
#pragma unroll
    for (int i = 0; i < Each; i++) {
      if ((i * kWarp + lane_index()) / kSize != g || order[i] <= second) continue;
      second = order[i] > best ? best : order[i];
      best = order[i] > best ? order[i] : best;
    }
    const std::uint32_t most = warp_max(best);
    if constexpr (C.sigmoid) {
      const auto lane = static_cast<std::uint32_t>(lane_index());
      const bool first = lane == warp_max(best == most ? lane : 0u);  // of several the last
      const std::uint32_t next = warp_max(first ? second : best);
      if (lane_index() == g) worth = order_of(value_of(most) + value_of(next));
    } else if (lane_index() == g) {
      worth = most;
    }
  }
  std::uint32_t kept = 0;
#pragma unroll 1
  for (int n = 0; n < C.groups_used; n++) {
    const std::uint32_t most = warp_max(worth);
    const auto last = static_cast<std::uint32_t>(kWarp - 1 - lane_index());
    const int group = kWarp - 1 - static_cast<int>(warp_max(worth == most ? last : 0u));
    kept |= 1u << group;
    if (lane_index() == group) worth = 0;
  }
#pragma unroll
  for (int i = 0; i < Each; i++) {
    const int expert = i * kWarp + lane_index();
    if (expert < C.experts && (kept >> expert / kSize & 1) == 0) order[i] = 0;
  }
}

// A warp's choice by logits [experts]. `correction` [experts] is added to scores while it chooses, `scales` [experts] multiply
// shares; null: nothing.
template <RouteConfig C>
__device__ __forceinline__ Routed choose_experts(const float* logits, const float* correction, const float* scales) {
  static_assert(0 < C.used && C.used <= C.experts && C.used <= kWarp, "a lane holds one of the experts chosen");
  constexpr int kEach = ceil_div(C.experts, kWarp);
  std::uint32_t order[kEach];
#pragma unroll
  for (int i = 0; i < kEach; i++) {
    const int expert = i * kWarp + lane_index();
    order[i] = 0;
    if (expert >= C.experts) continue;
    if constexpr (C.sigmoid) {
      order[i] = order_of(sigmoid_of(logits[expert]) + (correction != nullptr ? correction[expert] : 0));
    } else {
      order[i] = order_of(logits[expert]);
    }
  }
  float largest = 0;
  float all = 0;
  if constexpr (!C.sigmoid) {
    std::uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < kEach; i++) most = order[i] > most ? order[i] : most;
    largest = value_of(warp_max(most));
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      if (!C.normalise && order[i] > 0) all += exp_fast(value_of(order[i]) - largest);
    }
  }
  if constexpr (C.groups > 1) keep_groups<C>(order);
  Routed found;
  float weight = 0;
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
    if (n == lane_index()) {
      found.expert = expert;
      weight = C.sigmoid ? sigmoid_of(logits[expert]) : exp_fast(value_of(most) - largest);
    }
#pragma unroll
    for (int i = 0; i < kEach; i++) order[i] = i * kWarp + lane_index() == expert ? 0 : order[i];
  }
  const float sum = C.sigmoid && !C.normalise ? 1.0f : warp_sum(C.normalise ? weight : all);
  found.share = divide_fast(weight, sum) * C.scale * (scales != nullptr ? scales[found.expert] : 1.0f);
  return found;
}

// A CTA's first warp leaves it in memory, [2][used]: experts, shares.
template <RouteConfig C>
__device__ __forceinline__ void store_route(const Routed& routed, float* route) {
  if (thread_index() >= C.used) return;
  route[thread_index()] = static_cast<float>(routed.expert);
  route[C.used + thread_index()] = routed.share;
}

}  // namespace imp
