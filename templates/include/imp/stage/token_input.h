// A vector of the token's own for every layer, side by side: rows of a table by the token, and what its embedding was
// multiplied to, normed group by group: out[k] = scale * row[k] + share * x[k] / rms(group) * weight[k in the group].
#pragma once
#include "imp/layout/tile.h"
#include "imp/stage/exchange.h"
#include "imp/stage/rows.h"

namespace imp {

struct TokenInputConfig {
  int group;  // columns that are normed together; a warp takes one
  float eps;
  float scale;  // of the rows
  float share;  // of what is normed
  bool one;     // row, so that nobody says how many there are
  int warps;
};

template <TokenInputConfig C, class M>
struct TokenInput {
  static constexpr int kThreads = C.warps * kWarp;
  static constexpr int kSharedBytes = 0;
  static constexpr int kGroups = M::kCols / C.group;
  static constexpr int kGridX = ceil_div(kGroups, C.warps);
  static_assert(M::kCols % C.group == 0, "a row consists of whole groups");

  struct Args {
    const std::uint8_t* table;
    const float* norm;  // [group]
    const float* x;     // [rows, cols]
    const StepHeader* step;  // null for one row
    const StepRow* rows;
    const std::int32_t* last;  // [slots]
    float* out;                // [rows, cols]
  };
  static __device__ __forceinline__ void run(const Args& a) {
    const int t = block_index_y();
    if (!C.one && t >= a.step->rows) return;
    const int group = block_index() * C.warps + warp_index();
    if (group >= kGroups) return;
    const int token = a.rows[t].token_of(a.last);
    const int first = group * C.group;
    const std::size_t line = static_cast<std::size_t>(t) * M::kCols + first;
    float squares = 0;
    for (int k = lane_index(); k < C.group; k += kWarp) squares = fma(a.x[line + k], a.x[line + k], squares);
    const float factor = C.share * rsqrt_fast(fma(warp_sum(squares), 1.0f / static_cast<float>(C.group), C.eps));
    for (int k = lane_index(); k < C.group; k += kWarp) {
      a.out[line + k] = untagged(fma(a.x[line + k] * factor, a.norm[k], C.scale * M::value(a.table, token, first + k)));
    }
  }
};

}  // namespace imp
