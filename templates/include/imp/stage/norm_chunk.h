// RMS norm of every token of the chunk, in floats. One CTA for each token.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

struct NormChunkConfig {
  int cols;
  int threads;
  float eps;
};

template <NormChunkConfig C>
struct NormChunk {
  static constexpr int kThreads = C.threads;
  static constexpr int kWarps = C.threads / kWarp;
  static constexpr int kSharedBytes = round_up(kWarps * 4, 16);
  static __device__ __forceinline__ void run(const float* x, const float* weight, const std::int32_t* input, float* y) {
    const int t = block_index();
    if (t >= input[1]) return;
    x += static_cast<std::size_t>(t) * C.cols;
    y += static_cast<std::size_t>(t) * C.cols;
    float squares = 0;
    for (int k = thread_index(); k < C.cols; k += C.threads) squares += x[k] * x[k];
    squares = warp_sum(squares);
    auto* sums = reinterpret_cast<float*>(shared_memory());
    if (lane_index() == 0) sums[warp_index()] = squares;
    block_sync();
    float total = 0;
    for (int w = 0; w < kWarps; w++) total += sums[w];
    const float factor = rsqrt_fast(total * (1.0f / static_cast<float>(C.cols)) + C.eps);
    for (int k = thread_index(); k < C.cols; k += C.threads) y[k] = x[k] * factor * weight[k];
  }
};

}  // namespace imp
