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
  struct Args {
    const std::int32_t* input;
    const float* chunk;  // [tokens, cols]
    float* x;            // [cols]
  };
  static __device__ __forceinline__ void run(const Args& a) {
    const float* row = a.chunk + static_cast<std::size_t>(a.input[1] - 1) * C.cols;
    for (int k = thread_index(); k < C.cols; k += C.threads) a.x[k] = row[k];
  }
};

}  // namespace imp
