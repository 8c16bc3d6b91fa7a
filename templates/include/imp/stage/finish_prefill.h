// The end of a chunk: its tokens are in the cache, so the position advances.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

template <int Threads>
struct FinishPrefill {
  static constexpr int kThreads = Threads;
  static constexpr int kSharedBytes = 0;
  static constexpr int kGridX = 1;
  static constexpr int kGridY = 1;
  static constexpr int kGridZ = 1;

  struct Args {
    std::int32_t* positions;  // [slots]
    const std::int32_t* input;
  };
  static __device__ __forceinline__ void run(const Args& a) {
    if (thread_index() == 0) a.positions[a.input[0]] += a.input[1];
  }
};

}  // namespace imp
