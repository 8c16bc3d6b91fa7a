// The attention of the step kernel's layers: the same code for all, which differ in what a query sees and by which angles
// heads turn.
#pragma once
#include "imp/stage/attention_core.h"
#include "imp/stage/step_phase.h"

namespace imp {

// `RowFormat`: of the cache. `Windows`, `Tables`: of each layer. Layers that do not turn have the table after the last, in
// which nothing does.
template <class Moves, AttentionConfig A, class RowFormat, int TableCount, class Windows, class Tables>
struct StepAttention {
  using Flow = Moves;
  using Row = RowFormat;
  static constexpr bool kAttends = true;
  static constexpr int kTileBytes = AttentionCore<A, Row>::kTileBytes;
  static constexpr int kScratchBytes = AttentionCore<A, Row>::kSharedBytes;
  static constexpr AttentionConfig kConfig = A;  // its window is the largest: none only if no layer has one
  static constexpr int kTables = TableCount;
  static constexpr int kAngles = Tables::kMost + 1;  // tables, and perhaps the one in which nothing turns
  static_assert(Windows::kMost == A.window, "windows are of another model");
  static_assert(kAngles <= TableCount + 1, "a layer turns by a table that there is not");

  static __device__ __forceinline__ int window(int layer) { return Windows::at(layer); }
  static __device__ __forceinline__ int table(int layer) { return Tables::at(layer); }
};

}  // namespace imp
