// Several rows, after q, k and v: per-head norm and rotation of q and k; k and v go to the paged cache, q stays where it is
// as f32, multiplied by the softmax scale. Where a layer reads another's cache, there is only q. One CTA for each row; a
// warp takes a head at a time.
#pragma once
#include "imp/layout/cache.h"
#include "imp/layout/tile.h"
#include "imp/stage/rope.h"
#include "imp/stage/rows.h"

namespace imp {

struct RopeAppendConfig {
  int heads;
  int kv_heads;
  int head_dim;
  int rows;          // at most
  int values;        // head of a row with which values begin, perhaps those of the keys; 0: nothing is appended
  int latent = 0;        // elements of a key that are its value; 0: a value has a row of its own
  int stride;        // floats of a row
  int table_blocks;  // places of 16 positions in a sequence's block table
  int block_groups;  // of layers: entries of a place
  int block_bytes;   // of one cache block, all layers of a group
  int rope_dim;      // elements of a head of q and k that turn
  bool interleaved;
  float magnitude;  // of the rotation
  bool qk_norm;     // RMS norm of each q and k head
  bool whole_norm;  // or of all heads of q together, and of those of k, each element with a weight of its own
  bool v_norm;      // and of each v head, without a weight
  float eps;
  float scale;  // of q: softmax scale times log2(e)
};

template <RopeAppendConfig C, class Row>
struct RopeAppend {
  using Pairs = Rope<RopeConfig{
      .head_dim = C.head_dim, .dim = C.rope_dim, .interleaved = C.interleaved, .magnitude = C.magnitude}>;
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kPairs = C.head_dim / 2;
  static constexpr int kLanePairs = ceil_div(kPairs, kWarp);
  static constexpr int kSums = Pairs::kTurned * 8;  // of squares, where all heads are normed together
  static constexpr int kSharedBytes = kSums + (C.whole_norm ? 2 * kWarps * 4 : 0);
  static constexpr int kGridX = C.rows;
  static constexpr int kGridY = 1;
  static constexpr int kGridZ = 1;
  static constexpr int kTiles = C.latent > 0 ? 1 : 2;  // of a kv head in a block
  static constexpr int kHeads = C.heads + (C.values > 0 ? kTiles * C.kv_heads : 0);
  static constexpr int kHeadBytes = kCacheTokens * Row::kRowBytes;
  static constexpr int kValues = C.kv_heads * kHeadBytes;  // in a layer's block, v follows k
  static_assert(C.heads % C.kv_heads == 0, "query heads share kv heads evenly");
  static_assert(Row::kHeadDim == C.head_dim, "the cache has other heads");
  static_assert(Pairs::kTurned <= kThreads, "each thread computes at most one angle");
  static_assert(C.block_bytes >= kValues * kTiles, "a cache block holds k and v of at least one layer");

  static_assert(C.values == 0 || C.values >= C.heads, "a row begins with the queries");

  struct Args {
    float* qkv;                  // [rows, stride]: heads of q, k and v, where there are k and v
    const float* q_norm;         // [head_dim] or null
    const float* k_norm;         // likewise
    const std::uint64_t* turns;  // [rope_dim / 2] or null
    std::uint8_t* cache;         // this layer's part of block 0
    const std::int32_t* table;   // its group's entries
    const std::int32_t* positions;
    const StepHeader* step;
    const StepRow* rows;
  };
  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    const int row = block_index();
    if (row >= a.step->rows) return;
    const int slot = a.rows[row].slot;
    const int position = a.positions[slot] + a.rows[row].offset;
    auto* rotation = reinterpret_cast<float2*>(shared_memory());  // cosine, sine
    if (thread_index() < Pairs::kTurned) rotation[thread_index()] = Pairs::angle(a.turns, thread_index(), position);
    grid_wait();
    block_sync();
    float* line = a.qkv + static_cast<std::size_t>(row) * C.stride;
    float2 whole = make_float2(1, 1);  // what q and k are multiplied by
    if constexpr (C.whole_norm) whole = whole_factors(line);

    const int block = a.table[(slot * C.table_blocks + position / kCacheTokens) * C.block_groups];
    std::uint8_t* keys = a.cache + static_cast<std::size_t>(block) * C.block_bytes + position % kCacheTokens * Row::kRowBytes;
    // The warp's next head is on its way before this one is written: for all that the compiler knows, they overlap.
    Elements next;
    if (warp_index() < kHeads) next.load(line, warp_index());
    for (int head = warp_index(); head < kHeads; head += kWarps) {
      const Elements x = next;
      if (head + kWarps < kHeads) next.load(line, head + kWarps);
      const int key = head - C.heads;
      const int value = key - C.kv_heads;
      if (key < 0) {
        const float* norm = C.whole_norm ? a.q_norm + head * C.head_dim : a.q_norm;
        rotate_query(x, norm, whole.x, rotation, line + head * C.head_dim);
      } else if (value < 0) {
        const float* norm = C.whole_norm ? a.k_norm + key * C.head_dim : a.k_norm;
        append_key(x, norm, whole.y, rotation, position, keys + key * kHeadBytes);
      } else {
        append_value(x, position, keys + kValues + value * kHeadBytes);
      }
    }
  }

