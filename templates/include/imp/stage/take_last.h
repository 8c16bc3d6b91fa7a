// The hidden state of the chunk's last token, where the LM head expects it.
#pragma once
#include "isa.h"

namespace imp {

struct TakeLastConfig {
  int cols;
  int threads;
};

template <TakeLastConfig C>
struct TakeLast {
  static constexpr int kThreads = C.threads;
  static constexpr int kSharedBytes = 0;
  static __device__ __forceinline__ void run(const std::int32_t* input, const float* chunk, float* x) {
    const float* row = chunk + static_cast<std::size_t>(input[1] - 1) * C.cols;
    for (int k = thread_index(); k < C.cols; k += C.threads) x[k] = row[k];
  }
};

}  // namespace imp
