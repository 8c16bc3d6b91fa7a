// Activations on their way into a GEMV: float in global memory to swizzled codes (or floats) in shared memory.
#pragma once
#include "imp/layout/tile.h"
#include "imp/stage/cta.h"
#include "imp/stage/exchange.h"
#include "imp/stage/q8_block.h"

namespace imp {

struct EncodeConfig {
  int cols;
  int warps;
  bool q8;      // int8 codes per 32, for integer layouts
  bool dense;   // floats, for F32, F16 and BF16; neither: nothing is encoded, the floats are read in place
  bool norm;    // multiply by a norm weight; scale() then returns the RMS factor
  float eps;
};

// The RMS factor commutes with a matrix product, so x * weight is encoded at once and the factor multiplies the sums.
// No result depends on the number of warps.
template <EncodeConfig C, class Cta = WholeCta>
struct Encoder {
  static constexpr int kCodes = C.q8 ? round_up(C.cols, 128) : 0;  // a swizzle moves a chunk within 128 codes
  static constexpr int kScales = C.q8 ? round_up(C.cols / 4, 16) : 0;
  static constexpr int kFloats = C.dense ? round_up(C.cols, 32) * 4 : 0;
  static constexpr int kSpans = ceil_div(C.cols, 128);  // columns that a warp takes at a time
  static constexpr int kSums = C.norm ? round_up(kSpans * 4, 16) : 0;
  static constexpr int kSharedBytes = kCodes + kScales + kFloats + kSums;
  static constexpr int kStride = C.warps * 128;
  static constexpr int kRounds = ceil_div(C.cols, kStride);
  static constexpr int kInFlight = kRounds < 12 ? kRounds : 8;
  static_assert(C.cols % 32 == 0 || !C.q8, "int8 activations come in blocks of 32");
  static_assert(C.cols % 4 == 0, "activations are read four at a time");
  static constexpr bool kInPlace = !C.q8 && !C.dense;
  static_assert(!kInPlace || !C.norm, "what is read in place is not normalised");

  static __device__ __forceinline__ Q8Activations q8(const std::uint8_t* shared) {
    return {shared, reinterpret_cast<const uint2*>(shared + kCodes)};
  }
  static __device__ __forceinline__ FloatActivations dense(const std::uint8_t* shared) {
    return {reinterpret_cast<const float*>(shared + kCodes + kScales)};
  }

  // Norm weights of this thread's columns: constants, so they may be read before the input is there.
  struct Weights {
    float4 g[C.norm ? kRounds : 1];
  };
  static __device__ __forceinline__ Weights weights(const float* norm) {
    Weights w{};
    if constexpr (C.norm) {
      const int begin = first_column();
#pragma unroll
      for (int i = 0; i < kRounds; i++) {
        const int k = begin + i * kStride;
        w.g[i] = k < C.cols ? *reinterpret_cast<const float4*>(norm + k) : make_float4(0, 0, 0, 0);
      }
    }
    return w;
  }

  // Encodes x[cols]; every thread of the CTA calls it. Returns 1, or the RMS factor, after a barrier.
  template <class Input>
  static __device__ __forceinline__ float run(const Input& x, const Weights& w, std::uint8_t* shared) {
    float* sums = reinterpret_cast<float*>(shared + kCodes + kScales + kFloats);
    const int begin = first_column();
#pragma unroll
    for (int first = 0; first < kRounds; first += kInFlight) {
      float4 v[kInFlight];
      int at[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; i++) {
        const int k = begin + (first + i) * kStride;
        at[i] = first + i < kRounds && k < C.cols ? k : -1;
      }
      x.read(v, at);
#pragma unroll
      for (int i = 0; i < kInFlight; i++) {
        if (first + i < kRounds) encode(begin + (first + i) * kStride, v[i], w.g[C.norm ? first + i : 0], shared);
      }
    }
    Cta::sync();
    if constexpr (!C.norm) return 1.0f;
    float total = 0;
    for (int i = lane_index(); i < kSpans; i += kWarp) total += sums[i];
    return rsqrt_fast(warp_sum(total) * (1.0f / static_cast<float>(C.cols)) + C.eps);
  }

 private:
  // A warp takes 128 neighbouring columns at a time, a lane four of them. Opaque, since a loop over layers would otherwise
  // keep the addresses of all rounds in registers.
  static __device__ __forceinline__ int first_column() { return opaque(warp_index() * 128 + lane_index() * 4); }

  // This thread's four values of a round, from column k on.
  static __device__ __forceinline__ void encode(int k, float4 v, float4 weight, std::uint8_t* shared) {
    const int span = k / 128;
    if (span >= kSpans) return;
    if constexpr (C.norm) {
      float* sums = reinterpret_cast<float*>(shared + kCodes + kScales + kFloats);
      const float squares = warp_sum(v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w);
      if (lane_index() == 0) sums[span] = squares;
      v = make_float4(v.x * weight.x, v.y * weight.y, v.z * weight.z, v.w * weight.w);
    }
    if constexpr (C.dense) {
      if (k < C.cols) reinterpret_cast<float4*>(shared + kCodes + kScales)[swizzle_chunk(k / 4)] = v;
    }
    if constexpr (C.q8) encode_q8(v, k, k < C.cols, shared);
  }
  static __device__ __forceinline__ void encode_q8(float4 v, int k, bool inside, std::uint8_t* shared) {
    const Q8Block block = Q8Block::encode(v);
    if (!inside) return;
    *reinterpret_cast<std::uint32_t*>(shared + swizzle_chunk(k / 16) * 16 + k % 16) = block.codes;
    if (lane_index() % 8 == 0) reinterpret_cast<uint2*>(shared + kCodes)[k / 32] = block.scale();
  }
};

}  // namespace imp
