// What both forms of decode attention share: the step's own q, k and v (norm, rotation, append to the cache), the walk of
// a CTA's warps over the blocks of its split, and the merge of their parts in a fixed order.
#pragma once
#include "imp/stage/attention_spans.h"
#include "imp/stage/attention_tile.h"
#include "imp/stage/cta.h"
#include "imp/stage/exchange.h"
#include "imp/stage/rope.h"

namespace imp {

struct AttentionConfig {
  int heads;
  int kv_heads;
  int values;        // head of a row with which values begin, perhaps those of the keys; 0: nothing is appended
  int head_dim;
  int latent = 0;        // elements of a key that are its value, the last ones; 0: a value has a row of its own
  int block_tokens;
  int table_blocks;  // places of 16 positions in a sequence's block table
  int block_groups;  // of layers: entries of a place
  int block_bytes;   // of a cache block: all layers of a group
  int splits;        // CTAs that share the blocks of one kv head
  int warps;
  int window;        // positions that a query sees, its own with them; 0: all before it. In the step kernel the most
  int rope_dim;      // elements of a head of q and k that turn
  bool interleaved;
  float magnitude;  // of the rotation
  bool qk_norm;
  bool whole_norm;  // of all heads of q together, and of those of k, each element with a weight of its own
  bool v_norm;  // without a weight
  float eps;
  float scale;     // softmax scale times log2(e)
  float soft_cap;  // of the scores, times log2(e); 0: none
  bool sinks = false;  // each head has one
  int alone = 1;       // blocks for each warp that a CTA takes before others help
  int least = 1;       // and that each CTA has, however many help
};

// Which blocks of 16 positions a CTA takes of those that the query sees. With few, every CTA takes as many as its warps are to
// have at least, and some none.
struct AttentionShare {
  int position;
  int first;   // block that holds the first position in sight
  int active;  // splits that have blocks
  int chunk;   // blocks of a split
  template <AttentionConfig C>
  static __device__ __forceinline__ AttentionShare of(int position, int window) {
    const int first = attention_begin(position, window) / C.block_tokens;
    const int blocks = position / C.block_tokens + 1 - first;
    const int even = (blocks + C.splits - 1) / C.splits;
    const int each = C.latent > 0 ? C.warps / 2 : C.warps;  // of latents four warps share a block
    const int least = each * C.least;
    const bool few = blocks <= each * C.alone;  // which one CTA has done before others' parts are merged
    const int chunk = few ? blocks : even > least ? even : least;
    return {position, first, (blocks + chunk - 1) / chunk, chunk};
  }
  __device__ __forceinline__ int begin(int split) const { return first + split * chunk; }
  __device__ __forceinline__ int end(int split, int block_tokens) const {
    const int blocks = position / block_tokens + 1;
    return begin(split) + chunk < blocks ? begin(split) + chunk : blocks;
  }
};

// `Row`: the format of the cache's rows (layout/cache.h). `Held`: columns of a warp's output that stay in registers. `Room`: bytes
// that the queries' place must have at least.
template <AttentionConfig C, class RowFormat, int Held = C.head_dim, int Room = 0>
struct AttentionCore {
  using Row = RowFormat;
  using Rotary = Rope<RopeConfig{
      .head_dim = C.head_dim, .dim = C.rope_dim, .interleaved = C.interleaved, .magnitude = C.magnitude}>;
  using Tile = TileAttention<Row, (C.window > 0), C.soft_cap, Held>;
  static constexpr int kThreads = C.warps * kWarp;
  // Queries of a CTA: tensor cores take eight, or twice as many where keys are so long that they are worth it.
  static constexpr int kGroup = attention_group(C.heads / C.kv_heads, C.latent > 0 ? 16 : 8);
  static constexpr int kShares = C.heads / C.kv_heads / kGroup;
  static constexpr int kItems = C.kv_heads * kShares;               // CTAs that one split has
  static constexpr int kTileBytes = C.block_tokens * Row::kRowBytes;   // keys, or values, of one head of one block
  static constexpr int kValues = C.kv_heads * kTileBytes;           // v follows k
  static constexpr int kPairs = C.head_dim / 2;
  static constexpr int kLanePairs = ceil_div(kPairs, kWarp);
  static constexpr int kPart = C.head_dim + 2;  // output, maximum, sum
  static constexpr int kNewRows = C.latent ? 1 : 2;

