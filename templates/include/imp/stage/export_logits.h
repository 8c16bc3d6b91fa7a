// The logits of the step's sequence, or of several those whose record says so, copied to its ledger's row of pinned host
// memory.
#pragma once
#include "imp/stage/sampling.h"

namespace imp {

struct ExportConfig {
  int vocab;
  int threads;
  bool several = false;
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
    const StepSequence* sequences = nullptr;  // of several ends, whose logits are [ends, vocab]
  };
  static __device__ __forceinline__ void run(const Args& a) {
    const StepEnd end = step_end<C.several>(a.step, a.sequences);
    const Sampling& s = a.sampling[end.slot];
    if (C.several && (end.place < 0 || (s.flags & kExported) == 0)) return;
    const float* const logits = a.logits + static_cast<std::size_t>(end.place) * C.vocab;
    float* const row = a.rows + s.row(C.vocab);
    for (int i = block_index() * C.threads + thread_index(); i < C.vocab; i += grid_size() * C.threads) {
      row[i] = logits[i];
    }
  }
};

}  // namespace imp
