// From the scores of a tile of keys to the weights of their values: softmax of prompts, in fp32, in base 2.
#pragma once
#include "imp/stage/attention_queries.h"
#include "imp/stage/attention_sums.h"
#include "imp/stage/elementwise.h"

namespace imp {

// A lane's scores are those of its two rows with two keys of each eight.
template <AttentionPrefillConfig C>
struct AttentionScores {
  using Products = AttentionProducts<C>;
  using Sums = AttentionSums<C>;
  static constexpr int kTileKeys = Products::kTileKeys;
  static constexpr int kWarps = C.groups * Products::kParts;
  static constexpr int kSharedBytes = Products::kParts > 1 ? kWarps * 16 * kTileKeys * 4 : 0;  // where warps share a head

  float values[kTileKeys / 8][4];

  // Those of the columns of all warps that share the head, in their order. `shared`: kSharedBytes.
  __device__ __forceinline__ void add_parts(std::uint8_t* shared) {
    constexpr int kWords = kTileKeys / 8 * kWarp;  // of a warp
    auto* all = reinterpret_cast<float4*>(shared);
#pragma unroll
    for (int j = 0; j < kTileKeys / 8; j++) {
      all[warp_index() * kWords + j * kWarp + lane_index()] =
          make_float4(values[j][0], values[j][1], values[j][2], values[j][3]);
    }
    block_sync();
    const float4* parts = all + Products::group() * kWords + lane_index();
#pragma unroll
    for (int j = 0; j < kTileKeys / 8; j++) {
      float4 sum = parts[j * kWarp];
#pragma unroll
      for (int p = 1; p < Products::kParts; p++) {
        const float4 part = parts[p * C.groups * kWords + j * kWarp];
        sum = make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
      }
      values[j][0] = sum.x;
      values[j][1] = sum.y;
      values[j][2] = sum.z;
      values[j][3] = sum.w;
    }
  }

  __device__ __forceinline__ void cap() {
#pragma unroll
    for (auto& row : values) {
#pragma unroll
      for (float& score : row) score = soft_cap(score, C.soft_cap);
    }
  }

  // Keys behind a query, and those before its window. `start`: the position of the step's row 0, if it were one of this sequence.
  __device__ __forceinline__ void mask(int first_key, int start, const AttentionQueries<C>& queries) {
#pragma unroll
    for (int j = 0; j < kTileKeys / 8; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int key = opaque(first_key) + j * 8 + lane_index() % 4 * 2 + e % 2;
        const int ahead = key - (start + queries.row[e / 2]);
        if (ahead > 0 || (C.window > 0 && ahead <= -C.window)) values[j][e] = Sums::kMasked;
      }
    }
  }

  // To weights in the A fragments of the next product, and everything so far to the new maximum.
  __device__ __forceinline__ void soften(Sums& sums, std::uint32_t (&weights)[kTileKeys / 16][4]) const {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float largest = sums.largest[half];
#pragma unroll
      for (int j = 0; j < kTileKeys / 8; j++) {
        largest = max(largest, max(values[j][2 * half], values[j][2 * half + 1]));
      }
      largest = group_max<4>(largest);
      const float correction = exp2_flushed(sums.largest[half] - largest);
      sums.largest[half] = largest;
      float totals[2] = {};
#pragma unroll
      for (int j = 0; j < kTileKeys / 8; j++) {
        const float first = exp2_flushed(values[j][2 * half] - largest);
        const float second = exp2_flushed(values[j][2 * half + 1] - largest);
        weights[j / 2][j % 2 * 2 + half] = floats_to_half2(first, second);
        totals[j % 2] += first + second;
      }
      sums.total[half] = fma(sums.total[half], correction, totals[0] + totals[1]);
      if (ballot(correction != 1.0f) == 0) continue;  // most tiles of a long context have no row's largest score
#pragma unroll
      for (auto& out : sums.out) {
        out[2 * half] *= correction;
        out[2 * half + 1] *= correction;
      }
    }
  }
};

}  // namespace imp