  static constexpr int kQueries = 0;
  static constexpr int kNew = kQueries + (kGroup * C.head_dim * 4 > Room ? kGroup * C.head_dim * 4 : Room);  // this step's row of keys, then of values
  static constexpr int kParts = kNew + kNewRows * Row::kRowBytes;
  static constexpr int kSharedBytes = round_up(kParts + C.warps * kGroup * kPart * 4, 16);
  static_assert(C.heads % C.kv_heads == 0, "query heads share kv heads evenly");
  static_assert(C.values == 0 || C.values >= C.heads, "a row begins with the queries");
  static_assert(Row::kHeadDim == C.head_dim, "the cache has other heads");
  static_assert(C.block_tokens == kCacheTokens, "the plan has other cache blocks than the kernels");
  static_assert(C.interleaved || Rotary::kTurned % 2 == 0, "halves of pairs that turn are stored two elements at a time");

  struct Args {
    const float* q_weight;
    const float* k_weight;
    std::uint8_t* cache;        // this layer's part of block 0
    const std::int32_t* table;  // of the sequence, from its group's first entry on
    const float* sinks = nullptr;
  };

  // Cosines and sines at the step's position: of this lane's pairs in registers.
  struct LaneAngles {
    float2 angles[kLanePairs];
    __device__ __forceinline__ LaneAngles(const std::uint64_t* turns, int position) {
#pragma unroll
      for (int i = 0; i < kLanePairs; i++) {
        const int pair = lane_index() + i * kWarp;
        angles[i] = pair < Rotary::kTurned ? Rotary::angle(turns, pair, position) : make_float2(1, 0);
      }
    }
    // Of the lane's i-th pair, which is the pair `pair`.
    __device__ __forceinline__ float2 operator()(int i, int) const { return angles[i]; }
  };

  // Keys of head `head` in the sequence's block `index`; its values lie kValues further.
  static __device__ __forceinline__ std::uint8_t* tile(const Args& a, int head, int index) {
    return a.cache + static_cast<std::size_t>(a.table[index * C.block_groups]) * C.block_bytes + head * kTileBytes;
  }

  // What must be fetched of `Rows` rows of such a tile, the first of them that of position `first`: those that earlier steps
  // wrote. The step's own row is being written, perhaps by another CTA; where there is no other, it is the beginning of the
  // second row, at which nobody looks. Where nothing is appended, an earlier kernel has written the step's own row too.
  struct Piece {
    const std::uint8_t* data;
    int bytes;
  };
  template <int Rows = C.block_tokens>
  static __device__ __forceinline__ Piece written(const std::uint8_t* rows, int first, int position) {
    static_assert(Rows > 1, "a single row may be the one that is being written");
    const int count = position - first + (C.values == 0 ? 1 : 0);
    if (count >= Rows) return {rows, Rows * Row::kRowBytes};
    return count > 0 ? Piece{rows, count * Row::kRowBytes} : Piece{rows + Row::kRowBytes, 16};
  }

