// Logits of one of several rows where those of a single row lie, with the best of each CTA's stretch, as an LM head of one
// row leaves them.
#pragma once
#include "imp/stage/best.h"
#include "imp/stage/rows.h"

namespace imp {

struct PickConfig {
  int vocab;
  int grid;
  int threads;
};

template <PickConfig C>
struct PickLogits {
  static constexpr int kThreads = C.threads;
  static constexpr int kSharedBytes = best_bytes(C.threads / kWarp);
  static constexpr int kStretch = ceil_div(C.vocab, C.grid);

  struct Args {
    const StepHeader* step;
    const float* rows;    // [rows, vocab]
    float* logits;        // [vocab]
    float* best_value;    // [grid], NaN where a logit is no finite number
    std::uint32_t* best;  // [grid]
  };
  static __device__ __forceinline__ void run(const Args& a) {
    const float* row = a.rows + static_cast<std::size_t>(a.step->row) * C.vocab;
    const int begin = block_index() * kStretch;
    const int end = begin + kStretch < C.vocab ? begin + kStretch : C.vocab;
    Best largest;
    for (int i = begin + thread_index(); i < end; i += C.threads) {
      a.logits[i] = row[i];
      largest.offer_next(row[i], static_cast<std::uint32_t>(i));
    }
    const Best found = cta_best<C.threads / kWarp>(largest, shared_memory());
    if (thread_index() != 0) return;
    a.best_value[block_index()] = found.value;
    a.best[block_index()] = found.index;
  }
};

}  // namespace imp
