// Activations on their way into a GEMV: float in global memory to swizzled codes (or floats) in shared memory.
#pragma once
#include <type_traits>

#include "imp/layout/tile.h"
#include "imp/stage/cta.h"
#include "imp/stage/exchange.h"
#include "imp/stage/half_block.h"
#include "imp/stage/q8_block.h"

namespace imp {

struct EncodeConfig {
  int cols;
  int warps;
  bool q8;      // int8 codes per 32, for integer layouts
  bool halfs;   // with a scale per 128, for FP8
  bool dense;   // floats, for F32, F16 and BF16; none: nothing is encoded, the floats are read in place
  bool norm;    // RMS norm: run() returns its factor
  float eps;
  bool weighted = true;    // the norm has a weight
  bool post = false;       // x + rms_norm(y) * weight is what is encoded, y being what a branch has made
  float post_eps = 0.0f;   // of y's norm
  bool scaled = false;     // that sum times a number
  bool made = false;       // the kernel before has made the codes, which are copied
};

// A residual stream whose latest branch is not yet added to it.
struct PostSource {
  const float* stream;
  const float* branch;
  const float* norm;   // its weight
  float* sum;          // that sum, for later, or null
  const float* scale = nullptr;  // of the sum, if it has one
};

// The RMS factor commutes with a matrix product, so x * weight is encoded at once and the factor multiplies the sums. That
// of a branch does not: its squares are summed first. No result depends on the number of warps.
template <EncodeConfig C, class Cta = WholeCta>
struct Encoder {
  static constexpr EncodeConfig kConfig = C;
  static constexpr int kSpans = ceil_div(C.cols, 128);  // columns that a warp takes at a time
  static constexpr int kCodes = C.q8 ? q8_codes(C.cols) : 0;
  static constexpr int kScales = C.q8 ? q8_scales(C.cols) : 0;
  static constexpr int kHalfs = C.halfs ? round_up(C.cols, 128) * 2 + round_up(kSpans * 4, 16) : 0;
  static constexpr int kFloats = C.dense ? round_up(C.cols, 32) * 4 : 0;
  static constexpr int kSums = C.norm ? round_up(kSpans * 4, 16) : 0;
  static constexpr int kPostSums = C.post ? round_up(kSpans * 4, 16) : 0;
  static constexpr int kBarrier = C.made ? 16 : 0;
  static constexpr int kSharedBytes = kCodes + kScales + kHalfs + kFloats + kSums + kPostSums + kBarrier;
  static constexpr int kStride = C.warps * 128;
  static constexpr int kRounds = ceil_div(C.cols, kStride);
  static constexpr bool kWeighted = C.norm && C.weighted;
  static constexpr int kInFlight = kRounds < 12 ? kRounds : 8;
  static_assert(C.cols % 32 == 0 || !C.q8, "int8 activations come in blocks of 32");
  static_assert(C.cols % 4 == 0, "activations are read four at a time");
  static constexpr bool kInPlace = !C.q8 && !C.halfs && !C.dense;
  static_assert(!kInPlace || (!C.norm && !C.post), "what is read in place is neither normalised nor added");
  static_assert(!C.made || (C.q8 && !C.halfs && !C.dense && !C.norm && !C.post), "what is made are codes alone");
  using Source = std::conditional_t<C.post, PostSource, std::conditional_t<C.made, const std::uint8_t*, const float*>>;

  static __device__ __forceinline__ Q8Activations q8(const std::uint8_t* shared) {
    return {shared, reinterpret_cast<const uint2*>(shared + kCodes)};
  }
  static __device__ __forceinline__ HalfActivations halfs(const std::uint8_t* shared) {
    const std::uint8_t* first = shared + kCodes + kScales;
    return {first, reinterpret_cast<const float*>(first + round_up(C.cols, 128) * 2)};
  }
  static __device__ __forceinline__ FloatActivations dense(const std::uint8_t* shared) {
    return {reinterpret_cast<const float*>(shared + kCodes + kScales + kHalfs)};
  }

  // A warp takes 128 neighbouring columns at a time, a lane four of them. Opaque, since a loop over layers would otherwise
  // keep the addresses of all rounds in registers.
  static __device__ __forceinline__ int first_column() { return opaque(warp_index() * 128 + lane_index() * 4); }

