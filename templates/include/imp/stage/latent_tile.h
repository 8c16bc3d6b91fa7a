// Attention over cache blocks whose rows are keys and, from a column on, values: 16 positions times up to 16 queries, by four warps
// together. Each of them multiplies a quarter of the keys' columns, whose scores all four add up in the same order, and makes
// a quarter of the output's columns. So a row is read from shared memory twice, whatever it is long, and neither queries nor
// output leave a warp's registers. Operands are those of attention_tile.h.
#pragma once
#include "imp/stage/attention_tile.h"
#include "imp/stage/exchange.h"

namespace imp {

// `Row`: a format of the cache. `Latent`: the last elements of a row, its value. `Queries`: at most 16. `Rounded`: softmax weights are
// f16, not f16 hi + lo.
template <class Row, int Latent, int Queries, bool Rounded = false>
struct LatentTile {
  static constexpr int kWarps = 4;
  static constexpr int kEights = ceil_div(Queries, 8);  // tensor cores take eight queries
  static constexpr int kDepth = Row::kHeadDim / 16;
  static constexpr int kSteps = Latent / 16;
  static constexpr int kOwnDepth = ceil_div(kDepth, kWarps);
  static constexpr int kOwnSteps = ceil_div(kSteps, kWarps);
  static constexpr int kFirst = (Row::kHeadDim - Latent) / 16;
  static constexpr int kScoresBytes = kWarps * kEights * kWarp * 16;  // of a block, in parts
  using Softmax = TileSoftmax<false, 0.0f, Rounded>;
  static_assert(kCacheTokens == 16, "a block is one operand of the tensor cores");
  static_assert(Row::kHeadDim % 16 == 0 && Latent % 16 == 0, "a row consists of tensor-core steps of 16");

  QueryWords queries[kOwnDepth][kEights];
  Softmax softmax[kEights];
  float out[kOwnSteps][kEights][4] = {};  // columns 16 d + g and 16 d + g + 8, g = lane / 4, of queries 2t and 2t + 1 of eight

  static __device__ __forceinline__ int part() { return warp_index() % kWarps; }

  // `words`: of all queries, as QueryWords stores them.
  __device__ __forceinline__ explicit LatentTile(const std::uint8_t* words) {
#pragma unroll
    for (int i = 0; i < kOwnDepth; i++) {
      const int k = part() * kOwnDepth + i;
#pragma unroll
      for (int j = 0; j < kEights; j++) {
        uint4 w = make_uint4(0, 0, 0, 0);
        if (k < kDepth && j * 8 + lane_index() / 4 < Queries) {
          w = reinterpret_cast<const uint4*>(words)[k * Queries * 4 + j * kWarp + lane_index()];
        }
        queries[i][j] = {{w.x, w.y}, {w.z, w.w}};
      }
    }
  }

  // `q` [Queries, elements of a head]: scaled.
  __device__ __forceinline__ explicit LatentTile(const float* q) {
#pragma unroll
    for (int i = 0; i < kOwnDepth; i++) {
      const int k = part() * kOwnDepth + i;
#pragma unroll
      for (int j = 0; j < kEights; j++) {
        const int query = j * 8 + lane_index() / 4;
        const bool real = k < kDepth && query < Queries;
        const float* at = q + query * Row::kHeadDim + k * 16 + lane_index() % 4 * 2;
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const float2 x = real ? *reinterpret_cast<const float2*>(at + half * 8) : make_float2(0, 0);
          split_halves(x, queries[i][j].high[half], queries[i][j].low[half]);
        }
      }
    }
  }

  // This warp's part of the block's scores, to shared memory.
  template <class Block>
  __device__ __forceinline__ void multiply(const Block& block, std::uint8_t* scores) const {
    float sums[kEights][2][4] = {};  // independent: a chain of products would wait for each
#pragma unroll
    for (int i = 0; i < kOwnDepth; i++) {
      const int k = part() * kOwnDepth + i;
      if (kDepth % kWarps != 0 && k >= kDepth) break;
      std::uint32_t a[4];
      Row::keys(a, block, k);
#pragma unroll
      for (int j = 0; j < kEights; j++) {
        mma_f16_k16(sums[j][0], a, queries[i][j].low);
        mma_f16_k16(sums[j][1], a, queries[i][j].high);
      }
    }
#pragma unroll
    for (int j = 0; j < kEights; j++) {
      *place(scores, part(), j) = make_float4(sums[j][0][0] + sums[j][1][0], sums[j][0][1] + sums[j][1][1],
                                              sums[j][0][2] + sums[j][1][2], sums[j][0][3] + sums[j][1][3]);
    }
  }

