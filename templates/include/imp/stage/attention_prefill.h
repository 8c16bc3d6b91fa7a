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
#include <type_traits>

#include "imp/layout/cache.h"
#include "imp/layout/tile.h"
#include "imp/stage/attention_products.h"
#include "imp/stage/attention_spans.h"
#include "imp/stage/attention_tile.h"
#include "imp/stage/elementwise.h"
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

template <AttentionPrefillConfig C, class Row>
struct AttentionPrefill {
  using Products =
      std::conditional_t<C.wgmma, WgmmaProducts<C.head_dim, C.groups>, MmaProducts<C.head_dim, C.groups>>;
  static constexpr int kParts = Products::kParts;  // warps that share a head
  static constexpr int kWarps = C.groups * kParts;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kHeads = attention_group(C.heads / C.kv_heads, C.groups * 16);  // of a tile
  static constexpr int kTokens = C.groups * 16 / kHeads;                               // of a tile, each with its heads
  static constexpr int kShares = C.heads / kHeads;                                     // tiles that have the same tokens
  static constexpr int kTileKeys = Products::kTileKeys;
  static constexpr int kGridX = C.ctas;
  static constexpr int kGridY = 1;
  static constexpr int kGridZ = 1;
  static constexpr int kHeadBytes = kCacheTokens * Row::kRowBytes;
  static constexpr int kDepth = Products::kDepth;  // steps of the tensor cores, of a warp's part of a head
  static constexpr int kTileBytes = Products::kTileBytes;
  static constexpr int kChunks = C.head_dim / 8;  // of a row
  static constexpr int kCopies = ceil_div(kTileKeys * kChunks, kThreads);  // of a thread
  static constexpr int kBufferBytes = 2 * kTileBytes;  // keys, values
  static constexpr int kScores = 2 * kBufferBytes;  // of each warp, where a head has several
  static constexpr int kFolded = kScores + (kParts > 1 ? kWarps * 16 * kTileKeys * 4 : 0);
  static constexpr int kFlag = kFolded + (C.folds ? (2 * kDepth + 1) * kThreads * 16 : 0);
  static constexpr int kSharedBytes = kFlag + 16;
  static constexpr int kPart = C.head_dim + 2;  // of a query and a span: output, maximum, sum
  static constexpr float kMasked = -1e30f;
  static_assert(Row::kHeadDim == C.head_dim, "the cache has other heads");
  static_assert(C.heads % C.kv_heads == 0, "query heads share kv heads evenly");
  static_assert(C.head_dim % 16 == 0 && C.head_dim <= 512, "a head is up to 32 tensor-core steps of 16");
  static_assert(C.stride % 2 == 0, "queries are read two at a time");
  static_assert(AttentionSpans::kFirst % kTileKeys == 0, "a span consists of tiles");

  struct Args {
    const float* q;             // [rows, stride]: the first heads * head_dim columns, times the softmax scale and log2(e)
    const std::uint8_t* cache;  // this layer's part of block 0
    const std::int32_t* table;  // its group's entries
    const std::int32_t* positions;
    float* partial;          // [rows, heads, spans, kPart], of as many rows as tiles are split for
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
    const std::int32_t* blocks = a.table + s.slot * (C.table_blocks * C.block_groups);
    const std::uint8_t* head_cache = a.cache + share * kHeads / (C.heads / C.kv_heads) * kHeadBytes;
    std::uint8_t* shared = shared_memory();

    block_sync();  // all are done with the tile before this one
    copy_tile(head_cache, blocks, begin, seen, keys, shared + begin % 2 * kBufferBytes);
    std::uint32_t halfs[kDepth][4];
    load_queries(a.q, queries, s.first + s.rows - 1, halfs);
    State state;
    bool folded = false;
#pragma unroll 1
    for (int tile = begin; tile < end; tile++) {
      cp_async_wait<0>();
      Products::landed();
      block_sync();  // this tile has come, and all are done with the one before it
      if constexpr (C.folds) {
        if (tile > begin && tile * kTileKeys == AttentionSpans::begin(span + 1)) {
          state.whole();
          if (folded) state = added(unfold(shared), state);
          fold(shared, state);
          folded = true;
          state = {};
          span++;
        }
      }
      const std::uint8_t* buffer = shared + tile % 2 * kBufferBytes;
      float scores[kTileKeys / 8][4];
      Products::score(buffer, halfs, scores);
      if (tile + 1 < end) copy_tile(head_cache, blocks, tile + 1, seen, keys, shared + (tile + 1) % 2 * kBufferBytes);
      Products::scored(scores);
      if constexpr (kParts > 1) add_scores(reinterpret_cast<float4*>(shared + kScores), scores);
      if constexpr (C.soft_cap != 0) cap(scores);
      const bool edge = (tile + 1) * kTileKeys > start + first + 1;
      const bool window_edge = C.window > 0 && tile * kTileKeys < start + first + kTokens - C.window;
      if (edge || window_edge) mask(tile * kTileKeys, start - s.first, queries, scores);
      std::uint32_t weights[kTileKeys / 16][4];
      soften(scores, state, weights);
      Products::add(buffer + kTileBytes, weights, state.out);
    }
    state.whole();
    if (folded) state = added(unfold(shared), state);
    if (alone) {
      store(a, queries, state);
      return;
    }
    keep(a.partial, queries, span - first_seen, state);
    if (last_to_arrive(a.arrived + (s.first + first) * kShares + share, spans, shared)) {
      store(a, queries, merged(a.partial, queries, spans));
    }
  }