 private:
  // This lane's pairs of a head: of q and k those that turn together, of v neighbours.
  struct Elements {
    float2 pairs[kLanePairs] = {};
    __device__ __forceinline__ void load(const float* line, int head) {
      const int value = head - C.heads - C.kv_heads;
      const float* x = line + (value < 0 ? head : C.values + value) * C.head_dim;
#pragma unroll
      for (int i = 0; i < kLanePairs; i++) {
        const int p = lane_index() + i * kWarp;
        const int first = value < 0 ? Pairs::first(p) : 2 * p;
        const int second = value < 0 ? Pairs::second(p) : 2 * p + 1;
        if (p < kPairs) pairs[i] = make_float2(x[first], x[second]);
      }
    }
  };

  static __device__ __forceinline__ void rotate(const Elements& x, const float* norm, float whole,
                                                const float2* rotation, float2 (&out)[kLanePairs]) {
    float squares = 0;
#pragma unroll
    for (int i = 0; i < kLanePairs; i++) {
      out[i] = x.pairs[i];
      squares = fma(out[i].x, out[i].x, fma(out[i].y, out[i].y, squares));
    }
    float factor = 1.0f;
    if constexpr (C.qk_norm) factor = C.whole_norm ? whole : norm_factor(squares);
#pragma unroll
    for (int i = 0; i < kLanePairs; i++) {
      const int p = lane_index() + i * kWarp;
      if (p >= kPairs) continue;
      if constexpr (C.qk_norm) {
        out[i].x *= norm[Pairs::first(p)] * factor;
        out[i].y *= norm[Pairs::second(p)] * factor;
      }
      if (Pairs::turns(p)) out[i] = rotate_pair(out[i], rotation[p]);
    }
  }

  static __device__ __forceinline__ void rotate_query(const Elements& x, const float* norm, float whole,
                                                      const float2* rotation, float* query) {
    float2 out[kLanePairs];
    rotate(x, norm, whole, rotation, out);
#pragma unroll
    for (int i = 0; i < kLanePairs; i++) {
      const int p = lane_index() + i * kWarp;
      if (p >= kPairs) continue;
      query[Pairs::first(p)] = out[i].x * C.scale;
      query[Pairs::second(p)] = out[i].y * C.scale;
    }
  }

  static __device__ __forceinline__ void append_key(const Elements& x, const float* norm, float whole,
                                                    const float2* rotation, int position, std::uint8_t* key) {
    float2 out[kLanePairs];
    rotate(x, norm, whole, rotation, out);
    Row::encode(position, out, Pairs{}, Kept{key});
  }

  static __device__ __forceinline__ void append_value(const Elements& x, int position, std::uint8_t* value) {
    float2 v[kLanePairs];
    float squares = 0;
#pragma unroll
    for (int i = 0; i < kLanePairs; i++) {
      v[i] = x.pairs[i];
      squares = fma(v[i].x, v[i].x, fma(v[i].y, v[i].y, squares));
    }
    if constexpr (C.v_norm) {
      const float factor = norm_factor(squares);
#pragma unroll
      for (float2& pair : v) pair = make_float2(pair.x * factor, pair.y * factor);
    }
    Row::encode(position, v, NeighbourColumns{}, Kept{value});
  }

  // 1 / rms of all heads of q and of k, before q changes where it lies; every thread of the CTA calls it.
  static __device__ __forceinline__ float2 whole_factors(const float* line) {
    constexpr int kQueries = C.heads * C.head_dim;
    constexpr int kKeys = C.values > 0 ? C.kv_heads * C.head_dim : 0;
    float2 squares = make_float2(0, 0);
    for (int i = thread_index(); i < kQueries; i += kThreads) squares.x = fma(line[i], line[i], squares.x);
    for (int i = kQueries + thread_index(); i < kQueries + kKeys; i += kThreads) {
      squares.y = fma(line[i], line[i], squares.y);
    }
    squares = make_float2(warp_sum(squares.x), warp_sum(squares.y));
    auto* sums = reinterpret_cast<float2*>(shared_memory() + kSums);
    if (lane_index() == 0) sums[warp_index()] = squares;
    block_sync();
    float2 total = make_float2(0, 0);
#pragma unroll
    for (int w = 0; w < kWarps; w++) total = make_float2(total.x + sums[w].x, total.y + sums[w].y);
    return make_float2(rsqrt_fast(total.x * (1.0f / static_cast<float>(kQueries)) + C.eps),
                       rsqrt_fast(total.y * (1.0f / static_cast<float>(C.kv_heads * C.head_dim)) + C.eps));
  }

  // Where a new row goes.
  struct Kept {
    std::uint8_t* row;
    template <class T>
    __device__ __forceinline__ void operator()(int byte, T bits) const {
      *reinterpret_cast<T*>(row + byte) = bits;
    }
  };

  // 1 / rms of a head, from this lane's sum of squares.
  static __device__ __forceinline__ float norm_factor(float squares) {
    return rsqrt_fast(fma(warp_sum(squares), 1.0f / static_cast<float>(C.head_dim), C.eps));
  }
};

}  // namespace imp
