// What attention of prompts adds up for a tile of queries, and how the sums of its spans become one: in shared memory where one
// CTA has all of them, else in memory, by whoever comes last.
#pragma once
#include "imp/stage/attention_queries.h"
#include "imp/stage/attention_tile.h"
#include "imp/stage/elementwise.h"

namespace imp {

// Of this lane's rows and columns.
template <AttentionPrefillConfig C>
struct AttentionSums {
  using Products = AttentionProducts<C>;
  using Queries = AttentionQueries<C>;
  static constexpr int kDepth = Products::kDepth;
  static constexpr int kThreads = C.groups * Products::kParts * kWarp;
  static constexpr int kFoldedBytes = (2 * kDepth + 1) * kThreads * 16;
  static constexpr int kPart = C.head_dim + 2;  // floats of a query and a span: output, maximum, sum
  static constexpr float kMasked = -1e30f;

  float out[2 * kDepth][4] = {};
  float total[2] = {};                    // sums of weights of both rows, at first of this lane's columns
  float largest[2] = {kMasked, kMasked};  // of both rows

  // Once a span's keys have been seen: the sums are those of all columns then.
  __device__ __forceinline__ void whole() {
#pragma unroll
    for (float& sum : total) sum = group_sum<4>(sum);
  }

  // `y`: [rows, heads, head_dim]; `sinks`: [heads], where heads have one.
  __device__ __forceinline__ void store(float* y, const float* sinks, const Queries& queries) const {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (!queries.real[half]) continue;
      const float inverse = inverse_sum(sinks, queries.head[half], largest[half], total[half]);
      float* line = y + queries.index(half) * C.head_dim + Queries::column();
#pragma unroll
      for (int d = 0; d < 2 * kDepth; d++) {
        if (!Products::has(d / 2)) break;
        *reinterpret_cast<float2*>(line + d * 8) =
            make_float2(out[d][2 * half] * inverse, out[d][2 * half + 1] * inverse);
      }
    }
  }

  // What a span gives, to be added to what the others do.
  __device__ __forceinline__ void keep(float* partial, const Queries& queries, int span) const {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (!queries.real[half]) continue;
      float* line = partial + (queries.index(half) * C.spans + span) * kPart;
#pragma unroll
      for (int d = 0; d < 2 * kDepth; d++) {
        if (!Products::has(d / 2)) break;
        *reinterpret_cast<float2*>(line + Queries::column() + d * 8) = make_float2(out[d][2 * half], out[d][2 * half + 1]);
      }
      if (Products::step() == 0 && lane_index() % 4 == 0) {
        *reinterpret_cast<float2*>(line + C.head_dim) = make_float2(largest[half], total[half]);
      }
    }
  }
  // A span's results added to those of the spans before it. One that a query does not see adds nothing.
  static __device__ __forceinline__ AttentionSums added(const AttentionSums& before, const AttentionSums& span) {
    AttentionSums sum;
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

  // This thread's results of the spans so far, in kFoldedBytes of shared memory.
  __device__ __forceinline__ void fold(std::uint8_t* folded) const {
    auto* words = reinterpret_cast<float4*>(folded) + thread_index();
#pragma unroll
    for (int d = 0; d < 2 * kDepth; d++) words[d * kThreads] = make_float4(out[d][0], out[d][1], out[d][2], out[d][3]);
    words[2 * kDepth * kThreads] = make_float4(total[0], total[1], largest[0], largest[1]);
  }
  static __device__ __forceinline__ AttentionSums unfolded(const std::uint8_t* folded) {
    const auto* words = reinterpret_cast<const float4*>(folded) + thread_index();
    AttentionSums sums;
#pragma unroll
    for (int d = 0; d < 2 * kDepth; d++) {
      const float4 word = words[d * kThreads];
      sums.out[d][0] = word.x;
      sums.out[d][1] = word.y;
      sums.out[d][2] = word.z;
      sums.out[d][3] = word.w;
    }
    const float4 word = words[2 * kDepth * kThreads];
    sums.total[0] = word.x;
    sums.total[1] = word.y;
    sums.largest[0] = word.z;
    sums.largest[1] = word.w;
    return sums;
  }

  // All spans in order, whichever CTA does this; the next is on its way meanwhile.
  static __device__ __forceinline__ AttentionSums merged(const float* partial, const Queries& queries, int spans) {
    AttentionSums sums = kept(partial, queries, 0);
    AttentionSums next = kept(partial, queries, 1);
#pragma unroll 1
    for (int span = 2; span <= spans; span++) {
      const AttentionSums now = next;
      if (span < spans) next = kept(partial, queries, span);
      sums = added(sums, now);
    }
    return sums;
  }

 private:
  // What the sums of a head's values are multiplied by.
  static __device__ __forceinline__ float inverse_sum(const float* sinks, int head, float largest, float total) {
    if constexpr (C.sinks) {
      const SinkShare share(sinks[head], largest);
      return divide_fast(share.rest, share.total(total));
    } else {
      return divide_fast(1.0f, total);
    }
  }

  // What a span left of this lane's rows.
  static __device__ __forceinline__ AttentionSums kept(const float* partial, const Queries& queries, int span) {
    AttentionSums sums;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (!queries.real[half]) continue;
      const float* line = partial + (queries.index(half) * C.spans + span) * kPart;
      const float2 weight = load_fresh2(line + C.head_dim);
      sums.largest[half] = weight.x;
      sums.total[half] = weight.y;
#pragma unroll
      for (int d = 0; d < 2 * kDepth; d++) {
        if (!Products::has(d / 2)) break;
        const float2 part = load_fresh2(line + Queries::column() + d * 8);
        sums.out[d][2 * half] = part.x;
        sums.out[d][2 * half + 1] = part.y;
      }
    }
    return sums;
  }
  static __device__ __forceinline__ float2 load_fresh2(const float* pair) {
    return __builtin_bit_cast(float2, load_fresh(reinterpret_cast<const std::uint64_t*>(pair)));
  }
};

}  // namespace imp
