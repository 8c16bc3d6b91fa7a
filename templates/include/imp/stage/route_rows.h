// Which experts each row of a step goes to; a warp chooses those of a row.
#pragma once
#include "imp/stage/route.h"
#include "imp/stage/rows.h"

namespace imp {

template <RouteConfig C, int Warps>
struct RouteRows {
  static constexpr int kThreads = Warps * kWarp;
  static constexpr int kSharedBytes = 0;
  struct Args {
    const float* logits;  // [rows][experts + others]
    float* route;         // [rows][2 used]: the numbers of a row's experts, and behind them their shares
    const StepHeader* step;
    const float* correction = nullptr;  // [experts]
    const float* scales = nullptr;      // [experts]
  };
  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    grid_wait();
    const int row = block_index() * Warps + warp_index();
    if (row >= a.step->rows) return;
    const Routed routed = choose_experts<C>(a.logits + row * (C.experts + C.others), a.correction, a.scales);
    if (lane_index() >= C.used) return;
    float* route = a.route + row * 2 * C.used + lane_index();
    route[0] = static_cast<float>(routed.expert);
    route[C.used] = routed.share;
  }
};

}  // namespace imp
