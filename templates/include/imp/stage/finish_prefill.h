// The end of a chunk: its tokens are in the cache, so the position advances, and penalties count them as prompt.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

struct FinishConfig {
  int vocab;
};

template <FinishConfig C>
struct FinishPrefill {
  static constexpr int kThreads = 256;
  static constexpr int kSharedBytes = 0;
  static constexpr int kGridX = 1;
  static constexpr int kGridY = 1;
  static constexpr int kGridZ = 1;
  static constexpr std::uint32_t kPrompt = 1u << 31;

  // tokens [chunk], seen [slots, vocab], positions [slots]
  static __device__ __forceinline__ void run(const std::int32_t* tokens, std::uint32_t* seen, std::int32_t* positions,
                                             const std::int32_t* input) {
    const int slot = input[0];
    std::uint32_t* row = seen + static_cast<std::size_t>(slot) * C.vocab;
    for (int i = thread_index(); i < input[1]; i += kThreads) atomic_or(row + tokens[i], kPrompt);
    if (thread_index() == 0) positions[slot] += input[1];
  }
};

}  // namespace imp
