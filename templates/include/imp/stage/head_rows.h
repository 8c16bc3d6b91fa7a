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
  static constexpr int kLines = kThreads / (kDepth / 4);  // of which all threads together have 4 columns each
  static constexpr int kRounds = kTile / kLines;
  static constexpr int kSharedBytes = 2 * kDepth * kTile * 4;
  static constexpr int kRows = M::kRows / C.heads;  // of a head
  static constexpr int kTiles = ceil_div(kRows, kTile);
  static_assert(M::kRows % C.heads == 0, "every head has as many rows");
  static_assert(M::kCols % 4 == 0 && C.x_stride % 4 == 0, "columns are read four at a time");

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
    float* vectors = weights + kDepth * kTile;
    const int own_rows = thread_index() % (kTile / kOwn) * kOwn;
    const int own_tokens = thread_index() / (kTile / kOwn) * kOwn;
    float sums[kOwn][kOwn] = {};  // by token and row
    // Of the lines `line` + kLines i four columns. Requested together, and while those before them are multiplied.
    const int line = thread_index() / (kDepth / 4);
    const int own_cols = thread_index() % (kDepth / 4) * 4;
    float4 rows_part[kRounds];
    float4 tokens_part[kRounds];
    const auto ask = [&](int first) {
      const int col = first + own_cols;
#pragma unroll
      for (int i = 0; i < kRounds; i++) {
        const int at = line + i * kLines;
        const bool inside = col < M::kCols;
        const float4 none = make_float4(0, 0, 0, 0);
        const float* from = x + static_cast<std::size_t>(token + at) * C.x_stride + col;
        tokens_part[i] = inside && token + at < tokens ? *reinterpret_cast<const float4*>(from) : none;
        rows_part[i] = inside && row + at < kRows ? four(a.plane, head * kRows + row + at, col) : none;
      }
    };
    ask(0);
    for (int first = 0; first < M::kCols; first += kDepth) {
      block_sync();  // all are done with the columns before these
#pragma unroll
      for (int i = 0; i < kRounds; i++) {
        keep(weights, own_cols, line + i * kLines, rows_part[i]);
        keep(vectors, own_cols, line + i * kLines, tokens_part[i]);
      }
      block_sync();
      if (first + kDepth < M::kCols) ask(first + kDepth);
#pragma unroll 8
      for (int k = 0; k < kDepth; k++) {
        const float4 w = *reinterpret_cast<const float4*>(weights + place(k, own_rows));
        const float4 v = *reinterpret_cast<const float4*>(vectors + place(k, own_tokens));
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

 private:
  static __device__ __forceinline__ float4 four(const std::uint8_t* plane, int row, int col) {
    return make_float4(M::value(plane, row, col), M::value(plane, row, col + 1), M::value(plane, row, col + 2),
                       M::value(plane, row, col + 3));
  }
  // Where a line's value of a column lies: four lines side by side, which columns have in other orders, so that neither those
  // who store nor those who read meet in a bank.
  static __device__ __forceinline__ int place(int col, int line) {
    return col * kTile + ((line / 4 ^ col / 4 % 8) * 4 + line % 4);
  }
  static __device__ __forceinline__ void keep(float* tile, int col, int line, float4 v) {
    tile[place(col, line)] = v.x;
    tile[place(col + 1, line)] = v.y;
    tile[place(col + 2, line)] = v.z;
    tile[place(col + 3, line)] = v.w;
  }
};

}  // namespace imp
