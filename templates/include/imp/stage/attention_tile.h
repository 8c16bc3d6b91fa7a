// One warp's attention over cache blocks: 16 positions' keys and values of one kv head, as they lie in the cache, times up
// to eight queries on the tensor cores. The cache is the A operand, 16 positions or 16 columns of a head at a time, the
// queries are the columns of B. Queries and softmax weights enter as f16 hi + lo (to 2^-22), in two products.
#pragma once
#include "imp/layout/cache.h"
#include "imp/layout/tile.h"
#include "imp/stage/elementwise.h"

namespace imp {

// x = hi + lo for each of the two.
__device__ __forceinline__ void split_halves(float2 x, std::uint32_t& high, std::uint32_t& low) {
  high = floats_to_half2(x.x, x.y);
  const float2 rounded = half2_to_float2(high);
  low = floats_to_half2(x.x - rounded.x, x.y - rounded.y);
}

// A head's sink: one more score, which softmax counts but which has no value, and which neither the scores' factor nor their
// cap is for. It joins where all keys have been added up, once, whatever splits and spans they came in. Where it is larger
// than every score, these shrink by that much; without that exp2(sink - largest) would overflow.
struct SinkShare {
  float rest;  // factor of what the keys add up to
  float own;
  __device__ __forceinline__ SinkShare(float sink, float largest) {
    const float score = sink * 1.4426950408889634f;
    const float most = max(largest, score);
    rest = exp2_fast(largest - most);
    own = exp2_fast(score - most);
  }
  // Of all weights, where those of the keys have the sum `keys`.
  __device__ __forceinline__ float total(float keys) const { return fma(keys, rest, own); }
};

// Queries as the B operand of the product with keys. In shared memory, [HeadDim / 16][count][4] of these: columns 2t, 2t + 1
// and 2t + 8, 2t + 9 of sixteen, t = 0..3.
struct QueryWords {
  std::uint32_t high[2];
  std::uint32_t low[2];

  // Columns `column`, an even one, and the next of query `query`.
  static __device__ __forceinline__ void store(QueryWords* words, int count, int query, int column, float2 x) {
    QueryWords& to = words[(column / 16 * count + query) * 4 + column % 8 / 2];
    const int half = column % 16 / 8;
    split_halves(x, to.high[half], to.low[half]);
  }
};

// This lane's words of step `k` of a head. Where a head's output leaves no registers for them, they stay where they lie.
template <int HeadDim, bool Held = (HeadDim <= 128)>
struct TileQueries {
  const std::uint8_t* queries;
  int count;

  __device__ __forceinline__ QueryWords operator[](int k) const {
    uint4 w = make_uint4(0, 0, 0, 0);
    if (lane_index() / 4 < count) w = reinterpret_cast<const uint4*>(queries)[k * count * 4 + lane_index()];
    return {{w.x, w.y}, {w.z, w.w}};
  }
};
template <int HeadDim>
struct TileQueries<HeadDim, true> {
  static constexpr int kDepth = HeadDim / 16;
  QueryWords words[kDepth];

  __device__ __forceinline__ TileQueries(const std::uint8_t* queries, int count) {
    const TileQueries<HeadDim, false> lying{queries, count};
#pragma unroll
    for (int k = 0; k < kDepth; k++) words[k] = lying[k];
  }
  __device__ __forceinline__ const QueryWords& operator[](int k) const { return words[k]; }
};

// Where a warp's part of the output will lie, or lies: of each of `count` queries the output, maximum, sum; `stride`
// floats apart.
struct TilePart {
  float* values;
  int count;
  int stride;
};

// Softmax of up to eight queries over blocks that come one after the other. `Windowed`: positions at the beginning of a block may
// be out of sight. `SoftCap`: of the scores, 0 for none. `Rounded`: weights are rounded to f16, and add up to 1 as they are then.
template <bool Windowed, float SoftCap, bool Rounded = false>
struct TileSoftmax {
  static constexpr float kMasked = -1e30f;

  // Softmax weights of a block, as the B operand of the product with its values.
  struct Weights {
    std::uint32_t high[2];
    std::uint32_t low[2];
    float correction[2];  // of what was added up before
  };

  float largest[2] = {kMasked, kMasked};  // of queries 2t and 2t + 1, t = lane % 4
  float total[2] = {0, 0};                // this lane's part of their sums of weights

  // Of the scores at positions g and g + 8, g = lane / 4, of both queries; positions from `begin` (0 without a window) to `end`
  // count, at least one.
  __device__ __forceinline__ Weights weigh(float (&scores)[4], int begin, int end) {
    if constexpr (SoftCap != 0) {
#pragma unroll
      for (float& score : scores) score = soft_cap(score, SoftCap);
    }
    Weights weights;
    float (&correction)[2] = weights.correction;
#pragma unroll
    for (int q = 0; q < 2; q++) {
      const float first = counts(lane_index() / 4, begin, end) ? scores[q] : kMasked;
      const float second = counts(lane_index() / 4 + 8, begin, end) ? scores[q + 2] : kMasked;
      const float before = largest[q];
      largest[q] = max(before, column_max(max(first, second)));
      correction[q] = exp2_fast(before - largest[q]);
      scores[q] = exp2_fast(first - largest[q]);
      scores[q + 2] = exp2_fast(second - largest[q]);
      if constexpr (Rounded) {
        const float2 halfs = half2_to_float2(floats_to_half2(scores[q], scores[q + 2]));
        scores[q] = halfs.x;
        scores[q + 2] = halfs.y;
      }
      total[q] = fma(total[q], correction[q], scores[q] + scores[q + 2]);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      std::uint32_t high;
      std::uint32_t low;
      split_halves(make_float2(scores[2 * i], scores[2 * i + 1]), high, low);
      weights.high[i] = transpose8x8(high);
      weights.low[i] = transpose8x8(low);
    }
    return weights;
  }
  // The sum of all weights of query 2t + q.
  __device__ __forceinline__ float sum(int q) const { return column_sum(total[q]); }

