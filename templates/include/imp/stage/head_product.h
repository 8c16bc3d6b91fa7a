// Of every head a matrix of its own times the head's part of x, for all tokens of a program. A warp takes a row of the
// matrices, which lie one below the other, and holds its weights in registers for as many tokens as there are. x is not
// rounded.
#pragma once
#include "imp/layout/tile.h"
#include "imp/stage/exchange.h"
#include "imp/stage/rows.h"

namespace imp {

struct HeadProductConfig {
  int heads;
  int warps;
  int grid;
  int x_stride;    // floats from one token's x to the next one's
  int out_stride;  // and of what comes out
  int out_head;    // floats from one head's result to the next one's
};

template <HeadProductConfig C, class M>
struct HeadProduct {
  static constexpr int kThreads = C.warps * kWarp;
  static constexpr int kSharedBytes = 0;
  static constexpr int kGridX = C.grid;
  static constexpr int kRows = M::kRows / C.heads;  // of a head
  static constexpr int kLane = ceil_div(M::kCols, kWarp);
  static_assert(M::kRows % C.heads == 0, "every head has as many rows");

  struct Args {
    const std::uint8_t* plane;
    const float* x;          // [tokens, heads, cols]
    const StepHeader* step;  // null for one token
    float* out;              // [tokens, heads, rows of a head]
  };
  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    const int tokens = a.step == nullptr ? 1 : a.step->rows;
    const int first = block_index() * C.warps + warp_index();
    for (int row = first; row < M::kRows; row += C.grid * C.warps) {
      float weights[kLane];
#pragma unroll
      for (int i = 0; i < kLane; i++) {
        const int col = i * kWarp + lane_index();
        weights[i] = col < M::kCols ? M::value(a.plane, row, col) : 0;
      }
      if (row == first) grid_wait();  // for x: the weights depend on nothing
      const float* x = a.x + row / kRows * M::kCols;
      float* out = a.out + row / kRows * C.out_head + row % kRows;
      for (int t = 0; t < tokens; t++) {
        const float sum = warp_sum(dot(weights, x + static_cast<std::size_t>(t) * C.x_stride));
        if (lane_index() == 0) out[static_cast<std::size_t>(t) * C.out_stride] = untagged(sum);
      }
    }
  }

 private:
  static __device__ __forceinline__ float dot(const float (&weights)[kLane], const float* x) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kLane; i++) {
      const int col = i * kWarp + lane_index();
      if (col < M::kCols) sum = fma(weights[i], x[col], sum);
    }
    return sum;
  }
};

}  // namespace imp
