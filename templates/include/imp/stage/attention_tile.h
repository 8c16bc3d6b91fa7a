// One warp's attention over cache blocks: 16 positions' keys and values of one kv head, as they lie in the cache, times up
// to eight queries on the tensor cores. Queries and softmax weights enter as f16 hi + lo (to 2^-22): hi in row q of the
// A operand, lo in row q + 8, which the queries leave free; both parts' results lie in one lane and are added there.
#pragma once
#include "imp/layout/cache.h"
#include "imp/layout/tile.h"

namespace imp {

template <int HeadDim>
struct TileQueries {
  static constexpr int kDepth = HeadDim / 16;
  std::uint32_t a[kDepth][4];

  // queries: f32 [count, HeadDim] in shared memory
  __device__ __forceinline__ TileQueries(const float* queries, int count) {
    const int row = lane_index() / 4;
    const float* line = queries + row * HeadDim + lane_index() % 4 * 2;
#pragma unroll
    for (int k = 0; k < kDepth; k++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float2 x = row < count ? *reinterpret_cast<const float2*>(line + k * 16 + half * 8) : make_float2(0, 0);
        split(x, a[k][2 * half], a[k][2 * half + 1]);
      }
    }
  }
  static __device__ __forceinline__ void split(float2 x, std::uint32_t& high, std::uint32_t& low) {
    high = floats_to_half2(x.x, x.y);
    const float2 rounded = half2_to_float2(high);
    low = floats_to_half2(x.x - rounded.x, x.y - rounded.y);
  }
};

template <int HeadDim>
struct TileAttention {
  using Row = CacheRow<HeadDim>;
  static constexpr int kTokens = 16;
  static constexpr int kDepth = HeadDim / 16;
  static constexpr float kMasked = -1e30f;
  static_assert(HeadDim % 16 == 0, "a head consists of tensor-core steps of 16");

  float largest = kMasked;  // of query lane / 4
  float total = 0;          // this lane's part of the sum of weights
  float out[2 * kDepth][4] = {};

  // Softmax weights of a block's first `count` positions, as the A operand of the product with their values.
  __device__ __forceinline__ void keys(const std::uint8_t* block, int count, const TileQueries<HeadDim>& queries,
                                       std::uint32_t (&weights)[4]) {
    float scores[2][4] = {};
    const int row = lane_index() / 16 * 8 + lane_index() % 8;
#pragma unroll
    for (int k = 0; k < kDepth; k++) {
      std::uint32_t r[4];
      ldmatrix_x4(r, block + row * Row::kBytes + Row::chunk(row, 2 * k + lane_index() / 8 % 2));
      const std::uint32_t b[2][2] = {{r[0], r[1]}, {r[2], r[3]}};
      mma_f16_k16(scores[0], queries.a[k], b[0]);
      mma_f16_k16(scores[1], queries.a[k], b[1]);
    }
    float s[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int position = i / 2 * 8 + lane_index() % 4 * 2 + i % 2;
      s[i] = position < count ? scores[i / 2][i % 2] + scores[i / 2][2 + i % 2] : kMasked;
    }
    const float before = largest;
    largest = max(before, group_max<4>(max(max(s[0], s[1]), max(s[2], s[3]))));
    const float correction = exp2_fast(before - largest);
#pragma unroll
    for (int i = 0; i < 4; i++) s[i] = exp2_fast(s[i] - largest);
    total = total * correction + ((s[0] + s[1]) + (s[2] + s[3]));
    TileQueries<HeadDim>::split(make_float2(s[0], s[1]), weights[0], weights[1]);
    TileQueries<HeadDim>::split(make_float2(s[2], s[3]), weights[2], weights[3]);
#pragma unroll
    for (int d = 0; d < 2 * kDepth; d++) {
#pragma unroll
      for (int i = 0; i < 4; i++) out[d][i] *= correction;
    }
  }

  // Every row of the block must hold numbers, also those that nobody has written yet: their weight is zero.
  __device__ __forceinline__ void values(const std::uint8_t* block, const std::uint32_t (&weights)[4]) {
    const int row = lane_index() % 16;
#pragma unroll
    for (int d = 0; d < kDepth; d++) {
      std::uint32_t r[4];
      ldmatrix_x4_trans(r, block + row * Row::kBytes + Row::chunk(row, 2 * d + lane_index() / 16));
      const std::uint32_t b[2][2] = {{r[0], r[1]}, {r[2], r[3]}};
      mma_f16_k16(out[2 * d], weights, b[0]);
      mma_f16_k16(out[2 * d + 1], weights, b[1]);
    }
  }

  // To shared memory, for each of the `count` queries: HeadDim floats, maximum, sum; `stride` floats apart.
  __device__ __forceinline__ void store(float* part, int count, int stride) const {
    const int query = lane_index() / 4;
    const float sum = group_sum<4>(total);
    if (query >= count) return;
    float* line = part + query * stride;
#pragma unroll
    for (int d = 0; d < 2 * kDepth; d++) {
      *reinterpret_cast<float2*>(line + d * 8 + lane_index() % 4 * 2) =
          make_float2(out[d][0] + out[d][2], out[d][1] + out[d][3]);
    }
    if (lane_index() % 4 == 0) {
      line[HeadDim] = largest;
      line[HeadDim + 1] = sum;
    }
  }
};

}  // namespace imp
