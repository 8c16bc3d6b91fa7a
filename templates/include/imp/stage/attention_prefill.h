// Causal attention of several rows over the paged cache, which already holds their own keys and values. A tile of queries
// is of one sequence, so that nothing depends on which others are there.
// Queries enter the tensor cores as f16 hi + lo (to 2^-22), keys and values as they lie in the cache, softmax in fp32.
// Its weights are rounded to f16 (to 2^-11), and the sum that normalises them is taken after rounding, so that they
// still add up to 1: the output's relative error is about 1.3e-4 (root mean square), what f16 values have too.
// Keys come in tiles that start at multiples of 64 positions (fewer where heads are large): a query's result depends on its
// position alone, not on where chunks begin. A tile that lies wholly outside a query's window leaves nothing behind: what it
// adds is multiplied by zero once a key in sight comes.
// A head of more than 128 elements is shared by several warps, each with some of its columns, of q and k as of the output;
// they add up their scores through shared memory.
#pragma once
#include "imp/layout/cache.h"
#include "imp/layout/tile.h"
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
  int table_blocks;  // entries of a sequence's block table
  int block_bytes;   // of one cache block, all layers
  int window;        // positions that a query sees, its own with them; 0: all before it
  float soft_cap;    // of the scores, times log2(e); 0: none
};

template <AttentionPrefillConfig C, class Row>
struct AttentionPrefill {
  static constexpr int kParts = ceil_div(C.head_dim, 128);  // warps that share a head
  static constexpr int kGroups = C.rows % 64 == 0 && kParts <= 2 ? 4 : 2;
  static constexpr int kWarps = kGroups * kParts;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kBlockQueries = kGroups * 16;
  static constexpr int kTileKeys = kParts == 1 ? 64 : kParts == 2 ? 32 : 16;
  // Tiles that run at once: twice those of one sequence. Several may have more, which then come in turn; but CTAs to spare
  // cost one sequence something (with eight times as many its prompts took 2 % to 7 % longer on an H200).
  static constexpr int kGridX = 2 * C.rows / kBlockQueries;
  static constexpr int kGridY = C.heads;
  static constexpr int kGridZ = 1;
  static constexpr int kHeadBytes = kCacheTokens * Row::kRowBytes;
  static constexpr int kSteps = C.head_dim / 16;  // of the tensor cores, for a query times a key
  static constexpr int kDepth = ceil_div(kSteps, kParts);  // of a warp
  static_assert(Row::kHeadDim == C.head_dim, "the cache has other heads");
  static constexpr int kRowBytes = C.head_dim * 2 + 16;  // an odd number of chunks: eight rows hit all banks
  static constexpr int kTileBytes = kTileKeys * kRowBytes;
  static constexpr int kChunks = C.head_dim / 8;  // of a row
  static constexpr int kCopies = ceil_div(kTileKeys * kChunks, kThreads);  // of a thread
  static constexpr int kBufferBytes = 2 * kTileBytes;  // keys, values
  static constexpr int kScores = 2 * kBufferBytes;  // of each warp, where a head has several
  static constexpr int kSharedBytes = kScores + (kParts > 1 ? kWarps * 16 * kTileKeys * 4 : 0);
  static constexpr float kMasked = -1e30f;
  static_assert(C.heads % C.kv_heads == 0, "query heads share kv heads evenly");
  static_assert(C.head_dim % 16 == 0 && C.head_dim <= 512, "a head is up to 32 tensor-core steps of 16");
  static_assert(C.rows > 0 && C.rows % 32 == 0, "rows come in tiles of 32");
  static_assert(C.stride % 2 == 0, "queries are read two at a time");

  struct Args {
    const float* q;             // [rows, stride]: the first heads * head_dim columns, times the softmax scale and log2(e)
    const std::uint8_t* cache;  // this layer's part of block 0
    const std::int32_t* table;
    const std::int32_t* positions;
    float* out;  // [rows, heads, head_dim]
    const StepHeader* step;
    const StepSequence* sequences;
  };
  static __device__ __forceinline__ void run(const Args& a) {
#pragma unroll 1
    for (int tile = block_index(); attend(a, tile); tile += kGridX) {
    }
  }

