// Causal attention of several rows over the paged cache, which already holds their own keys and values. The queries that
// share a key, of several tokens of one sequence, are the rows of one tile, so that a key is read once for all of them.
// Queries are rounded to f16 (to 2^-11), as keys and values are in the cache; softmax is in fp32, and its weights are
// rounded to f16 for their product with the values. The output's relative error is about 4e-4 (root mean square); queries
// as f16 hi + lo, as steps have them, would leave 1e-4 and take a half more products.
// Keys come in tiles that start at multiples of 64 positions (fewer where heads are large), and in spans of such tiles that
// CTAs share: a query's result depends on its position alone, not on where chunks begin or on which others are there. A
// tile that lies wholly outside a query's window leaves nothing behind: what it adds is multiplied by zero once a key in
// sight comes.
// A head of more than 128 elements is shared by several warps, each with some of its columns, of q and k as of the output;
// they add up their scores through shared memory.
#pragma once
#include "imp/layout/cache.h"
#include "imp/layout/tile.h"
#include "imp/stage/attention_copies.h"
#include "imp/stage/attention_queries.h"
#include "imp/stage/attention_scores.h"
#include "imp/stage/attention_spans.h"
#include "imp/stage/attention_sums.h"
#include "imp/stage/rows.h"

namespace imp {

template <AttentionPrefillConfig C, class Row>
struct AttentionPrefill {
  using Products = AttentionProducts<C>;
  using Copies = AttentionCopies<C, Row>;
  using Queries = AttentionQueries<C>;
  using Scores = AttentionScores<C>;
  using Sums = AttentionSums<C>;
  static constexpr int kTokens = Queries::kTokens;
  static constexpr int kShares = C.heads / Queries::kHeads;  // tiles that have the same tokens
  static constexpr int kTileKeys = Products::kTileKeys;
  static constexpr int kThreads = Copies::kThreads;
  static constexpr int kGridX = C.ctas;
  static constexpr int kGridY = 1;
  static constexpr int kGridZ = 1;
  static constexpr int kScores = Copies::kSharedBytes;
  static constexpr int kFolded = kScores + Scores::kSharedBytes;
  static constexpr int kFlag = kFolded + (C.folds ? Sums::kFoldedBytes : 0);
  static constexpr int kSharedBytes = kFlag + 16;
  static_assert(C.heads % C.kv_heads == 0, "query heads share kv heads evenly");
  static_assert(C.head_dim % 16 == 0 && C.head_dim <= 512, "a head is up to 32 tensor-core steps of 16");
  static_assert(AttentionSpans::kFirst % kTileKeys == 0, "a span consists of tiles");

  struct Args {
    const float* q;             // [rows, stride]: the first heads * head_dim columns, times the softmax scale and log2(e)
    const std::uint8_t* cache;  // this layer's part of block 0
    const std::int32_t* table;  // its group's entries
    const std::int32_t* positions;
    float* partial;          // [rows, heads, spans, Sums::kPart], of as many rows as tiles are split for
    std::uint32_t* arrived;  // [rows, shares], zero between launches
    float* out;              // [rows, heads, head_dim]
    const StepHeader* step;
    const StepSequence* sequences;
    const float* sinks = nullptr;  // [heads]
  };

  // CTAs take tiles in turn, there and back. Where there are too few, they take spans of tiles, of each sequence the last and
  // longest first, so that whoever got a long one gets a short one later. Nothing that comes out depends on it.
  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    int item = block_index();
    int back = C.ctas - 1 - item;  // to its next one, halved
    StepSequence s = a.sequences[0];  // while the number of sequences is on its way
    const int sequences = a.step->sequences;
    const bool whole = C.folds && 2 * ((a.step->rows + kTokens - 1) / kTokens) * kShares > C.ctas;
    grid_wait();  // before it nothing is read that is written before the end of a program
#pragma unroll 1
    for (int i = 0; i < sequences; i++) {
      if (i > 0) s = a.sequences[i];
      const int start = a.positions[s.slot];
      const int tiles = (s.rows + kTokens - 1) / kTokens;
      const int first = AttentionSpans::of(attention_begin(start, C.window));
      const int last = AttentionSpans::of(start + s.rows - 1);
      const int items = (whole ? 1 : last + 1 - first) * tiles * kShares;
#pragma unroll 1
      while (item < items) {
        const int latest = last - item / kShares / tiles;
        attend(a, s, start, item / kShares % tiles * kTokens, whole ? first : latest, latest, item % kShares);
        item += 2 * back + 1;
        back = C.ctas - 1 - back;
      }
      item -= items;
    }
  }

