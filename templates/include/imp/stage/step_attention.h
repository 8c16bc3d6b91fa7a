// The attention of the step kernel's layers: the same code for all, which differ in what a query sees and by which angles
// heads turn.
#pragma once
#include "imp/stage/attention_core.h"
#include "imp/stage/step_phase.h"

namespace imp {

// `RowFormat`: of the cache. `Windows`, `Tables`: of each layer. `Magnitudes`: of each table. Layers that do not turn have
// the table after the last, in which nothing does.
template <class Moves, AttentionConfig A, class RowFormat, class Windows, class Tables, float... Magnitudes>
struct StepAttention {
  using Flow = Moves;
  using Row = RowFormat;
  static constexpr bool kAttends = true;
  // A tile of large heads takes several slots of the ring, each some of its rows, or all slots would be as large as it.
  static constexpr int kMostBytes = 4096;
  static constexpr int kPieces = [] {
    int pieces = 1;
    while (AttentionCore<A, Row>::kTileBytes / pieces > kMostBytes && 2 * pieces < A.block_tokens) pieces *= 2;
    return pieces;
  }();
  static constexpr int kPieceRows = A.block_tokens / kPieces;
  static constexpr int kTileBytes = kPieceRows * Row::kRowBytes;
  static constexpr int kScratchBytes = AttentionCore<A, Row>::kSharedBytes;
  static constexpr AttentionConfig kConfig = A;  // its window is the largest: none only if no layer has one
  static constexpr int kTables = sizeof...(Magnitudes);
  static constexpr int kAngles = Tables::kMost + 1;  // tables, and perhaps the one in which nothing turns
  static_assert(Windows::kMost == A.window, "windows are of another model");
  static_assert(kAngles <= kTables + 1, "a layer turns by a table that there is not");

  static __device__ __forceinline__ int window(int layer) { return Windows::at(layer); }
  static __device__ __forceinline__ int table(int layer) { return Tables::at(layer); }
  static __device__ __forceinline__ float magnitude(int table) {
    int index = 0;
    float found = 1;
    ((found = index++ == table ? Magnitudes : found), ...);
    return found;
  }
};

}  // namespace imp
