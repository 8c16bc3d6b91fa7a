// The residual stream and what two branches make together, each normed by itself and then their sum. One CTA for each row.
#pragma once
#include "imp/stage/chunk_row.h"
#include "imp/stage/rows.h"

namespace imp {

struct TwoBranchesConfig {
  int cols;
  int warps;
  float first_eps;   // of the first branch's norm,
  float second_eps;  // of the second's,
  float eps;         // and of that of their sum
  bool scaled;       // the new stream is multiplied by a number
  bool one;          // there is one row, and nothing says how many
};

template <TwoBranchesConfig C>
struct TwoBranches {
  static constexpr int kThreads = C.warps * kWarp;
  static constexpr int kSharedBytes = 3 * C.warps * 4;
  using Row = ChunkRow<C.cols, C.warps>;
  static constexpr int kRounds = ceil_div(C.cols, Row::kStride);
  static_assert(C.cols % 4 == 0, "a thread takes four columns");

  struct Args {
    float* stream;        // [rows, cols]
    const float* first;   // [rows, cols]
    const float* second;  // [rows, cols]
    const float* first_norm;
    const float* second_norm;
    const float* norm;
    const float* scale;      // [1], or null
    const StepHeader* step;  // null where there is one row
  };

  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    float4 first_norm[kRounds];
    float4 second_norm[kRounds];
    float4 norm[kRounds];
    load(a.first_norm, first_norm);
    load(a.second_norm, second_norm);
    load(a.norm, norm);
    const float scale = C.scaled ? *a.scale : 1.0f;
    grid_wait();
    if (!C.one && block_index() >= a.step->rows) return;
    const std::size_t row = static_cast<std::size_t>(block_index()) * C.cols;
    auto* const partial = reinterpret_cast<float*>(shared_memory());
    float4 sum[kRounds];
    float4 second[kRounds];
    float4 stream[kRounds];
    load(a.first + row, sum);
    load(a.second + row, second);
    load(a.stream + row, stream);
    const float first_factor = Row::rms_factor(squares(sum), C.first_eps, partial);
    const float second_factor = Row::rms_factor(squares(second), C.second_eps, partial + C.warps);
#pragma unroll
    for (int r = 0; r < kRounds; r++) {
      sum[r] = add(times(sum[r], first_factor, first_norm[r]), second[r], second_factor, second_norm[r]);
    }
    const float factor = Row::rms_factor(squares(sum), C.eps, partial + 2 * C.warps);
#pragma unroll
    for (int r = 0; r < kRounds; r++) {
      const int k = thread_index() * 4 + r * Row::kStride;
      if (k >= C.cols) break;
      const float4 v = add(stream[r], sum[r], factor, norm[r]);
      *reinterpret_cast<float4*>(a.stream + row + k) = make_float4(v.x * scale, v.y * scale, v.z * scale, v.w * scale);
    }
  }

 private:
  static __device__ __forceinline__ void load(const float* from, float4 (&to)[kRounds]) {
#pragma unroll
    for (int r = 0; r < kRounds; r++) {
      const int k = thread_index() * 4 + r * Row::kStride;
      to[r] = k < C.cols ? Row::load(from + k) : make_float4(0, 0, 0, 0);
    }
  }
  static __device__ __forceinline__ float squares(const float4 (&v)[kRounds]) {
    float sum = 0;
#pragma unroll
    for (int r = 0; r < kRounds; r++) sum = Row::add_squares(v[r], sum);
    return sum;
  }
  static __device__ __forceinline__ float4 times(float4 v, float factor, float4 g) {
    return make_float4(v.x * factor * g.x, v.y * factor * g.y, v.z * factor * g.z, v.w * factor * g.w);
  }
  // to + v * factor * g
  static __device__ __forceinline__ float4 add(float4 to, float4 v, float factor, float4 g) {
    return make_float4(fma(v.x * factor, g.x, to.x), fma(v.y * factor, g.y, to.y), fma(v.z * factor, g.z, to.z),
                       fma(v.w * factor, g.w, to.w));
  }
};

}  // namespace imp
