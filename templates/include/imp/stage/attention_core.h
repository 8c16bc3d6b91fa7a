// What both forms of decode attention share: the step's own q, k and v (norm, rotation, append to the cache), the walk of
// a CTA's warps over the blocks of its split, and the merge of their parts in a fixed order.
#pragma once
#include "imp/stage/attention_tile.h"
#include "imp/stage/exchange.h"
#include "imp/stage/rope.h"

namespace imp {

struct AttentionConfig {
  int heads;
  int kv_heads;
  int head_dim;
  int block_tokens;
  int block_bytes;   // of a cache block: all layers
  int table_blocks;  // block table entries of one sequence
  int splits;        // CTAs that share the blocks of one kv head
  int warps;
  bool interleaved;
  bool qk_norm;
  float eps;
  float scale;  // softmax scale times log2(e)
};

// Query heads of one kv head that one CTA takes: the tensor cores take eight at most.
constexpr int attention_group(int queries) {
  int shares = 1;
  while (queries % shares != 0 || queries / shares > 8) shares++;
  return queries / shares;
}

// Which blocks of 16 positions a CTA takes. With few, every CTA takes as many as it has warps, and some none.
struct AttentionShare {
  int position;
  int active;  // splits that have blocks
  int chunk;   // blocks of a split
  template <AttentionConfig C>
  static __device__ __forceinline__ AttentionShare of(int position) {
    const int blocks = position / C.block_tokens + 1;
    const int even = (blocks + C.splits - 1) / C.splits;
    const int chunk = even > C.warps ? even : C.warps;
    return {position, (blocks + chunk - 1) / chunk, chunk};
  }
  __device__ __forceinline__ int begin(int split) const { return split * chunk; }
  __device__ __forceinline__ int end(int split, int block_tokens) const {
    const int blocks = position / block_tokens + 1;
    return begin(split) + chunk < blocks ? begin(split) + chunk : blocks;
  }
};

template <AttentionConfig C>
struct AttentionCore {
  using Rotary = Rope<RopeConfig{.head_dim = C.head_dim, .interleaved = C.interleaved}>;
  using Row = CacheRow<C.head_dim>;
  static constexpr int kThreads = C.warps * kWarp;
  static constexpr int kGroup = attention_group(C.heads / C.kv_heads);  // queries of a CTA
  static constexpr int kShares = C.heads / C.kv_heads / kGroup;
  static constexpr int kItems = C.kv_heads * kShares;               // CTAs that one split has
  static constexpr int kTileBytes = C.block_tokens * Row::kBytes;   // keys, or values, of one head of one block
  static constexpr int kValues = C.kv_heads * kTileBytes;           // v follows k
  static constexpr int kPairs = C.head_dim / 2;
  static constexpr int kLanePairs = ceil_div(kPairs, kWarp);
  static constexpr int kPart = C.head_dim + 2;  // output, maximum, sum

  static constexpr int kQueries = 0;
  static constexpr int kNew = kQueries + kGroup * C.head_dim * 4;  // this step's row of keys, then of values
  static constexpr int kParts = kNew + 2 * Row::kBytes;
  static constexpr int kSharedBytes = round_up(kParts + C.warps * kGroup * kPart * 4, 16);
  static_assert(C.heads % C.kv_heads == 0, "query heads share kv heads evenly");
  static_assert(C.block_tokens == TileAttention<C.head_dim>::kTokens, "a tile is the share of a head in a cache block");

  struct Args {
    const float* q_weight;
    const float* k_weight;
    std::uint8_t* cache;  // this layer's part of block 0
    const std::int32_t* table;
  };

  // Sines and cosines of this lane's pairs at the step's position.
  struct Angles {
    float s[kLanePairs];
    float c[kLanePairs];
    __device__ __forceinline__ Angles(const std::uint64_t* turns, int position) {
#pragma unroll
      for (int i = 0; i < kLanePairs; i++) {
        const int pair = lane_index() + i * kWarp;
        s[i] = c[i] = 0;
        if (pair < kPairs) rope_angle(turns, pair, position, s[i], c[i]);
      }
    }
  };

  // Keys of head `head` in the sequence's block `index`; its values lie kValues further.
  static __device__ __forceinline__ std::uint8_t* tile(const Args& a, int head, int index) {
    return a.cache + static_cast<std::size_t>(a.table[index]) * C.block_bytes + head * kTileBytes;
  }