  // Once all four warps have multiplied: the block's first `count` positions, at least one. All its rows must hold numbers, also
  // those that nobody has written yet: their weight is zero.
  template <class Block>
  __device__ __forceinline__ void add(const Block& block, std::uint8_t* scores, int count) {
    typename Softmax::Weights weights[kEights];
#pragma unroll
    for (int j = 0; j < kEights; j++) {
      float sums[4] = {};
#pragma unroll
      for (int w = 0; w < kWarps; w++) {
        const float4 more = *place(scores, w, j);
        sums[0] += more.x;
        sums[1] += more.y;
        sums[2] += more.z;
        sums[3] += more.w;
      }
      weights[j] = softmax[j].weigh(sums, 0, count);
    }
#pragma unroll
    for (int i = 0; i < kOwnSteps; i++) {
      const int d = part() * kOwnSteps + i;
      if (kSteps % kWarps != 0 && d >= kSteps) break;
      std::uint32_t a[4];
      Row::values(a, block, kFirst + d);
#pragma unroll
      for (int j = 0; j < kEights; j++) {
#pragma unroll
        for (int n = 0; n < 4; n++) out[i][j][n] *= weights[j].correction[n % 2];
        if constexpr (!Rounded) mma_f16_k16(out[i][j], a, weights[j].low);
        mma_f16_k16(out[i][j], a, weights[j].high);
      }
    }
  }

  // This warp's columns; the first warp's also maximum and sum, behind all columns.
  __device__ __forceinline__ void store(const TilePart& to) const {
    each_query([&](int query, float largest, float sum, const auto& value) {
      float* line = to.values + query * to.stride;
      each_step([&](int i, int column) {
        line[column] = value(i, 0);
        line[column + 8] = value(i, 2);
      });
      if (part() == 0 && lane_index() / 4 == 0) {
        line[Latent] = largest;
        line[Latent + 1] = sum;
      }
    });
  }
  // This warp's columns of what its queries attend to, [Queries, Latent].
  __device__ __forceinline__ void finish(float* to) const {
    each_query([&](int query, float, float sum, const auto& value) {
      const float inverse = divide_fast(1.0f, sum);
      each_step([&](int i, int column) {
        to[query * Latent + column] = untagged(value(i, 0) * inverse);
        to[query * Latent + column + 8] = untagged(value(i, 2) * inverse);
      });
    });
  }

 private:
  // Of this lane's queries each, its maximum, its sum, and its output by step and place.
  template <class Use>
  __device__ __forceinline__ void each_query(const Use& use) const {
#pragma unroll
    for (int j = 0; j < kEights; j++) {
#pragma unroll
      for (int q = 0; q < 2; q++) {
        const int query = j * 8 + lane_index() % 4 * 2 + q;
        const float sum = softmax[j].sum(q);
        if (query < Queries) use(query, softmax[j].largest[q], sum, [&](int i, int at) { return out[i][j][q + at]; });
      }
    }
  }
  // Of this warp's steps each, and this lane's first column there.
  template <class Use>
  static __device__ __forceinline__ void each_step(const Use& use) {
#pragma unroll
    for (int i = 0; i < kOwnSteps; i++) {
      const int d = part() * kOwnSteps + i;
      if (kSteps % kWarps == 0 || d < kSteps) use(i, d * 16 + lane_index() / 4);
    }
  }
  static __device__ __forceinline__ float4* place(std::uint8_t* scores, int part, int eight) {
    return reinterpret_cast<float4*>(scores) + (part * kEights + eight) * kWarp + lane_index();
  }
};

}  // namespace imp
