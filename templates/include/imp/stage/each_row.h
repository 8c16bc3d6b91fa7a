// A stage of one row for each of several: the CTAs are shared out among the rows that there are, so that each encodes its row
// once and then streams. A row has the same bits whatever runs beside it, as no sum depends on who makes it.
#pragma once
#include "imp/stage/gemv.h"
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
    const int first = block_index_y() * Stage::kGrid;
    const int rows = min(a.step->rows - first, Stage::kGrid);
    if (rows <= 0) return;
    const int each = Stage::kGrid / rows;
    const int row = block_index() / each;
    if (row >= rows) return;
    Stage::run(Stage::of_row(a.one, first + row, S.x, S.y), SomeCtas{block_index() - row * each, each});
  }
};

}  // namespace imp
