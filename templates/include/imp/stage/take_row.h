// One of the rows that were run, where the LM head expects it.
#pragma once
#include "imp/stage/rows.h"

namespace imp {

struct TakeRowConfig {
  int cols;
  int threads;
};

template <TakeRowConfig C>
struct TakeRow {
  static constexpr int kThreads = C.threads;
  static constexpr int kSharedBytes = 0;
  struct Args {
    const StepHeader* step;
    const float* rows;  // [rows, cols]
    float* x;           // [cols]
  };
  static __device__ __forceinline__ void run(const Args& a) {
    const float* row = a.rows + static_cast<std::size_t>(a.step->row) * C.cols;
    for (int k = thread_index(); k < C.cols; k += C.threads) a.x[k] = row[k];
  }
};

}  // namespace imp