  // The two rows of a tile that are this lane's: each a token's query for one head.
  struct Queries {
    int row[2];   // of the step
    int head[2];
    bool real[2];
    __device__ __forceinline__ Queries(const StepSequence& s, int first, int share) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int line = Products::group() * 16 + lane_index() / 4 + half * 8;
        row[half] = s.first + first + line / kHeads;
        head[half] = share * kHeads + line % kHeads;
        real[half] = line < kTokens * kHeads && row[half] < s.first + s.rows;
      }
    }
  };

  struct State {
    float out[2 * kDepth][4] = {};
    float total[2] = {};                    // sums of weights of both rows, at first of this lane's columns
    float largest[2] = {kMasked, kMasked};  // of both rows
    // Once a span's keys have been seen: the sums are those of all columns then.
    __device__ __forceinline__ void whole() {
#pragma unroll
      for (float& sum : total) sum = group_sum<4>(sum);
    }
  };

  // Keys that no query sees, or that nothing has written yet, are zeros: an old value times weight 0 could still be NaN.
  static __device__ __forceinline__ void copy_tile(const std::uint8_t* head_cache, const std::int32_t* blocks, int tile,
                                                   int seen, int keys, std::uint8_t* buffer) {
    const int first = tile * kTileKeys;
    if (first + kTileKeys <= keys && (C.window == 0 || first >= seen)) {
      copy_rows<true>(head_cache, blocks, first, 0, kTileKeys, buffer);
    } else {
      copy_rows<false>(head_cache, blocks, first, seen - first, keys - first, buffer);
    }
    cp_async_commit();
  }
  // Of a tile's rows all, or those from `begin` on, before `end`. Where threads copy whole rows side by side, the compiler knows in
  // which block each of a thread's rows lies.
  template <bool All>
  static __device__ __forceinline__ void copy_rows(const std::uint8_t* head_cache, const std::int32_t* blocks, int first,
                                                   int begin, int end, std::uint8_t* buffer) {
    constexpr bool kWhole = kThreads % kChunks == 0;
    constexpr int kPass = kThreads / kChunks;  // rows
    constexpr bool kWithin = kWhole && kCacheTokens % kPass == 0;
#pragma unroll
    for (int i = 0; i < kCopies; i++) {
      const int own = thread_index() / kChunks;
      const int row = kWhole ? own + i * kPass : (thread_index() + i * kThreads) / kChunks;
      const int chunk = (kWhole ? thread_index() : thread_index() + i * kThreads) % kChunks;
      if (kTileKeys * kChunks % kThreads != 0 && row >= kTileKeys) break;
      std::uint8_t* to = buffer + Products::place(row, chunk);
      if (All || (row < end && (C.window == 0 || row >= begin))) {
        const int block = kWithin ? i * kPass / kCacheTokens : row / kCacheTokens;
        const int position = kWithin ? own + i * kPass % kCacheTokens : row % kCacheTokens;
        const std::uint8_t* from =
            head_cache + static_cast<std::size_t>(blocks[(first / kCacheTokens + block) * C.block_groups]) * C.block_bytes;
        from += Row::place(position, chunk);
        Row::fetch(to, from, chunk);
        Row::fetch(to + kTileBytes, from + C.kv_heads * kHeadBytes, chunk);
      } else {
        *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0);
        *reinterpret_cast<uint4*>(to + kTileBytes) = make_uint4(0, 0, 0, 0);
      }
    }
  }

  // `last`: the sequence's last row; behind it others may begin, or nothing.
  static __device__ __forceinline__ void load_queries(const float* q, const Queries& queries, int last,
                                                      std::uint32_t (&halfs)[kDepth][4]) {
    const float* lines[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = min(queries.row[half], last);
      lines[half] = q + static_cast<std::size_t>(row) * C.stride + queries.head[half] * C.head_dim + column();
    }
#pragma unroll
    for (int k = 0; k < kDepth; k++) {
      if (!Products::has(k)) break;
#pragma unroll
      for (int r = 0; r < 4; r++) {
        const float2 x = *reinterpret_cast<const float2*>(lines[r % 2] + k * 16 + r / 2 * 8);
        halfs[k][r] = floats_to_half2(x.x, x.y);
      }
    }
  }

  // Those of the columns of all warps that share the head, in their order.
  static __device__ __forceinline__ void add_scores(float4* all, float (&scores)[kTileKeys / 8][4]) {
    constexpr int kWords = kTileKeys / 8 * kWarp;  // of a warp
#pragma unroll
    for (int j = 0; j < kTileKeys / 8; j++) {
      all[warp_index() * kWords + j * kWarp + lane_index()] =
          make_float4(scores[j][0], scores[j][1], scores[j][2], scores[j][3]);
    }
    block_sync();
    const float4* parts = all + Products::group() * kWords + lane_index();
#pragma unroll
    for (int j = 0; j < kTileKeys / 8; j++) {
      float4 sum = parts[j * kWarp];
#pragma unroll
      for (int p = 1; p < kParts; p++) {
        const float4 part = parts[p * C.groups * kWords + j * kWarp];
        sum = make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
      }
      scores[j][0] = sum.x;
      scores[j][1] = sum.y;
      scores[j][2] = sum.z;
      scores[j][3] = sum.w;
    }
  }

  static __device__ __forceinline__ void cap(float (&scores)[kTileKeys / 8][4]) {
#pragma unroll
    for (auto& row : scores) {
#pragma unroll
      for (float& score : row) score = soft_cap(score, C.soft_cap);
    }
  }

  // `start`: the position of the step's row 0, if it were one of this sequence.
  static __device__ __forceinline__ void mask(int first_key, int start, const Queries& queries,
                                              float (&scores)[kTileKeys / 8][4]) {
#pragma unroll
    for (int j = 0; j < kTileKeys / 8; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int key = opaque(first_key) + j * 8 + lane_index() % 4 * 2 + e % 2;
        const int ahead = key - (start + queries.row[e / 2]);
        if (ahead > 0 || (C.window > 0 && ahead <= -C.window)) scores[j][e] = kMasked;
      }
    }
  }

  // Scores to weights in the A fragments of the next product, and everything so far to the new maximum.
  static __device__ __forceinline__ void soften(float (&scores)[kTileKeys / 8][4], State& state,
                                                std::uint32_t (&weights)[kTileKeys / 16][4]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float largest = state.largest[half];
#pragma unroll
      for (int j = 0; j < kTileKeys / 8; j++) {
        largest = max(largest, max(scores[j][2 * half], scores[j][2 * half + 1]));
      }
      largest = group_max<4>(largest);
      const float correction = exp2_flushed(state.largest[half] - largest);
      state.largest[half] = largest;
      float sums[2] = {};
#pragma unroll
      for (int j = 0; j < kTileKeys / 8; j++) {
        const float first = exp2_flushed(scores[j][2 * half] - largest);
        const float second = exp2_flushed(scores[j][2 * half + 1] - largest);
        weights[j / 2][j % 2 * 2 + half] = floats_to_half2(first, second);
        sums[j % 2] += first + second;
      }
      state.total[half] = fma(state.total[half], correction, sums[0] + sums[1]);
      if (ballot(correction != 1.0f) == 0) continue;  // most tiles of a long context have no row's largest score
#pragma unroll
      for (int d = 0; d < 2 * kDepth; d++) {
        state.out[d][2 * half] *= correction;
        state.out[d][2 * half + 1] *= correction;
      }
    }
  }

  // The first of this lane's columns.
  static __device__ __forceinline__ int column() { return Products::step() * 16 + lane_index() % 4 * 2; }

  static __device__ __forceinline__ void store(const Args& a, const Queries& queries, const State& state) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (!queries.real[half]) continue;
      const float inverse = inverse_sum(a, queries.head[half], state.largest[half], state.total[half]);
      float* line = a.out + query(queries, half) * C.head_dim + column();