  // Norm weights of this thread's columns: constants, so they may be read before the input is there.
  struct Weights {
    float4 g[kWeighted ? kRounds : 1];
    float4 post[C.post ? kRounds : 1];
    float scale;
  };
  static __device__ __forceinline__ Weights weights(const float* norm, const float* post = nullptr,
                                                    const float* scale = nullptr) {
    Weights w{};
    if constexpr (C.scaled) w.scale = *scale;
    if constexpr (kWeighted || C.post) {
      const int begin = first_column();
#pragma unroll
      for (int i = 0; i < kRounds; i++) {
        const int k = begin + i * kStride;
        if constexpr (kWeighted) w.g[i] = weight(norm, k);
        if constexpr (C.post) w.post[i] = weight(post, k);
      }
    }
    return w;
  }

  // Encodes x[cols]; every thread of the CTA calls it. Returns 1, or the RMS factor, after a barrier.
  template <class Input>
  static __device__ __forceinline__ float run(const Input& x, const Weights& w, std::uint8_t* shared) {
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
        if (first + i < kRounds) encode(begin + (first + i) * kStride, v[i], w.g[kWeighted ? first + i : 0], shared);
      }
    }
    Cta::sync();
    return factor(shared);
  }

  // Codes that are made: the whole CTA prepares before it waits for the kernel before; then one thread fetches them, and who
  // has awaited them may multiply.
  static __device__ __forceinline__ void prepare(std::uint8_t* shared) {
    if (thread_index() == 0) {
      barrier_init(barrier(shared));
      barrier_init_fence();
    }
    block_sync();
  }
  static __device__ __forceinline__ void fetch(const std::uint8_t* made, std::uint8_t* shared) {
    if (thread_index() == 0) bulk_load_cached(shared, made, kCodes + kScales, barrier(shared));
  }
  static __device__ __forceinline__ void await(std::uint8_t* shared) { bulk_wait(barrier(shared), 0); }

  // What a thread takes of some turns, asked for and then encoded: the columns from kStride * begin on.
  template <int Most>
  struct Turns {
    float4 at[Most];
    template <class Input>
    __device__ __forceinline__ void read(const Input& x, int begin, int end) {
      static_assert(!C.norm && !C.post, "a norm needs all columns");
      int columns[Most];
#pragma unroll
      for (int i = 0; i < Most; i++) {
        const int k = first_column() + (begin + i) * kStride;
        columns[i] = begin + i < end && k < C.cols ? k : -1;
      }
      x.read(at, columns);
    }
    __device__ __forceinline__ void store(int begin, int end, std::uint8_t* shared) const {
#pragma unroll
      for (int i = 0; i < Most; i++) {
        if (begin + i < end) encode(first_column() + (begin + i) * kStride, at[i], make_float4(1, 1, 1, 1), shared);
      }
    }
  };

  // Turns Begin to End - 1, without a barrier.
  template <int Begin, int End, class Input>
  static __device__ __forceinline__ void encode_turns(const Input& x, std::uint8_t* shared) {
    constexpr int kTogether = End - Begin < 12 ? End - Begin : 8;
#pragma unroll
    for (int first = Begin; first < End; first += kTogether) {
      Turns<kTogether> turns;
      turns.read(x, first, End);
      turns.store(first, End, shared);
    }
  }

  // This thread's columns of a vector.
  struct Columns {
    float4 at[kRounds];
  };
  template <class Input>
  static __device__ __forceinline__ Columns columns(const Input& x) {
    Columns read;
    int at[kRounds];
    const int begin = first_column();
#pragma unroll
    for (int i = 0; i < kRounds; i++) at[i] = begin + i * kStride < C.cols ? begin + i * kStride : -1;
    x.read(read.at, at);
    return read;
  }
  // Encodes x + rms_norm(y) * weight likewise. keep(k, four values) gets those of column k on, rounded as they are handed on.
  template <class Input, class Keep>
  static __device__ __forceinline__ float run_sum(const Columns& x, const Input& y, const Weights& w, const Keep& keep,
                                                  std::uint8_t* shared) {
    static_assert(C.post, "the branch has a norm");
    float* sums = reinterpret_cast<float*>(shared + kSharedBytes - kPostSums);
    const int begin = first_column();
    const Columns branch = columns(y);
#pragma unroll
    for (int i = 0; i < kRounds; i++) add_squares(begin + i * kStride, branch.at[i], sums);
    Cta::sync();
    const float scale = rms_factor(sums, C.post_eps);
#pragma unroll
    for (int i = 0; i < kRounds; i++) {
      const int k = begin + i * kStride;
      const float4 v = add_normed(x.at[i], branch.at[i], scale, w.post[i], w.scale);
      if (k < C.cols) keep(k, v);
      encode(k, v, w.g[kWeighted ? i : 0], shared);
    }
    Cta::sync();
    return factor(shared);
  }

 private:
  static __device__ __forceinline__ float4 weight(const float* vector, int k) {
    return k < C.cols ? *reinterpret_cast<const float4*>(vector + k) : make_float4(0, 0, 0, 0);
  }
  static __device__ __forceinline__ float4 add_normed(float4 x, float4 y, float factor, float4 weight, float scale) {
    const float4 sum = make_float4(fma(y.x * factor, weight.x, x.x), fma(y.y * factor, weight.y, x.y),
                                   fma(y.z * factor, weight.z, x.z), fma(y.w * factor, weight.w, x.w));
    const float s = C.scaled ? scale : 1.0f;
    return make_float4(untagged(s * sum.x), untagged(s * sum.y), untagged(s * sum.z), untagged(s * sum.w));
  }
  static __device__ __forceinline__ void add_squares(int k, float4 v, float* sums) {
    if (k / 128 >= kSpans) return;
    const float squares = warp_sum(fma(v.x, v.x, fma(v.y, v.y, fma(v.z, v.z, v.w * v.w))));
    if (lane_index() == 0) sums[k / 128] = squares;
  }
  static __device__ __forceinline__ float rms_factor(const float* sums, float eps) {
    float total = 0;
    for (int i = lane_index(); i < kSpans; i += kWarp) total += sums[i];
    return rsqrt_fast(fma(warp_sum(total), 1.0f / static_cast<float>(C.cols), eps));
  }
  static __device__ __forceinline__ float factor(const std::uint8_t* shared) {
    if constexpr (!C.norm) return 1.0f;
    return rms_factor(reinterpret_cast<const float*>(shared + kCodes + kScales + kHalfs + kFloats), C.eps);
  }

  // This thread's four values of a round, from column k on.
  static __device__ __forceinline__ void encode(int k, float4 v, float4 weight, std::uint8_t* shared) {
    if (k / 128 >= kSpans) return;
    if constexpr (C.norm) add_squares(k, v, reinterpret_cast<float*>(shared + kCodes + kScales + kHalfs + kFloats));
    if constexpr (kWeighted) v = make_float4(v.x * weight.x, v.y * weight.y, v.z * weight.z, v.w * weight.w);
    if constexpr (C.dense) {
      if (k < C.cols) reinterpret_cast<float4*>(shared + kCodes + kScales + kHalfs)[swizzle_chunk(k / 4)] = v;
    }
    if constexpr (C.halfs) encode_halfs(v, k, k < C.cols, shared + kCodes + kScales);
    if constexpr (C.q8) encode_q8(v, k, k < C.cols, shared);
  }
  static __device__ __forceinline__ void encode_halfs(float4 v, int k, bool inside, std::uint8_t* shared) {
    const HalfBlock block = HalfBlock::encode(inside ? v : make_float4(0, 0, 0, 0));
    *reinterpret_cast<uint2*>(shared + swizzle_chunk(k / 8) * 16 + k % 8 * 2) = block.halfs;
    if (lane_index() == 0) reinterpret_cast<float*>(shared + round_up(C.cols, 128) * 2)[k / 128] = block.scale;
  }
  static __device__ __forceinline__ void encode_q8(float4 v, int k, bool inside, std::uint8_t* shared) {
    const Q8Block block = Q8Block::encode(v);
    if (inside) block.store(k, shared, reinterpret_cast<uint2*>(shared + kCodes));
  }
  static __device__ __forceinline__ std::uint64_t* barrier(std::uint8_t* shared) {
    return reinterpret_cast<std::uint64_t*>(shared + kCodes + kScales);
  }
};

}  // namespace imp
