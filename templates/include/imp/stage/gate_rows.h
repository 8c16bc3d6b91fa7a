// Of several rows what gates leave of their other factors, and that times what each row counts, if something says so.
#pragma once
#include "imp/layout/tile.h"
#include "imp/stage/elementwise.h"
#include "imp/stage/rows.h"

namespace imp {

struct GateRowsConfig {
  int cols;
  int stride;   // floats from a row's gates to the next one's, and to those of the other factors
  int weights;  // floats from what a row counts to the next one's; 0: nothing says it
  int threads;
};

template <GateRowsConfig C, class F>
struct GateRows {
  static constexpr int kThreads = C.threads;
  static constexpr int kSharedBytes = 0;
  static_assert(C.cols % 4 == 0, "four elements are read at a time");
  struct Args {
    const float* gate;
    const float* up;
    const float* weight;  // its sigmoid is meant; or null
    float* y;             // [rows, cols]
    const StepHeader* step;
  };
  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    grid_wait();
    const std::size_t row = static_cast<std::size_t>(block_index_y());
    const int k = (block_index() * C.threads + thread_index()) * 4;
    if (block_index_y() >= a.step->rows || k >= C.cols) return;
    const float share = C.weights > 0 ? divide_fast(1.0f, 1.0f + exp_fast(-a.weight[row * C.weights])) : 1.0f;
    const float4 g = *reinterpret_cast<const float4*>(a.gate + row * C.stride + k);
    const float4 u = *reinterpret_cast<const float4*>(a.up + row * C.stride + k);
    *reinterpret_cast<float4*>(a.y + row * C.cols + k) =
        make_float4(gated<F>(g.x, u.x) * share, gated<F>(g.y, u.y) * share, gated<F>(g.z, u.z) * share,
                    gated<F>(g.w, u.w) * share);
  }
};

}  // namespace imp
