// The logits of the step's sequence, copied to its ledger's row of pinned host memory.
#pragma once
#include "imp/stage/sampling.h"

namespace imp {

struct ExportConfig {
  int vocab;
  int threads;
};

template <ExportConfig C>
struct ExportLogits {
  static constexpr int kThreads = C.threads;
  static constexpr int kSharedBytes = 0;
  struct Args {
    const float* logits;  // [vocab]
    const StepHeader* step;
    const Sampling* sampling;  // [slots]
    float* rows;               // [ledgers, vocab]
  };
  static __device__ __forceinline__ void run(const Args& a) {
    float* row = a.rows + a.sampling[a.step->slot].row(C.vocab);
    for (int i = block_index() * C.threads + thread_index(); i < C.vocab; i += grid_size() * C.threads) {
      row[i] = a.logits[i];
    }
  }
};

}  // namespace imp
