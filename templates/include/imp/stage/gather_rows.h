// The rows after which a token is chosen, moved together to the front: those are all that the LM head has to take.
#pragma once
#include "imp/stage/rows.h"

namespace imp {

struct GatherConfig {
  int cols;
  int stride;  // floats from a row to the next
  int threads;
};

template <GatherConfig C>
struct GatherRows {
  static constexpr int kThreads = C.threads;
  static constexpr int kSharedBytes = 0;
  struct Args {
    const StepHeader* step;
    const StepSequence* sequences;
    float* rows;
  };
  // No row moves back and each thread has its own columns, so what it writes has been read.
  static __device__ __forceinline__ void run(const Args& a) {
    const int k = block_index() * C.threads + thread_index();
    if (k >= C.cols) return;
    for (int i = 0; i < a.step->sequences; i++) {
      const StepSequence& s = a.sequences[i];
      const int from = s.first + s.rows - 1;
      if (s.end >= 0 && s.end != from) a.rows[s.end * C.stride + k] = a.rows[from * C.stride + k];
    }
  }
};

}  // namespace imp