 private:
  // The tile of that index among those of all sequences, if there are so many.
  static __device__ __forceinline__ bool attend(const Args& a, int index) {
    StepSequence s;
#pragma unroll 1
    for (int i = 0;; i++) {
      if (i == a.step->sequences) return false;
      s = a.sequences[i];
      const int tiles = (s.rows + kBlockQueries - 1) / kBlockQueries;
      if (index < tiles) break;
      index -= tiles;
    }
    const int first = index * kBlockQueries;
    const int start = a.positions[s.slot];
    const int head = block_index_y();
    const int keys = start + min(first + kBlockQueries, s.rows);
    const int tiles = (keys + kTileKeys - 1) / kTileKeys;
    const int seen = C.window > 0 ? max(start + first - C.window + 1, 0) : 0;  // from here on, by one of the queries
    const int query = first + warp_index() / kParts * 16 + lane_index() / 4;  // and query + 8
    const std::int32_t* blocks = a.table + s.slot * C.table_blocks;
    const std::uint8_t* head_cache = a.cache + head / (C.heads / C.kv_heads) * kHeadBytes;
    std::uint8_t* shared = shared_memory();

    block_sync();  // all are done with the tile before this one
    copy_tile(head_cache, blocks, seen / kTileKeys, seen, keys, shared + seen / kTileKeys % 2 * kBufferBytes);
    std::uint32_t high[kDepth][4];
    std::uint32_t low[kDepth][4];
    load_queries(a.q + static_cast<std::size_t>(s.first) * C.stride, query, s.rows, head, high, low);
    State state = {};
    state.largest[0] = kMasked;
    state.largest[1] = kMasked;
    for (int tile = seen / kTileKeys; tile < tiles; tile++) {
      cp_async_wait<0>();
      block_sync();  // this tile has come, and all are done with the one before it
      if (tile + 1 < tiles) {
        copy_tile(head_cache, blocks, tile + 1, seen, keys, shared + (tile + 1) % 2 * kBufferBytes);
      }
      const std::uint8_t* buffer = shared + tile % 2 * kBufferBytes;
      float scores[kTileKeys / 8][4] = {};
      score(buffer, high, low, scores);
      if constexpr (kParts > 1) add_scores(reinterpret_cast<float4*>(shared + kScores), scores);
      if constexpr (C.soft_cap != 0) cap(scores);
      const bool edge = (tile + 1) * kTileKeys > start + first + 1;
      const bool window_edge = C.window > 0 && tile * kTileKeys < start + first + kBlockQueries - C.window;
      if (edge || window_edge) mask(tile * kTileKeys, start + query, scores);
      std::uint32_t weights[kTileKeys / 16][4];
      soften(scores, state, weights);
      accumulate(buffer + kTileBytes, weights, state.out);
    }
    store(a.out + static_cast<std::size_t>(s.first) * C.heads * C.head_dim, query, s.rows, head, state);
    return true;
  }

  struct State {
    float largest[2];  // of rows query and query + 8
    float total[2];    // this lane's part of the sum of weights
    float out[2 * kDepth][4];
  };

  // The first of this warp's steps, and whether it has one that is the k-th: the last warp of a head may have fewer.
  static __device__ __forceinline__ int step() { return kParts > 1 ? warp_index() % kParts * kDepth : 0; }
  static __device__ __forceinline__ bool has(int k) { return kSteps % kParts == 0 || step() + k < kSteps; }

