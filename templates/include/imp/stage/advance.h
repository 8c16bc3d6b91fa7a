// The end of several rows: their tokens are in the cache. The last one of a sequence that goes on to choose a token counts
// once that is chosen, as in a program of one row.
#pragma once
#include "imp/layout/tile.h"
#include "imp/stage/rows.h"

namespace imp {

template <int Threads>
struct Advance {
  static constexpr int kThreads = Threads;
  static constexpr int kSharedBytes = 0;
  static constexpr int kGridX = 1;
  static constexpr int kGridY = 1;
  static constexpr int kGridZ = 1;

  struct Args {
    std::int32_t* positions;  // [slots]
    const StepHeader* step;
    const StepSequence* sequences;
  };
  static __device__ __forceinline__ void run(const Args& a) {
    for (int i = thread_index(); i < a.step->sequences; i += Threads) {
      const StepSequence& s = a.sequences[i];
      a.positions[s.slot] += s.rows - (s.end >= 0 ? 1 : 0);
    }
  }
};

}  // namespace imp