 private:
  // Tokens of the sequence's from `first` on, heads of `share`, and of the keys that they see those of some spans.
  static __device__ __forceinline__ void attend(const Args& a, const StepSequence& s, int start, int first, int span,
                                                int last_span, int share) {
    const int keys = start + min(first + kTokens, s.rows);
    const int seen = attention_begin(start + first, C.window);  // from here on, by one of the queries
    const int first_seen = AttentionSpans::of(seen);
    const int spans = AttentionSpans::of(keys - 1) + 1 - first_seen;
    const bool alone = span < last_span || spans == 1;  // this CTA has all
    span = max(span, first_seen);
    last_span = min(last_span, first_seen + spans - 1);
    if (span > last_span) return;
    const int begin = max(seen, AttentionSpans::begin(span)) / kTileKeys;
    const int end = (min(keys, AttentionSpans::begin(last_span + 1)) + kTileKeys - 1) / kTileKeys;
    const Queries queries(s, first, share);
    std::uint8_t* shared = shared_memory();
    const std::uint8_t* head_cache = a.cache + share * Queries::kHeads / (C.heads / C.kv_heads) * Copies::kHeadBytes;
    const Copies copies{head_cache, a.table + s.slot * (C.table_blocks * C.block_groups), seen, keys};

    block_sync();  // all are done with the tile before this one
    copies.copy(begin, shared + begin % 2 * Copies::kBufferBytes);
    std::uint32_t halfs[Products::kDepth][4];
    queries.load(a.q, s.first + s.rows - 1, halfs);
    Sums sums;
    bool folded = false;
#pragma unroll 1
    for (int tile = begin; tile < end; tile++) {
      Copies::wait();
      if constexpr (C.folds) {
        if (tile > begin && tile * kTileKeys == AttentionSpans::begin(span + 1)) {
          sums.whole();
          if (folded) sums = Sums::added(Sums::unfolded(shared + kFolded), sums);
          sums.fold(shared + kFolded);
          folded = true;
          sums = {};
          span++;
        }
      }
      const std::uint8_t* buffer = shared + tile % 2 * Copies::kBufferBytes;
      Scores scores;
      Products::score(buffer, halfs, scores.values);
      if (tile + 1 < end) copies.copy(tile + 1, shared + (tile + 1) % 2 * Copies::kBufferBytes);
      Products::scored(scores.values);
      if constexpr (Products::kParts > 1) scores.add_parts(shared + kScores);
      if constexpr (C.soft_cap != 0) scores.cap();
      const bool edge = (tile + 1) * kTileKeys > start + first + 1;
      const bool window_edge = C.window > 0 && tile * kTileKeys < start + first + kTokens - C.window;
      if (edge || window_edge) scores.mask(tile * kTileKeys, start - s.first, queries);
      std::uint32_t weights[kTileKeys / 16][4];
      scores.soften(sums, weights);
      Products::add(buffer + Copies::kTileBytes, weights, sums.out);
    }
    sums.whole();
    if (folded) sums = Sums::added(Sums::unfolded(shared + kFolded), sums);
    if (alone) {
      sums.store(a.out, a.sinks, queries);
      return;
    }
    sums.keep(a.partial, queries, span - first_seen);
    if (last_to_arrive(a.arrived + (s.first + first) * kShares + share, spans, shared)) {
      Sums::merged(a.partial, queries, spans).store(a.out, a.sinks, queries);
    }
  }

  // Whether all other spans of the tile have been kept.
  static __device__ __forceinline__ bool last_to_arrive(std::uint32_t* arrived, int spans, std::uint8_t* shared) {
    auto* flag = reinterpret_cast<std::uint32_t*>(shared + kFlag);
    fence_gpu();
    block_sync();
    if (thread_index() == 0) {
      *flag = atomic_add(arrived, 1u) == static_cast<std::uint32_t>(spans - 1);
      fence_gpu();
    }
    block_sync();
    if (*flag == 0) return false;
    if (thread_index() == 0) *arrived = 0;
    return true;
  }
};

}  // namespace imp
