// The embedding rows of the tokens to run.
#pragma once
#include "imp/layout/tile.h"
#include "imp/stage/exchange.h"

namespace imp {

struct EmbedConfig {
  int threads;
  float scale = 1.0f;  // of the rows
};

struct EmbedArgs {
  const std::uint8_t* plane;
  const std::int32_t* input;
  const std::int32_t* tokens;  // [slots], or those of the chunk
  float* x;
};

// Decode: x[cols] = the row of the slot's last token. One CTA for each `threads` columns.
template <EmbedConfig C, class M>
struct EmbedToken {
  static constexpr int kThreads = C.threads;
  static constexpr int kSharedBytes = 0;
  static constexpr int kGridX = ceil_div(M::kCols, C.threads);
  using Args = EmbedArgs;
  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    const int k = block_index() * C.threads + thread_index();
    if (k < M::kCols) a.x[k] = untagged(C.scale * M::value(a.plane, a.tokens[a.input[0]], k));
  }
};

// Prefill: x[t, cols] = the row of the chunk's token t. One CTA for each token.
template <EmbedConfig C, class M>
struct EmbedChunk {
  static constexpr int kThreads = C.threads;
  static constexpr int kSharedBytes = 0;
  using Args = EmbedArgs;
  static __device__ __forceinline__ void run(const Args& a) {
    const int t = block_index();
    if (t >= a.input[1]) return;
    for (int k = thread_index(); k < M::kCols; k += C.threads) {
      a.x[t * M::kCols + k] = C.scale * M::value(a.plane, a.tokens[t], k);
    }
  }
};

}  // namespace imp
