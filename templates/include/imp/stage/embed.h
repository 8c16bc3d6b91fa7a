// The embeddings of the tokens to run.
#pragma once
#include "imp/layout/tile.h"
#include "imp/stage/exchange.h"
#include "imp/stage/rows.h"

namespace imp {

struct EmbedConfig {
  int threads;
  float scale = 1.0f;  // of the rows
};

struct EmbedArgs {
  const std::uint8_t* plane;
  const StepHeader* step;  // null for one row
  const StepRow* rows;
  const std::int32_t* last;  // [slots]
  float* x;
};

// One row: x[cols] = its token's. One CTA for each `threads` columns.
template <EmbedConfig C, class M>
struct EmbedRow {
  static constexpr int kThreads = C.threads;
  static constexpr int kSharedBytes = 0;
  static constexpr int kGridX = ceil_div(M::kCols, C.threads);
  using Args = EmbedArgs;
  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    const int k = block_index() * C.threads + thread_index();
    if (k < M::kCols) a.x[k] = untagged(C.scale * M::value(a.plane, a.rows[0].token_of(a.last), k));
  }
};

// Several: x[rows, cols]. One CTA for each.
template <EmbedConfig C, class M>
struct EmbedRows {
  static constexpr int kThreads = C.threads;
  static constexpr int kSharedBytes = 0;
  using Args = EmbedArgs;
  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    const int t = block_index();
    if (t >= a.step->rows) return;
    const std::int32_t token = a.rows[t].token_of(a.last);
    for (int k = thread_index(); k < M::kCols; k += C.threads) {
      a.x[t * M::kCols + k] = C.scale * M::value(a.plane, token, k);
    }
  }
};

}  // namespace imp