  // What must be fetched of such a tile: the rows that earlier steps wrote. The step's own row is being written, perhaps by
  // another CTA; a tile that has no other gives the piece after it, which nobody looks at.
  struct Piece {
    const std::uint8_t* data;
    int bytes;
  };
  static __device__ __forceinline__ Piece written(const std::uint8_t* tile, int index, int position) {
    const int rows = position - index * C.block_tokens;
    if (rows >= C.block_tokens) return {tile, kTileBytes};
    return rows > 0 ? Piece{tile, rows * Row::kBytes} : Piece{tile + Row::kBytes, 16};
  }

  // This CTA's queries, rotated and scaled, to shared memory, a warp a head; and where `append`, the step's key and value
  // there and to the cache, by the last warp, since the first ones are busy. qkv: f32 [heads + 2 kv_heads, head_dim].
  template <class Qkv>
  static __device__ __forceinline__ void prepare(const Args& a, const Qkv& qkv, const Angles& angles, int item,
                                                 int position, bool append, std::uint8_t* shared) {
    float* queries = reinterpret_cast<float*>(shared + kQueries);
    for (int g = warp_index(); g < kGroup; g += C.warps) {
      float2 v[kLanePairs];
      rotate(qkv, item * kGroup + g, a.q_weight, angles, v);
#pragma unroll
      for (int i = 0; i < kLanePairs; i++) {
        const int pair = lane_index() + i * kWarp;
        if (pair >= kPairs) continue;
        queries[g * C.head_dim + Rotary::first(pair)] = v[i].x * C.scale;
        queries[g * C.head_dim + Rotary::second(pair)] = v[i].y * C.scale;
      }
    }
    if (!append || warp_index() != C.warps - 1) return;
    const int head = item / kShares;
    float2 key[kLanePairs];
    rotate(qkv, C.heads + head, a.k_weight, angles, key);
    int at[2 * kLanePairs];
    float value[2 * kLanePairs];
#pragma unroll
    for (int i = 0; i < 2 * kLanePairs; i++) {
      const int pair = lane_index() + i / 2 * kWarp;
      at[i] = pair < kPairs ? (C.heads + C.kv_heads + head) * C.head_dim + 2 * pair + i % 2 : -1;
    }
    qkv.gather(value, at);
#pragma unroll
    for (int i = 0; i < kLanePairs; i++) {
      const int pair = lane_index() + i * kWarp;
      if (pair >= kPairs) continue;
      std::uint8_t* keys = shared + kNew;
      std::uint8_t* values = keys + Row::kBytes;
      *reinterpret_cast<std::uint16_t*>(keys + Row::element(position, Rotary::first(pair))) = float_to_half(key[i].x);
      *reinterpret_cast<std::uint16_t*>(keys + Row::element(position, Rotary::second(pair))) = float_to_half(key[i].y);
      *reinterpret_cast<std::uint32_t*>(values + Row::element(position, 2 * pair)) =
          floats_to_half2(value[2 * i], value[2 * i + 1]);
    }
  }

  // One warp's blocks first, first + warps, ... of the split, each fetched by `take(index, values?)` and given back by
  // `release()`. The block that the step's position lies in gets the row that `prepare` made.
  template <class Fetch>
  static __device__ __forceinline__ void walk(const Args& a, int item, int position, int first, int end, Fetch& fetch,
                                              std::uint8_t* shared) {
    const TileQueries<C.head_dim> queries(reinterpret_cast<const float*>(shared + kQueries), kGroup);
    TileAttention<C.head_dim> attention;
    for (int block = first; block < end; block += C.warps) {
      const int left = position + 1 - block * C.block_tokens;
      const int count = left < C.block_tokens ? left : C.block_tokens;
      const bool own = left <= C.block_tokens;
      std::uint8_t* keys = fetch.take();
      if (own) append(a, item, position, block, keys, shared + kNew, 0);
      const auto weights = attention.keys(keys, count, queries);
      fetch.release();
      std::uint8_t* values = fetch.take();
      if (own) append(a, item, position, block, values, shared + kNew + Row::kBytes, kValues);
      attention.values(values, weights);
      fetch.release();
    }
    attention.store(reinterpret_cast<float*>(shared + kParts) + warp_index() * kGroup * kPart, kGroup, kPart);
  }

  // A warp's part, in the order of warps; `used` of them had blocks. Output, maximum and sum of query g, column d.
  struct Merged {
    float value;
    float largest;
    float total;
  };
  static __device__ __forceinline__ Merged merged(const std::uint8_t* shared, int used, int g, int d) {
    const float* parts = reinterpret_cast<const float*>(shared + kParts) + g * kPart;
    Merged m{0, TileAttention<C.head_dim>::kMasked, 0};
#pragma unroll 2
    for (int w = 0; w < used; w++) m.largest = max(m.largest, parts[w * kGroup * kPart + C.head_dim]);
#pragma unroll 2
    for (int w = 0; w < used; w++) {
      const float* part = parts + w * kGroup * kPart;
      const float weight = exp2_fast(part[C.head_dim] - m.largest);
      m.total += weight * part[C.head_dim + 1];
      m.value += weight * part[d];
    }
    return m;
  }