  // Keys that no query sees, or that nothing has written yet, are zeros: an old value times weight 0 could still be NaN.
  static __device__ __forceinline__ void copy_tile(const std::uint8_t* head_cache, const std::int32_t* blocks, int tile,
                                                   int seen, int keys, std::uint8_t* buffer) {
#pragma unroll
    for (int i = 0; i < kCopies; i++) {
      const int row = (thread_index() + i * kThreads) / kChunks;
      const int chunk = (thread_index() + i * kThreads) % kChunks;
      if (kTileKeys * kChunks % kThreads != 0 && row >= kTileKeys) break;
      const int position = tile * kTileKeys + row;
      std::uint8_t* to = buffer + row * kRowBytes + chunk * 16;
      if (position < keys && (C.window == 0 || position >= seen)) {
        const auto block = static_cast<std::size_t>(blocks[position / kCacheTokens]);
        const std::uint8_t* from = head_cache + block * C.block_bytes + Row::place(position, chunk);
        Row::fetch(to, from, chunk);
        Row::fetch(to + kTileBytes, from + C.kv_heads * kHeadBytes, chunk);
      } else {
        *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0);
        *reinterpret_cast<uint4*>(to + kTileBytes) = make_uint4(0, 0, 0, 0);
      }
    }
    cp_async_commit();
  }

  static __device__ __forceinline__ void load_queries(const float* q, int query, int rows, int head,
                                                      std::uint32_t (&high)[kDepth][4],
                                                      std::uint32_t (&low)[kDepth][4]) {
    const float* lines[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = min(query + half * 8, rows - 1);  // behind the last one others may begin, or nothing
      lines[half] = q + static_cast<std::size_t>(row) * C.stride + head * C.head_dim + step() * 16 + lane_index() % 4 * 2;
    }
#pragma unroll
    for (int k = 0; k < kDepth; k++) {
      if (!has(k)) break;
#pragma unroll
      for (int r = 0; r < 4; r++) {
        const float2 x = *reinterpret_cast<const float2*>(lines[r % 2] + k * 16 + r / 2 * 8);
        split_halves(x, high[k][r], low[k][r]);
      }
    }
  }

  static __device__ __forceinline__ void score(const std::uint8_t* keys, const std::uint32_t (&high)[kDepth][4],
                                               const std::uint32_t (&low)[kDepth][4],
                                               float (&scores)[kTileKeys / 8][4]) {
    // Four matrices: eight keys x two chunks of the head, then the next eight keys.
    const int row = lane_index() / 16 * 8 + lane_index() % 8;
    const int chunk = lane_index() / 8 % 2;
#pragma unroll
    for (int k = 0; k < kDepth; k++) {
      if (!has(k)) break;
#pragma unroll
      for (int n = 0; n < kTileKeys / 16; n++) {
        std::uint32_t r[4];
        ldmatrix_x4(r, keys + (n * 16 + row) * kRowBytes + (2 * (step() + k) + chunk) * 16);
        const std::uint32_t b[2][2] = {{r[0], r[1]}, {r[2], r[3]}};
#pragma unroll
        for (int j = 0; j < 2; j++) {
          mma_f16_k16(scores[2 * n + j], low[k], b[j]);
          mma_f16_k16(scores[2 * n + j], high[k], b[j]);
        }
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
    const float4* parts = all + warp_index() / kParts * kParts * kWords + lane_index();
#pragma unroll
    for (int j = 0; j < kTileKeys / 8; j++) {
      float4 sum = parts[j * kWarp];
#pragma unroll
      for (int p = 1; p < kParts; p++) {
        const float4 part = parts[p * kWords + j * kWarp];
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

  static __device__ __forceinline__ void mask(int first_key, int position, float (&scores)[kTileKeys / 8][4]) {
#pragma unroll
    for (int j = 0; j < kTileKeys / 8; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int key = first_key + j * 8 + lane_index() % 4 * 2 + e % 2;
        const int ahead = key - (position + e / 2 * 8);
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
      const float correction = exp2_fast(state.largest[half] - largest);
      state.largest[half] = largest;
      float total = state.total[half] * correction;
#pragma unroll
      for (int j = 0; j < kTileKeys / 8; j++) {
        const std::uint32_t pair =
            floats_to_half2(exp2_fast(scores[j][2 * half] - largest), exp2_fast(scores[j][2 * half + 1] - largest));
        const float2 rounded = half2_to_float2(pair);
        total += rounded.x + rounded.y;
        weights[j / 2][j % 2 * 2 + half] = pair;
      }
      state.total[half] = total;
#pragma unroll
      for (int d = 0; d < 2 * kDepth; d++) {
        state.out[d][2 * half] *= correction;
        state.out[d][2 * half + 1] *= correction;
      }
    }
  }

  static __device__ __forceinline__ void accumulate(const std::uint8_t* values,
                                                    const std::uint32_t (&weights)[kTileKeys / 16][4],
                                                    float (&out)[2 * kDepth][4]) {
    // Four matrices, transposed: two times eight values x one chunk of the head, then the next chunk.
    const int row = lane_index() % 16;
    const int chunk = lane_index() / 16;
#pragma unroll
    for (int k = 0; k < kTileKeys / 16; k++) {
#pragma unroll
      for (int d = 0; d < kDepth; d++) {
        if (!has(d)) break;
        std::uint32_t r[4];
        ldmatrix_x4_trans(r, values + (k * 16 + row) * kRowBytes + (2 * (step() + d) + chunk) * 16);
        const std::uint32_t b[2][2] = {{r[0], r[1]}, {r[2], r[3]}};
        mma_f16_k16(out[2 * d], weights[k], b[0]);
        mma_f16_k16(out[2 * d + 1], weights[k], b[1]);
      }
    }
  }

  static __device__ __forceinline__ void store(float* out, int query, int rows, int head, const State& state) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float inverse = divide_fast(1.0f, group_sum<4>(state.total[half]));
      const int row = query + half * 8;
      if (row >= rows) continue;
      float* line =
          out + (static_cast<std::size_t>(row) * C.heads + head) * C.head_dim + step() * 16 + lane_index() % 4 * 2;
#pragma unroll
      for (int d = 0; d < 2 * kDepth; d++) {
        if (!has(d / 2)) break;
        *reinterpret_cast<float2*>(line + d * 8) =
            make_float2(state.out[d][2 * half] * inverse, state.out[d][2 * half + 1] * inverse);
      }
    }
  }
};

}  // namespace imp