  // What norms of all heads together multiply q and k by.
  struct Factors {
    float q = 1.0f;
    float k = 1.0f;
  };
  // These, of a row of q, k and v; every thread of the CTA calls it. `shared` is free until walk() stores.
  template <class Cta = WholeCta, class Qkv>
  static __device__ __forceinline__ Factors whole_factors(const Qkv& qkv, std::uint8_t* shared) {
    static_assert(kGroup * kPart >= 2, "the warps' sums lie where their parts of the output will");
    float* sums = reinterpret_cast<float*>(shared + kParts);
    const float q = warp_sum(squares_of(qkv, 0, C.heads));
    const float k = C.values > 0 ? warp_sum(squares_of(qkv, C.heads, C.kv_heads)) : 0.0f;
    if (lane_index() == 0) {
      sums[2 * warp_index()] = q;
      sums[2 * warp_index() + 1] = k;
    }
    Cta::sync();
    Factors total{0, 0};
    for (int w = 0; w < C.warps; w++) {
      total.q += sums[2 * w];
      total.k += sums[2 * w + 1];
    }
    return {rsqrt_fast(total.q * (1.0f / static_cast<float>(C.heads * C.head_dim)) + C.eps),
            rsqrt_fast(total.k * (1.0f / static_cast<float>(C.kv_heads * C.head_dim)) + C.eps)};
  }

  // This CTA's queries, rotated and scaled, to shared memory, and where `append`, the step's key and value there and to
  // the cache; a warp each, since each waits for its own part of qkv, f32.
  template <class Qkv, class Angles>
  static __device__ __forceinline__ void prepare(const Args& a, const Qkv& qkv, const Angles& angles, int item,
                                                 int position, bool append, std::uint8_t* shared,
                                                 const Factors& factors = {}) {
    for (int part = warp_index(); part < (append ? kGroup + kNewRows : kGroup); part += C.warps) {
      if (part < kGroup) {
        query(a, qkv, angles, factors.q, item * kGroup + part, part, reinterpret_cast<QueryWords*>(shared + kQueries));
        continue;
      }
      const int head = item / kShares;
      const int line = position % C.block_tokens * Row::kRowBytes;
      std::uint8_t* cached = item % kShares == 0 ? tile(a, head, position / C.block_tokens) + line : nullptr;
      if (part == kGroup) {
        key(a, qkv, angles, factors.k, head, position, shared + kNew, cached);
      } else {
        value(qkv, head, position, shared + kNew + Row::kRowBytes, cached == nullptr ? nullptr : cached + kValues);
      }
    }
  }

  // One warp's blocks first, first + warps, ... of the split: take() gives the keys of one, then its values, and each is
  // given back by release(). The block that the step's position lies in gets the row that `prepare` made.
  template <class Fetch>
  static __device__ __forceinline__ void walk(int position, int window, int first, int end, Fetch& fetch,
                                              std::uint8_t* shared) {
    if (first >= end) return;
    const TileQueries<C.head_dim> queries(shared + kQueries, kGroup);
    const TilePart part{reinterpret_cast<float*>(shared + kParts) + warp_index() * kGroup * kPart, kGroup, kPart};
    Tile attention;
    attention.begin(part);
    for (int block = first; block < end; block += C.warps) {
      const int left = position + 1 - block * C.block_tokens;
      const int count = left < C.block_tokens ? left : C.block_tokens;
      const int hidden = attention_begin(position, window) - block * C.block_tokens;
      const bool own = left <= C.block_tokens;
      const auto keys = fetch.take();
      if (C.values > 0 && own) insert(keys, position, shared + kNew);
      const auto weights = attention.keys(keys, hidden, count, queries);
      if (own) bulk_fence();
      fetch.release();
      const auto values = fetch.take();
      if (own) {
        clear_after(values, count);
        if constexpr (C.values > 0) insert(values, position, shared + kNew + Row::kRowBytes);
      }
      attention.values(values, weights, part);
      if (own) bulk_fence();
      fetch.release();
    }
    attention.store(part);
  }

