// The logits of the step's sequence, copied to its row of pinned host memory.
#pragma once
#include "isa.h"

namespace imp {

struct ExportConfig {
  int vocab;
  int threads;
};

template <ExportConfig C>
struct ExportLogits {
  static constexpr int kThreads = C.threads;
  static constexpr int kSharedBytes = 0;
  static __device__ __forceinline__ void run(const float* logits, const std::int32_t* input, float* rows) {
    float* row = rows + static_cast<std::size_t>(input[0]) * C.vocab;
    for (int i = block_index() * C.threads + thread_index(); i < C.vocab; i += grid_size() * C.threads) {
      row[i] = logits[i];
    }
  }
};

}  // namespace imp
