// A route that every CTA makes for itself, router and all: the router's few weights are in registers before the kernel before has
// ended, so that a launch less lies between the router's vector and the experts' weights.
#pragma once
#include <bit>

#include "imp/stage/encode.h"
#include "imp/stage/route.h"

namespace imp {

// The sums over all lanes of N values, in each lane that of value `lane * N / 32`: lanes halve what they have to add up.
template <int N, int Mask = kWarp / 2>
__device__ __forceinline__ float warp_sums(const float (&values)[N]) {
  static_assert(N <= 2 * Mask && (N & (N - 1)) == 0, "a power of two, at most the lanes");
  if constexpr (N == 1) {
    return group_sum<2 * Mask>(values[0]);
  } else {
    const bool upper = (lane_index() & Mask) != 0;
    float half[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
      const float low = values[i];
      const float high = values[N / 2 + i];
      half[i] = (upper ? high : low) + shuffle_xor(upper ? low : high, Mask);
    }
    if constexpr (Mask == 1) return half[0];
    else return warp_sums<N / 2, Mask / 2>(half);
  }
}

// `M`: the router, whose vector E encodes for the experts.
template <EncodeConfig E, RouteConfig C, class M>
struct OwnRoute {
  using Encode = Encoder<E>;
  using Layout = typename M::Layout;
  static constexpr int kExperts = C.experts;
  static constexpr int kValues = static_cast<int>(std::bit_ceil(static_cast<unsigned>(kExperts)));
  static constexpr int kSums = Encode::kSpans * (kExperts + 1);
  static constexpr int kSharedBytes = round_up((kSums + kWarp * kExperts) * 4, 16);
  static_assert(E.norm && C.others == 0 && M::kRows == kExperts && M::kCols == E.cols, "all of a normed vector's logits");
  static_assert(Layout::kVector == 4 && !Layout::kInteger, "a lane has four columns of the vector");
  struct Args {
    const std::uint8_t* router;
    const float* bias;   // [experts], or null
    float* logits;       // [experts]
    float* route;        // [2][used]: experts, shares
    const float* correction = nullptr;  // [experts]
    const float* scales = nullptr;      // [experts]
  };
  // Of this thread's columns.
  struct Weights {
    typename Layout::Lane of[Encode::kRounds][kExperts];
    __device__ __forceinline__ explicit Weights(const Args& a) {
      constexpr int kVectors = Layout::kTile.cols / Layout::kVector;
#pragma unroll
      for (int i = 0; i < Encode::kRounds; i++) {
        const int vector = (Encode::first_column() + i * Encode::kStride) / Layout::kVector;
#pragma unroll
        for (int e = 0; e < kExperts; e++) {
          of[i][e] = {};
          if (vector * Layout::kVector >= E.cols) continue;
          of[i][e] = Layout::template load<Cached>(M::tile(a.router, e, vector / kVectors), e % Layout::kTile.rows,
                                                   vector % kVectors);
        }
      }
    }
  };
  Routed routed;
  typename Encode::Columns columns;

  // Every thread of the CTA calls it. `norm`: the norm's weights of its columns.
  __device__ __forceinline__ OwnRoute(const Args& a, const Weights& weights, const float* x,
                                      const typename Encode::Weights& norm, float* shared, bool first)
      : columns(Encode::columns(PlainInput{x})) {
#pragma unroll
    for (int i = 0; i < Encode::kRounds; i++) {
      const int span = Encode::first_column() / 128 + i * E.warps;
      if (span < Encode::kSpans) add(columns.at[i], norm.g[E.weighted ? i : 0], weights.of[i], shared + span * (kExperts + 1));
    }
    block_sync();
    float* logits = shared + kSums + warp_index() * kExperts;
    float sum = 0;
    if (lane_index() <= kExperts) {
#pragma unroll 8
      for (int span = 0; span < Encode::kSpans; span++) sum += shared[span * (kExperts + 1) + lane_index()];
    }
    const float factor = rsqrt_fast(fma(shuffle(sum, kExperts), 1.0f / static_cast<float>(E.cols), E.eps));
    if (lane_index() < kExperts) {
      logits[lane_index()] = fma(sum, factor, a.bias != nullptr ? a.bias[lane_index()] : 0.0f);
      if (first && warp_index() == 0) a.logits[lane_index()] = logits[lane_index()];
    }
    warp_sync();
    routed = choose_experts<C>(logits, a.correction, a.scales);
    if (first) store_route<C>(routed, a.route);
  }

  // The vector is in registers.
  struct Input {
    typename Encode::Columns columns;
    template <int N>
    __device__ __forceinline__ void read(float4 (&v)[N], const int (&)[N]) const {
      static_assert(N == Encode::kRounds, "a thread's columns are read together");
#pragma unroll
      for (int i = 0; i < N; i++) v[i] = columns.at[i];
    }
  };
  __device__ __forceinline__ Input input(const float*) const { return {columns}; }

 private:
  // A span's part of each logit, and of the sum of squares.
  static __device__ __forceinline__ void add(float4 v, float4 norm, const typename Layout::Lane (&weights)[kExperts],
                                             float* sums) {
    const float squares = warp_sum(fma(v.x, v.x, fma(v.y, v.y, fma(v.z, v.z, v.w * v.w))));
    if constexpr (E.weighted) v = make_float4(v.x * norm.x, v.y * norm.y, v.z * norm.z, v.w * norm.w);
    float parts[kValues] = {};
#pragma unroll
    for (int e = 0; e < kExperts; e++) parts[e] = Layout::dot(weights[e], {{v}}, 0, 0.0f);
    const float part = warp_sums(parts);
    constexpr int kLanes = kWarp / kValues;  // that have the same one
    const int expert = lane_index() / kLanes;
    if (lane_index() % kLanes == 0 && expert < kExperts) sums[expert] = part;
    if (lane_index() == 1) sums[kExperts] = squares;
  }
};

}  // namespace imp
