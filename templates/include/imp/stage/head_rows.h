// Of every head a matrix of its own times the head's part of x, for the rows of prompts: tiles of 64 rows of a head's matrix by 64
// tokens, both of which go through shared memory as float32, 32 columns at a time. A result is one thread's sum in ascending columns,
// so it depends on neither the tile nor the tokens beside it. x is not rounded.
#pragma once
#include "imp/layout/tile.h"
#include "imp/stage/exchange.h"
#include "imp/stage/rows.h"

namespace imp {

struct HeadRowsConfig {
  int heads;
  int x_stride;    // floats from one token's x to the next one's
  int out_stride;  // and of what comes out
  int out_head;    // floats from one head's result to the next one's
};

template <HeadRowsConfig C, class M>
struct HeadRows {
  static constexpr int kTile = 64;   // rows, and tokens
  static constexpr int kDepth = 32;  // columns at a time
  static constexpr int kOwn = 4;     // rows of a thread, and tokens
  static constexpr int kThreads = kTile / kOwn * (kTile / kOwn);
  static constexpr int kLine = kTile + 4;  // floats from one column to the next
  static constexpr int kSharedBytes = 2 * kDepth * kLine * 4;
  static constexpr int kRows = M::kRows / C.heads;  // of a head
  static constexpr int kTiles = ceil_div(kRows, kTile);
  static_assert(M::kRows % C.heads == 0, "every head has as many rows");

  struct Args {
    const std::uint8_t* plane;
    const float* x;  // [tokens, heads, cols]
    const StepHeader* step;
    float* out;  // [tokens, heads, rows of a head]
  };
  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    const int tokens = a.step->rows;
    const int head = block_index() / kTiles;
    const int row = block_index() % kTiles * kTile;
    const int token = block_index_y() * kTile;
    if (token >= tokens) return;
    grid_wait();
    const float* x = a.x + head * M::kCols;
    auto* weights = reinterpret_cast<float*>(shared_memory());
    float* vectors = weights + kDepth * kLine;
    const int own_rows = thread_index() % (kTile / kOwn) * kOwn;
    const int own_tokens = thread_index() / (kTile / kOwn) * kOwn;
    float sums[kOwn][kOwn] = {};  // by token and row
    for (int first = 0; first < M::kCols; first += kDepth) {
      const int col = first + lane_index();
      const bool inside = col < M::kCols;
      // Requested together, before anybody waits for one of them.
      float rows_part[kTile * kDepth / kThreads];
      float tokens_part[kTile * kDepth / kThreads];
#pragma unroll
      for (int i = 0; i < kTile * kDepth / kThreads; i++) {
        const int line = warp_index() + i * (kThreads / kWarp);
        const bool real = inside && token + line < tokens;
        tokens_part[i] = real ? x[static_cast<std::size_t>(token + line) * C.x_stride + col] : 0;
        rows_part[i] = inside && row + line < kRows ? M::value(a.plane, head * kRows + row + line, col) : 0;
      }
      block_sync();  // all are done with the columns before these
#pragma unroll
      for (int i = 0; i < kTile * kDepth / kThreads; i++) {
        const int line = warp_index() + i * (kThreads / kWarp);
        weights[lane_index() * kLine + line] = rows_part[i];
        vectors[lane_index() * kLine + line] = tokens_part[i];
      }
      block_sync();
#pragma unroll 8
      for (int k = 0; k < kDepth; k++) {
        const float4 w = *reinterpret_cast<const float4*>(weights + k * kLine + own_rows);
        const float4 v = *reinterpret_cast<const float4*>(vectors + k * kLine + own_tokens);
        const float each[kOwn] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int t = 0; t < kOwn; t++) {
          sums[t][0] = fma(w.x, each[t], sums[t][0]);
          sums[t][1] = fma(w.y, each[t], sums[t][1]);
          sums[t][2] = fma(w.z, each[t], sums[t][2]);
          sums[t][3] = fma(w.w, each[t], sums[t][3]);
        }
      }
    }
#pragma unroll
    for (int t = 0; t < kOwn; t++) {
      if (token + own_tokens + t >= tokens) break;
      float* out = a.out + static_cast<std::size_t>(token + own_tokens + t) * C.out_stride + head * C.out_head + row;
#pragma unroll
      for (int r = 0; r < kOwn; r++) {
        if (row + own_rows + r < kRows) out[own_rows + r] = untagged(sums[t][r]);
      }
    }
  }
};

}  // namespace imp