  // Parts of an output in a fixed order, a few at a time so that their loads overlap: read(first, parts) gives those of
  // kMergeWidth warps or splits from `first` on.
  static constexpr int kMergeWidth = 4;
  struct Parts {
    float value[kMergeWidth];
    float largest[kMergeWidth];
    float total[kMergeWidth];
  };
  struct Merged {
    float value = 0;
    float largest = Tile::kMasked;
    float total = 0;
  };
  // Parts begin as zeros, although those that nobody reads need no value: one that only some rounds write lives on, for the
  // compiler, in all that the step kernel does in between.
  template <class Read>
  static __device__ __forceinline__ Merged merge(int count, const Read& read) {
    Merged m;
    for (int first = 0; first < count; first += kMergeWidth) {
      Parts parts{};
      read(first, parts);
      const float before = m.largest;
#pragma unroll
      for (int i = 0; i < kMergeWidth; i++) {
        if (first + i < count) m.largest = max(m.largest, parts.largest[i]);
      }
      const float correction = exp2_fast(before - m.largest);
      m.total *= correction;
      m.value *= correction;
#pragma unroll
      for (int i = 0; i < kMergeWidth; i++) {
        if (first + i >= count) continue;
        const float weight = exp2_fast(parts.largest[i] - m.largest);
        m.total = fma(weight, parts.total[i], m.total);
        m.value = fma(weight, parts.value[i], m.value);
      }
    }
    return m;
  }
  // Query g, column d, of the CTA's first `used` warps.
  static __device__ __forceinline__ Merged merge_warps(const std::uint8_t* shared, int used, int g, int d) {
    return merge(used, [&](int first, Parts& parts) {
#pragma unroll
      for (int i = 0; i < kMergeWidth; i++) {
        if (first + i >= used) continue;
        const float* part = reinterpret_cast<const float*>(shared + kParts) + ((first + i) * kGroup + g) * kPart;
        parts.value[i] = part[d];
        parts.largest[i] = part[C.head_dim];
        parts.total[i] = part[C.head_dim + 1];
      }
    });
  }

  // What head `head` makes of all parts.
  static __device__ __forceinline__ float output(const Merged& m, const float* sinks, int head) {
    if constexpr (C.sinks) {
      const SinkShare share(sinks[head], m.largest);
      return divide_fast(m.value * share.rest, share.total(m.total));
    } else {
      return divide_fast(m.value, m.total);
    }
  }

  // Zeros after the first `count` rows of a landed tile, which no weight of zero turns into NaN.
  template <class Landed>
  static __device__ __forceinline__ void clear_after(const Landed& landed, int count) {
    for (int i = count * Row::kRowBytes + lane_index() * 16; i < kTileBytes; i += kWarp * 16) {
      *reinterpret_cast<uint4*>(landed.row(i / Row::kRowBytes) + i % Row::kRowBytes) = make_uint4(0, 0, 0, 0);
    }
    warp_sync();
  }
  // The step's row into a landed tile.
  template <class Landed>
  static __device__ __forceinline__ void insert(const Landed& landed, int position, const std::uint8_t* row) {
    std::uint8_t* line = landed.row(position % C.block_tokens);
    for (int i = lane_index() * 16; i < Row::kRowBytes; i += kWarp * 16) {
      *reinterpret_cast<uint4*>(line + i) = *reinterpret_cast<const uint4*>(row + i);
    }
    warp_sync();
  }

