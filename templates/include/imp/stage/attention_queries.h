// What attention of prompts is told of a model, and which queries a tile has: those that share a key, of several tokens of one
// sequence.
#pragma once
#include <type_traits>

#include "imp/layout/tile.h"
#include "imp/stage/attention_products.h"
#include "imp/stage/attention_spans.h"
#include "imp/stage/rows.h"

namespace imp {

struct AttentionPrefillConfig {
  int heads;
  int kv_heads;
  int head_dim;
  int rows;          // at most
  int stride;        // floats from one row's queries to the next
  int table_blocks;  // places of 16 positions in a sequence's block table
  int block_groups;  // of layers: entries of a place
  int block_bytes;   // of one cache block, all layers of a group
  int window;        // positions that a query sees, its own with them; 0: all before it
  float soft_cap;    // of the scores, times log2(e); 0: none
  int groups;        // 16 rows each, of a tile
  int ctas;
  int spans;   // that a tile's queries see at most
  bool wgmma;  // warpgroups multiply
  bool folds;  // shared memory has room for what a CTA has of earlier spans
  bool sinks = false;  // each head has one
};

template <AttentionPrefillConfig C>
using AttentionProducts =
    std::conditional_t<C.wgmma, WgmmaProducts<C.head_dim, C.groups>, MmaProducts<C.head_dim, C.groups>>;

// The two rows of a tile that are this lane's: each a token's query for one head.
template <AttentionPrefillConfig C>
struct AttentionQueries {
  using Products = AttentionProducts<C>;
  static constexpr int kHeads = attention_group(C.heads / C.kv_heads, C.groups * 16);  // of a tile
  static constexpr int kTokens = C.groups * 16 / kHeads;                               // of a tile, each with its heads
  static_assert(C.stride % 2 == 0, "queries are read two at a time");

  int row[2];  // of the step
  int head[2];
  bool real[2];

  __device__ __forceinline__ AttentionQueries(const StepSequence& s, int first, int share) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int line = Products::group() * 16 + lane_index() / 4 + half * 8;
      row[half] = s.first + first + line / kHeads;
      head[half] = share * kHeads + line % kHeads;
      real[half] = line < kTokens * kHeads && row[half] < s.first + s.rows;
    }
  }

  // The first of this lane's columns.
  static __device__ __forceinline__ int column() { return Products::step() * 16 + lane_index() % 4 * 2; }

  // Of all rows' queries, that of this lane's row.
  __device__ __forceinline__ std::size_t index(int half) const {
    return static_cast<std::size_t>(row[half]) * C.heads + head[half];
  }

  // As f16. `last`: the sequence's last row; behind it others may begin, or nothing.
  __device__ __forceinline__ void load(const float* q, int last, std::uint32_t (&halfs)[Products::kDepth][4]) const {
    const float* lines[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      lines[half] = q + static_cast<std::size_t>(min(row[half], last)) * C.stride + head[half] * C.head_dim + column();
    }
#pragma unroll
    for (int k = 0; k < Products::kDepth; k++) {
      if (!Products::has(k)) break;
#pragma unroll
      for (int r = 0; r < 4; r++) {
        const float2 x = *reinterpret_cast<const float2*>(lines[r % 2] + k * 16 + r / 2 * 8);
        halfs[k][r] = floats_to_half2(x.x, x.y);
      }
    }
  }
};

}  // namespace imp
