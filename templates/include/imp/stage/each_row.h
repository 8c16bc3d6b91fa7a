// A stage of one row for each of several: the CTAs (., y) take row y. So a row has the same bits whatever runs beside it.
#pragma once
#include "imp/stage/rows.h"

namespace imp {

struct RowStrides {
  int x;  // floats from a row's vector to the next one's
  int y;  // and of results
};

template <RowStrides S, class Stage>
struct EachRow {
  static constexpr int kThreads = Stage::kThreads;
  static constexpr int kSharedBytes = Stage::kSharedBytes;
  struct Args {
    typename Stage::Args one;  // of the first row
    const StepHeader* step;
  };
  static __device__ __forceinline__ void run(const Args& a) {
    const int row = block_index_y();
    if (row >= a.step->rows) return;
    Stage::run(Stage::of_row(a.one, row, S.x, S.y));
  }
};

}  // namespace imp