 private:
  template <class Qkv, class Angles>
  static __device__ __forceinline__ void query(const Args& a, const Qkv& qkv, const Angles& angles, float factor,
                                               int head, int number, QueryWords* words) {
    float2 v[kLanePairs];
    rotate(qkv, head, C.whole_norm ? a.q_weight + head * C.head_dim : a.q_weight, factor, angles, v);
#pragma unroll
    for (int i = 0; i < kLanePairs; i++) {
      const int pair = lane_index() + i * kWarp;
      float2 x = make_float2(v[i].x * C.scale, v[i].y * C.scale);
      int column = Rotary::first(pair);
      if constexpr (!C.interleaved && Rotary::kTurned > 0) {  // neighbouring lanes have neighbouring columns: one takes both first ones
        const bool odd = lane_index() % 2 != 0;
        const float other = shuffle_xor(odd ? x.x : x.y, 1);
        if (Rotary::turns(pair)) {
          x = odd ? make_float2(other, x.y) : make_float2(x.x, other);
          column = odd ? Rotary::second(pair - 1) : column;
        }
      }
      if (pair < kPairs) QueryWords::store(words, kGroup, number, column, x);
    }
  }
  // To `row` in shared memory and, unless null, to `cached`.
  template <class Qkv, class Angles>
  static __device__ __forceinline__ void key(const Args& a, const Qkv& qkv, const Angles& angles, float factor, int head,
                                             int position, std::uint8_t* row, std::uint8_t* cached) {
    float2 v[kLanePairs];
    rotate(qkv, C.heads + head, C.whole_norm ? a.k_weight + head * C.head_dim : a.k_weight, factor, angles, v);
    Row::encode(position, v, Rotary{}, Kept{row, cached});
  }
  template <class Qkv>
  static __device__ __forceinline__ void value(const Qkv& qkv, int head, int position, std::uint8_t* row,
                                               std::uint8_t* cached) {
    int at[2 * kLanePairs];
    float v[2 * kLanePairs];
#pragma unroll
    for (int i = 0; i < 2 * kLanePairs; i++) {
      const int pair = lane_index() + i / 2 * kWarp;
      at[i] = pair < kPairs ? (C.values + head) * C.head_dim + 2 * pair + i % 2 : -1;
    }
    qkv.gather(v, at);
    if constexpr (C.v_norm) {
      float squares = 0;
#pragma unroll
      for (float x : v) squares = fma(x, x, squares);
      const float factor = norm_factor(squares);
#pragma unroll
      for (float& x : v) x *= factor;
    }
    float2 pairs[kLanePairs];
#pragma unroll
    for (int i = 0; i < kLanePairs; i++) pairs[i] = make_float2(v[2 * i], v[2 * i + 1]);
    Row::encode(position, pairs, NeighbourColumns{}, Kept{row, cached});
  }
  // Where a new row goes.
  struct Kept {
    std::uint8_t* row;
    std::uint8_t* cached;
    template <class T>
    __device__ __forceinline__ void operator()(int byte, T bits) const {
      *reinterpret_cast<T*>(row + byte) = bits;
      if (cached != nullptr) *reinterpret_cast<T*>(cached + byte) = bits;
    }
  };

  // A head's pairs of this lane after QK-norm and rotation; the whole warp calls it. `whole`: a factor of all heads.
  template <class Qkv, class Angles>
  static __device__ __forceinline__ void rotate(const Qkv& x, int head, const float* weight, float whole,
                                                const Angles& angles, float2 (&v)[kLanePairs]) {
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
      squares = fma(v[i].x, v[i].x, fma(v[i].y, v[i].y, squares));
    }
    if constexpr (C.qk_norm) {
      const float factor = C.whole_norm ? whole : norm_factor(squares);
#pragma unroll
      for (int i = 0; i < kLanePairs; i++) v[i] = make_float2(v[i].x * factor * g[i].x, v[i].y * factor * g[i].y);
    }
#pragma unroll
    for (int i = 0; i < kLanePairs; i++) {
      const int pair = lane_index() + i * kWarp;
      if (pair < Rotary::kTurned) v[i] = rotate_pair(v[i], angles(i, pair));
    }
  }
  // This thread's part of the sum of squares of `count` heads.
  template <class Qkv>
  static __device__ __forceinline__ float squares_of(const Qkv& qkv, int first, int count) {
    float squares = 0;
    for (int i = thread_index() * 4; i < count * C.head_dim; i += kThreads * 4) {
      const int at[1] = {first * C.head_dim + i};
      float4 v[1];
      qkv.read(v, at);
      squares = fma(v[0].x, v[0].x, fma(v[0].y, v[0].y, fma(v[0].z, v[0].z, fma(v[0].w, v[0].w, squares))));
    }
    return squares;
  }
  // 1 / rms of a head, from this lane's sum of squares.
  static __device__ __forceinline__ float norm_factor(float squares) {
    return rsqrt_fast(fma(warp_sum(squares), 1.0f / static_cast<float>(C.head_dim), C.eps));
  }
};

}  // namespace imp
