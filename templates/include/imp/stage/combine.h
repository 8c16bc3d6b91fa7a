// What the experts of a row make together: the sum of their results, each times its share, added to the residual stream.
#pragma once
#include "imp/stage/elementwise.h"
#include "imp/stage/rows.h"

namespace imp {

struct CombineConfig {
  int cols;
  int used;      // experts of a row
  int threads;
  float scale = 1.0f;       // of the sum, where it is added
  bool accumulate = false;  // y += instead of y =
};

template <CombineConfig C>
struct CombineRows {
  static constexpr int kThreads = C.threads;
  static constexpr int kSharedBytes = 0;
  static_assert(C.cols % 4 == 0, "a thread takes four columns");

  struct Args {
    const float* x;      // [rows][used][cols]
    const float* route;  // [rows][2 used]: the shares are the second half
    float* y;            // [rows][cols]
    const StepHeader* step;
  };

  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    grid_wait();
    const int row = block_index_y();
    const int col = (block_index() * C.threads + thread_index()) * 4;
    if (row >= a.step->rows || col >= C.cols) return;
    const float* x = a.x + static_cast<std::size_t>(row) * (C.used * C.cols) + col;
    const float* shares = a.route + row * 2 * C.used + C.used;
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int i = 0; i < C.used; i++) {
      const float4 v = *reinterpret_cast<const float4*>(x + i * C.cols);
      const float share = shares[i];
      sum = make_float4(fma(share, v.x, sum.x), fma(share, v.y, sum.y), fma(share, v.z, sum.z), fma(share, v.w, sum.w));
    }
    auto* y = reinterpret_cast<float4*>(a.y + static_cast<std::size_t>(row) * C.cols + col);
    const float4 old = C.accumulate ? *y : make_float4(0, 0, 0, 0);
    *y = make_float4(leave(sum.x, old.x), leave(sum.y, old.y), leave(sum.z, old.z), leave(sum.w, old.w));
  }

 private:
  static __device__ __forceinline__ float leave(float value, float old) {
    return leave_product<C.accumulate, C.scale, 0.0f>(value, old);
  }
};

}  // namespace imp
