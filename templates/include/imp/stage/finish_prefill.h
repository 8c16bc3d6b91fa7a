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

  // positions [slots]
  static __device__ __forceinline__ void run(std::int32_t* positions, const std::int32_t* input) {
    if (thread_index() == 0) positions[input[0]] += input[1];
  }
};

}  // namespace imp