#pragma unroll
      for (int d = 0; d < 2 * kDepth; d++) {
        if (!Products::has(d / 2)) break;
        *reinterpret_cast<float2*>(line + d * 8) =
            make_float2(state.out[d][2 * half] * inverse, state.out[d][2 * half + 1] * inverse);
      }
    }
  }

  // What the sums of a head's values are multiplied by.
  static __device__ __forceinline__ float inverse_sum(const Args& a, int head, float largest, float total) {
    if constexpr (C.sinks) {
      const SinkShare share(a.sinks[head], largest);
      return divide_fast(share.rest, share.total(total));
    } else {
      return divide_fast(1.0f, total);
    }
  }

  // Of all rows' queries, that of this lane's row.
  static __device__ __forceinline__ std::size_t query(const Queries& queries, int half) {
    return static_cast<std::size_t>(queries.row[half]) * C.heads + queries.head[half];
  }

  // What a span gives, to be added to what the others do.
  static __device__ __forceinline__ void keep(float* partial, const Queries& queries, int span, const State& state) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (!queries.real[half]) continue;
      float* line = partial + (query(queries, half) * C.spans + span) * kPart;
#pragma unroll
      for (int d = 0; d < 2 * kDepth; d++) {
        if (!Products::has(d / 2)) break;
        *reinterpret_cast<float2*>(line + column() + d * 8) =
            make_float2(state.out[d][2 * half], state.out[d][2 * half + 1]);
      }
      if (Products::step() == 0 && lane_index() % 4 == 0) {
        *reinterpret_cast<float2*>(line + C.head_dim) = make_float2(state.largest[half], state.total[half]);
      }
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

  // A span's results added to those of the spans before it. One that a query does not see adds nothing.
  static __device__ __forceinline__ State added(const State& before, const State& span) {
    State sum;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float largest = max(before.largest[half], span.largest[half]);
      const float correction = exp2_flushed(before.largest[half] - largest);
      const float factor = exp2_flushed(span.largest[half] - largest);
      sum.largest[half] = largest;
      sum.total[half] = fma(factor, span.total[half], before.total[half] * correction);
#pragma unroll
      for (int d = 0; d < 2 * kDepth; d++) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; e++) {
          sum.out[d][e] = fma(factor, span.out[d][e], before.out[d][e] * correction);
        }
      }
    }
    return sum;
  }

  // This thread's results of the spans so far, in shared memory.
  static __device__ __forceinline__ void fold(std::uint8_t* shared, const State& state) {
    auto* words = reinterpret_cast<float4*>(shared + kFolded) + thread_index();
#pragma unroll
    for (int d = 0; d < 2 * kDepth; d++) {
      words[d * kThreads] = make_float4(state.out[d][0], state.out[d][1], state.out[d][2], state.out[d][3]);
    }
    words[2 * kDepth * kThreads] = make_float4(state.total[0], state.total[1], state.largest[0], state.largest[1]);
  }
  static __device__ __forceinline__ State unfold(const std::uint8_t* shared) {
    const auto* words = reinterpret_cast<const float4*>(shared + kFolded) + thread_index();
    State state;
#pragma unroll
    for (int d = 0; d < 2 * kDepth; d++) {
      const float4 word = words[d * kThreads];
      state.out[d][0] = word.x;
      state.out[d][1] = word.y;
      state.out[d][2] = word.z;
      state.out[d][3] = word.w;
    }
    const float4 word = words[2 * kDepth * kThreads];
    state.total[0] = word.x;
    state.total[1] = word.y;
    state.largest[0] = word.z;
    state.largest[1] = word.w;
    return state;
  }

  // What a span left of this lane's rows.
  static __device__ __forceinline__ State kept(const float* partial, const Queries& queries, int span) {
    State state;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (!queries.real[half]) continue;
      const float* line = partial + (query(queries, half) * C.spans + span) * kPart;
      const float2 weight = load_fresh2(line + C.head_dim);
      state.largest[half] = weight.x;
      state.total[half] = weight.y;
#pragma unroll
      for (int d = 0; d < 2 * kDepth; d++) {
        if (!Products::has(d / 2)) break;
        const float2 part = load_fresh2(line + column() + d * 8);
        state.out[d][2 * half] = part.x;
        state.out[d][2 * half + 1] = part.y;
      }
    }
    return state;
  }

  // All spans in order, whichever CTA does this; the next is on its way meanwhile.
  static __device__ __forceinline__ State merged(const float* partial, const Queries& queries, int spans) {
    State state = kept(partial, queries, 0);
    State next = kept(partial, queries, 1);
#pragma unroll 1
    for (int span = 2; span <= spans; span++) {
      const State now = next;
      if (span < spans) next = kept(partial, queries, span);
      state = added(state, now);
    }
    return state;
  }

  static __device__ __forceinline__ float2 load_fresh2(const float* pair) {
    return __builtin_bit_cast(float2, load_fresh(reinterpret_cast<const std::uint64_t*>(pair)));
  }
};

}  // namespace imp
