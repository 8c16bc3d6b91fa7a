// The attention of the step kernel's layers as types. One code serves all layers whose heads are alike: they differ in what
// a query sees, by which angles heads turn, and in whose cache they read.
#pragma once
#include "imp/stage/attention_core.h"
#include "imp/stage/step_phase.h"

namespace imp {

// Heads of some layers. `A`: its window is the largest of them, none only if no layer has one; some of its warps attend
// where the CTA has more. `RowFormat`: of the cache.
template <AttentionConfig A, class RowFormat>
struct StepHeads {
  using Row = RowFormat;
  // As many as leave the other phases registers, of which the step kernel has few.
  static constexpr int kHeld = 256;
  using Core = AttentionCore<A, Row, kHeld>;
  static constexpr AttentionConfig kConfig = A;
  // A tile of large heads takes several slots of the ring, each some of its rows, or all slots would be as large as it.
  static constexpr int kMostBytes = 4096;
  static constexpr int kPieces = [] {
    int pieces = 1;
    while (Core::kTileBytes / pieces > kMostBytes && 2 * pieces < A.block_tokens) pieces *= 2;
    return pieces;
  }();
  static constexpr int kPieceRows = A.block_tokens / kPieces;
  static constexpr int kTileBytes = kPieceRows * Row::kRowBytes;
  static constexpr int kScratchBytes = Core::kSharedBytes;
  static constexpr int kRowWords = 2 * Row::kRowBytes / 4;  // of a position's key and value
};

// How pairs turn: so many of a head, and what cosines and sines are multiplied by.
struct RopeTable {
  int pairs;
  float magnitude;
};
template <RopeTable... Tables>
struct RopeTables {
  static constexpr int kCount = sizeof...(Tables);
  static constexpr int kPairs = [] {
    int most = 0;
    ((most = Tables.pairs > most ? Tables.pairs : most), ...);
    return most;
  }();
  static __device__ __forceinline__ RopeTable at(int table) {
    int index = 0;
    RopeTable found{0, 1};
    ((found = index++ == table ? Tables : found), ...);
    return found;
  }
};

using NoTurns = RopeTables<>;
using OwnCaches = LayerOrder<>;

// `Heads`: of each layer, as are `Windows`, `Tables`, the table after the last where nothing turns, and `Owners`, the layer
// whose cache it reads: OwnCaches if that is always itself.
template <class Moves, class Heads, class Windows, class Tables, class Ropes, class Owners>
struct StepAttention {
  using Flow = Moves;
  using Kinds = Heads;
  using Turns = Ropes;
  static constexpr bool kAttends = true;
  static constexpr AttentionConfig kConfig = Heads::First::kConfig;  // in what is the same for all
  static constexpr int kTileBytes = Heads::most([]<class H>(H*) { return H::kTileBytes; });
  static constexpr int kScratchBytes = Heads::most([]<class H>(H*) { return H::kScratchBytes; });
  static constexpr int kPairs = Heads::most([]<class H>(H*) { return H::kConfig.head_dim / 2; });
  static constexpr int kAngles = Tables::kMost + 1;  // tables, and perhaps the one in which nothing turns
  static constexpr bool kShares = Owners::kLayers > 0;
  // Of one layer's new rows, which are handed on to others.
  static constexpr int kHandedWords = Heads::most([]<class H>(H*) { return H::kConfig.kv_heads * H::kRowWords; });
  static_assert(Heads::most([]<class H>(H*) { return H::kConfig.window; }) == Windows::kMost, "windows are of another model");
  static_assert(kAngles <= Ropes::kCount + 1, "a layer turns by a table that there is not");

  static __device__ __forceinline__ int window(int layer) { return Windows::at(layer); }
  static __device__ __forceinline__ int table(int layer) { return Tables::at(layer); }
  static __device__ __forceinline__ int owner(int layer) {
    if constexpr (kShares) {
      return Owners::at(layer);
    } else {
      return layer;
    }
  }
  // Whether other layers read the layer's cache.
  static __device__ __forceinline__ bool hands(int layer) {
    if constexpr (kShares) {
      return Owners::others(layer);
    } else {
      return false;
    }
  }
};

}  // namespace imp