 private:
  static __device__ __forceinline__ bool counts(int position, int begin, int end) {
    return position < end && (!Windowed || position >= begin);
  }
  // Over the eight lanes that hold the same queries.
  static __device__ __forceinline__ float column_max(float value) {
#pragma unroll
    for (int mask = 16; mask >= 4; mask /= 2) value = max(value, shuffle_xor(value, mask));
    return value;
  }
  static __device__ __forceinline__ float column_sum(float value) {
#pragma unroll
    for (int mask = 16; mask >= 4; mask /= 2) value += shuffle_xor(value, mask);
    return value;
  }
};

// `Row`: a format of the cache. `Windowed`, `SoftCap`: of the softmax. `Held`: columns of the output that stay in registers; the
// others lie where the part will.
template <class Row, bool Windowed, float SoftCap, int Held>
struct TileAttention {
  using Softmax = TileSoftmax<Windowed, SoftCap>;
  using Weights = Softmax::Weights;
  static constexpr int kHeadDim = Row::kHeadDim;
  static constexpr int kDepth = kHeadDim / 16;
  static constexpr int kHeld = Held < kHeadDim ? Held / 16 : kDepth;
  static constexpr float kMasked = Softmax::kMasked;
  static_assert(kCacheTokens == 16, "a head's share of a block is one operand of the tensor cores");
  static_assert(kHeadDim % 16 == 0, "a head consists of tensor-core steps of 16");

  Softmax softmax;
  float out[kHeld][4] = {};  // columns 16 d + g and 16 d + g + 8, g = lane / 4, of queries 2t and 2t + 1

  // The block's positions from `begin` (0 without a window) to `end` count, at least one.
  template <class Keys>
  __device__ __forceinline__ Weights keys(const Keys& block, int begin, int end, const TileQueries<kHeadDim>& queries) {
    float parts[2][2][4] = {};  // independent sums: a chain of products would wait for each
#pragma unroll
    for (int k = 0; k < kDepth; k++) {
      std::uint32_t a[4];
      Row::keys(a, block, k);
      const QueryWords words = queries[k];
      mma_f16_k16(parts[k % 2][0], a, words.low);
      mma_f16_k16(parts[k % 2][1], a, words.high);
    }
    float scores[4];  // positions g and g + 8, of both queries
#pragma unroll
    for (int i = 0; i < 4; i++) scores[i] = (parts[0][0][i] + parts[1][0][i]) + (parts[0][1][i] + parts[1][1][i]);
    const Weights weights = softmax.weigh(scores, begin, end);
#pragma unroll
    for (int d = 0; d < kHeld; d++) {
#pragma unroll
      for (int i = 0; i < 4; i++) out[d][i] *= weights.correction[i % 2];
    }
    return weights;
  }

  // Before the first block.
  __device__ __forceinline__ void begin(const TilePart& part) const {
    if constexpr (kHeld < kDepth) {
      for (int q = 0; q < part.count; q++) {
        for (int k = kHeld * 16 + lane_index(); k < kHeadDim; k += kWarp) part.values[q * part.stride + k] = 0;
      }
      warp_sync();
    }
  }

  // Every row of the block must hold numbers, also those that nobody has written yet: their weight is zero.
  template <class Values>
  __device__ __forceinline__ void values(const Values& block, const Weights& weights, const TilePart& part) {
#pragma unroll
    for (int d = 0; d < kHeld; d++) add(block, d, weights, out[d]);
#pragma unroll 4
    for (int d = kHeld; d < kDepth; d++) {
      float sums[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float* at = column(part, d, i);
        sums[i] = at != nullptr ? *at * weights.correction[i % 2] : 0;
      }
      add(block, d, weights, sums);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (float* at = column(part, d, i)) *at = sums[i];
      }
    }
  }

  // The rest of the part.
  __device__ __forceinline__ void store(const TilePart& part) const {
#pragma unroll
    for (int q = 0; q < 2; q++) {
      const int query = lane_index() % 4 * 2 + q;
      const float sum = softmax.sum(q);
      if (query >= part.count) continue;
      float* line = part.values + query * part.stride;
#pragma unroll
      for (int d = 0; d < kHeld; d++) {
        line[d * 16 + lane_index() / 4] = out[d][q];
        line[d * 16 + lane_index() / 4 + 8] = out[d][q + 2];
      }
      if (lane_index() / 4 == 0) {
        line[kHeadDim] = softmax.largest[q];
        line[kHeadDim + 1] = sum;
      }
    }
  }

 private:
  template <class Values>
  static __device__ __forceinline__ void add(const Values& block, int d, const Weights& weights, float (&sums)[4]) {
    std::uint32_t a[4];
    Row::values(a, block, d);
    mma_f16_k16(sums, a, weights.low);
    mma_f16_k16(sums, a, weights.high);
  }
  // Of the four sums of step `d` the i-th; null where there is no such query.
  static __device__ __forceinline__ float* column(const TilePart& part, int d, int i) {
    const int query = lane_index() % 4 * 2 + i % 2;
    return query < part.count ? part.values + query * part.stride + d * 16 + i / 2 * 8 + lane_index() / 4 : nullptr;
  }
};

}  // namespace imp
