// RMS norm of every token of the chunk, in floats. One CTA for each token.
#pragma once
#include <type_traits>

#include "imp/stage/chunk_row.h"
#include "imp/stage/rows.h"

namespace imp {

struct NormChunkConfig {
  int cols;
  int threads;
  float eps;
  bool weighted = true;    // the norm has a weight
  bool post = false;       // of x + rms_norm(y) * weight, y being what a branch has made
  float post_eps = 0.0f;   // of y's norm
  bool scaled = false;     // that sum times a number
};

template <NormChunkConfig C>
struct NormChunk {
  static constexpr int kThreads = C.threads;
  static constexpr int kWarps = C.threads / kWarp;
  static constexpr int kPartial = round_up(kWarps * 4, 16);
  static constexpr int kSharedBytes = (C.post ? 2 : 1) * kPartial;
  using Row = ChunkRow<C.cols, kWarps>;
  using Source = std::conditional_t<C.post, PostChunk, const float*>;
  struct Args {
    Source x;  // [tokens, cols]
    const float* norm;
    const StepHeader* step;
    float* y;  // [tokens, cols]
  };
  static __device__ __forceinline__ void run(const Args& a) {
    const int t = block_index();
    if (t >= a.step->rows) return;
    const std::size_t first = static_cast<std::size_t>(t) * C.cols;
    auto* partial = reinterpret_cast<float*>(shared_memory());
    if constexpr (C.post) {
      norm(Row::template sum<C.scaled, false>(a.x, first, C.post_eps, partial + kPartial / 4), a.norm, a.y + first, partial);
    } else {
      norm([&](int k) { return Row::load(a.x + first + k); }, a.norm, a.y + first, partial);
    }
  }

 private:
  template <class R>
  static __device__ __forceinline__ void norm(const R& row, const float* weight, float* y, float* partial) {
    const float factor = Row::rms_factor(row, C.eps, partial);
    for (int k = thread_index() * 4; k < C.cols; k += Row::kStride) {
      const float4 v = row(k);
      const float4 g = C.weighted ? Row::load(weight + k) : make_float4(1, 1, 1, 1);
      *reinterpret_cast<float4*>(y + k) =
          make_float4(v.x * factor * g.x, v.y * factor * g.y, v.z * factor * g.z, v.w * factor * g.w);
    }
  }
};

}  // namespace imp