  // The parts of the active splits, in order, a few at a time so that their loads overlap. read(split, g, d, parts) gives
  // those of kMergeWidth splits from `split` on: outputs at column d, maxima and sums of query g.
  static constexpr int kMergeWidth = 4;
  struct Parts {
    float value[kMergeWidth];
    float largest[kMergeWidth];
    float total[kMergeWidth];
  };
  template <class Read>
  static __device__ __forceinline__ float merge_splits(int active, int g, int d, const Read& read) {
    float largest = TileAttention<C.head_dim>::kMasked;
    float total = 0;
    float sum = 0;
    for (int split = 0; split < active; split += kMergeWidth) {
      Parts parts;
      read(split, g, d, parts);
      const float before = largest;
#pragma unroll
      for (int s = 0; s < kMergeWidth; s++) {
        if (split + s < active) largest = max(largest, parts.largest[s]);
      }
      const float correction = exp2_fast(before - largest);
      total *= correction;
      sum *= correction;
#pragma unroll
      for (int s = 0; s < kMergeWidth; s++) {
        if (split + s >= active) continue;
        const float weight = exp2_fast(parts.largest[s] - largest);
        total += weight * parts.total[s];
        sum += weight * parts.value[s];
      }
    }
    return divide_fast(sum, total);
  }

 private:
  // A head's pairs of this lane after QK-norm and rotation; the whole warp calls it.
  template <class Qkv>
  static __device__ __forceinline__ void rotate(const Qkv& x, int head, const float* weight, const Angles& angles,
                                                float2 (&v)[kLanePairs]) {
    float2 g[kLanePairs] = {};
    if constexpr (C.qk_norm) {  // before the input, which may have to be waited for
#pragma unroll
      for (int i = 0; i < kLanePairs; i++) {
        const int pair = lane_index() + i * kWarp;
        if (pair < kPairs) g[i] = make_float2(weight[Rotary::first(pair)], weight[Rotary::second(pair)]);
      }
    }
    int at[2 * kLanePairs];
    float values[2 * kLanePairs];
#pragma unroll
    for (int i = 0; i < kLanePairs; i++) {
      const int pair = lane_index() + i * kWarp;
      at[2 * i] = pair < kPairs ? head * C.head_dim + Rotary::first(pair) : -1;
      at[2 * i + 1] = pair < kPairs ? head * C.head_dim + Rotary::second(pair) : -1;
    }
    x.gather(values, at);
    float squares = 0;
#pragma unroll
    for (int i = 0; i < kLanePairs; i++) {
      v[i] = make_float2(values[2 * i], values[2 * i + 1]);
      squares += v[i].x * v[i].x + v[i].y * v[i].y;
    }
    if constexpr (C.qk_norm) {
      const float factor = rsqrt_fast(warp_sum(squares) * (1.0f / static_cast<float>(C.head_dim)) + C.eps);
#pragma unroll
      for (int i = 0; i < kLanePairs; i++) v[i] = make_float2(v[i].x * factor * g[i].x, v[i].y * factor * g[i].y);
    }
#pragma unroll
    for (int i = 0; i < kLanePairs; i++) {
      v[i] = make_float2(v[i].x * angles.c[i] - v[i].y * angles.s[i], v[i].y * angles.c[i] + v[i].x * angles.s[i]);
    }
  }

  // The new row into a landed tile and into the cache; and zeros after it, which no weight of zero turns into NaN.
  static __device__ __forceinline__ void append(const Args& a, int item, int position, int block, std::uint8_t* landed,
                                                const std::uint8_t* row, int offset) {
    const int line = position % C.block_tokens * Row::kBytes;
    std::uint8_t* cached = tile(a, item / kShares, block) + offset + line;
    for (int i = lane_index(); i < Row::kBytes / 4; i += kWarp) {
      const std::uint32_t word = reinterpret_cast<const std::uint32_t*>(row)[i];
      reinterpret_cast<std::uint32_t*>(landed + line)[i] = word;
      if (item % kShares == 0) reinterpret_cast<std::uint32_t*>(cached)[i] = word;
    }
    for (int i = line + Row::kBytes + lane_index() * 4; i < kTileBytes; i += kWarp * 4) {
      *reinterpret_cast<std::uint32_t*>(landed + i) = 0;
    }
    bulk_fence();
    warp_sync();
  }
};

}  // namespace imp
