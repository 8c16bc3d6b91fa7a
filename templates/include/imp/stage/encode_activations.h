// Activations of a chunk on their way into the matrix products: halfs, in panels or as fragments, or bfloat16 hi + lo, or both
// where halfs cannot hold the weights of one product; or codes of four bits with scales. One CTA for each token.
#pragma once
#include <type_traits>

#include "imp/layout/tile.h"
#include "imp/stage/chunk_row.h"
#include "imp/stage/elementwise.h"
#include "imp/stage/fp4.h"
#include "imp/stage/fragments.h"
#include "imp/stage/panel.h"
#include "imp/stage/rows.h"

namespace imp {

struct ActivationsConfig {
  int cols;
  int tokens;   // of a full chunk
  bool norm;    // RMS norm: x * weight / rms(x)
  bool gated;   // F(gate) * up
  bool dense;
  float eps;
  bool weighted = true;    // the norm has a weight
  bool post = false;       // x + rms_norm(y) * weight is what is encoded, y being what a branch has made
  float post_eps = 0.0f;   // of y's norm
  bool scaled = false;     // that sum times a number
  bool keep = true;        // that sum becomes the new x
  int gate_stride = 0;     // floats from a token's gates to the next one's
  int up_stride = 0;
  bool panels = false;
  bool fragments = false;  // what would be panels has FragmentOrder
  bool fp4 = false;        // what would be panels has Fp4Order
  int peak = 14;  // of halfs: the exponent of a row's largest value
  int warps = 8;
  int used = 0;         // experts of a row; 0: none. Tokens are then the places of pairs (expert_tile.h)
  bool each = false;    // every pair has values of its own, else a row's are those of all its pairs
};

// Gates, and what they multiply.
struct GatedChunk {
  const float* gate;
  const float* up;
};

template <ActivationsConfig C, class F = Silu>
struct EncodeActivations {
  static constexpr int kWarps = C.warps;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kPeaks = kWarps * (C.norm + C.post);  // floats of shared memory before them
  static constexpr int kSharedBytes = (kPeaks + kWarps * C.panels) * 4;
  static constexpr int kGridX = C.tokens;
  static constexpr int kGridY = 1;
  static constexpr int kGridZ = 1;
  static_assert(C.cols % 16 == 0, "a tensor-core product takes 16 columns");
  static_assert(!((C.norm || C.post) && C.gated), "a product's input is normalised or gated, not both");
  static_assert(C.dense || C.panels, "no matrix product reads these activations");
  static_assert(C.panels || !(C.fragments || C.fp4), "these are orders of what is encoded as panels");
  static_assert(!(C.fragments && C.fp4), "activations have one order");
  static_assert(C.used == 0 || !(C.post && C.keep), "a residual stream is written once, not by every pair");

  using Row = ChunkRow<C.cols, kWarps>;
  using Order = std::conditional_t<C.fp4, Fp4Order, std::conditional_t<C.fragments, FragmentOrder, PanelOrder>>;
  using Source = std::conditional_t<C.gated, GatedChunk, std::conditional_t<C.post, PostChunk, const float*>>;

  // Unused pointers: null.
  struct Args {
    Source x;               // f32 [tokens, cols]
    const float* norm;      // [cols]
    std::uint16_t* planes;  // bf16 [2: hi, lo][tokens, cols]
    std::uint8_t* panels;   // in Order; zeros where the last group ends past the columns
    float* factors;         // [tokens]: what the panels' values are to be multiplied with
    const std::int32_t* pairs;  // [tokens]
    const StepHeader* step;
  };
  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    const Weights weights(a.norm);
    grid_wait();
    const int token = block_index();
    const int source = C.used > 0 ? a.pairs[token] : token;
    if (C.used > 0 ? source < 0 : token >= a.step->rows) return;
    const int row = C.used > 0 ? source / C.used : source;
    const int which = C.used > 0 ? source % C.used : 0;
    auto* partial = reinterpret_cast<float*>(shared_memory());
    const std::size_t first = static_cast<std::size_t>(C.each ? source : row) * C.cols;
    if constexpr (C.gated) {
      const float* gate = a.x.gate + static_cast<std::size_t>(row) * C.gate_stride + which * C.cols;
      const float* up = a.x.up + static_cast<std::size_t>(row) * C.up_stride + which * C.cols;
      const auto product = [=](int k) {
        const float4 v = Row::load(gate + k);
        const float4 u = Row::load(up + k);
        return make_float4(gated<F>(v.x, u.x), gated<F>(v.y, u.y), gated<F>(v.z, u.z), gated<F>(v.w, u.w));
      };
      encode(product, weights, token, a, partial);
    } else if constexpr (C.post) {
      encode(Row::template sum<C.scaled, C.keep>(a.x, first, C.post_eps, partial + (C.norm ? kWarps : 0)),
             weights, token, a, partial);
    } else {
      encode([&](int k) { return Row::load(a.x + first + k); }, weights, token, a, partial);
    }
  }

 private:
  static constexpr int kRounds = ceil_div(C.cols, Row::kStride);

  // The norm's, of this thread's columns: constants, so they need not wait for what they are multiplied with.
  struct Weights {
    float4 g[C.norm && C.weighted ? kRounds : 1];
    __device__ __forceinline__ explicit Weights(const float* norm) {
      if constexpr (C.norm && C.weighted) {
#pragma unroll
        for (int r = 0; r < kRounds; r++) g[r] = Row::load(norm + min(thread_index() * 4 + r * Row::kStride, C.cols - 4));
      }
    }
    __device__ __forceinline__ float4 times(float4 v, int r) const {
      if constexpr (C.norm && C.weighted) {
        return make_float4(v.x * g[r].x, v.y * g[r].y, v.z * g[r].z, v.w * g[r].w);
      } else {
        return v;
      }
    }
  };

  // row(k): the token's values of the columns k to k + 3. Each is asked for once, and kept until the norm and the largest are
  // known.
  template <class R>
  static __device__ __forceinline__ void encode(const R& row, const Weights& weights, int token, const Args& a, float* partial) {
    float4 held[kRounds];
    float squares = 0;
    float peak = 0;
#pragma unroll
    for (int r = 0; r < kRounds; r++) {
      const int k = thread_index() * 4 + r * Row::kStride;
      held[r] = make_float4(0, 0, 0, 0);
      if (k >= C.cols) continue;
      const float4 v = row(k);
      if constexpr (C.norm) squares = Row::add_squares(v, squares);
      held[r] = weights.times(v, r);
      if constexpr (C.panels) peak = max_nan(peak, largest(held[r]));
    }
    // Both of all threads, behind one barrier.
    if constexpr (C.norm) Row::leave_squares(squares, partial);
    if constexpr (C.panels) leave_peak(peak, partial + kPeaks);
    if constexpr (C.norm || C.panels) block_sync();
    const float factor = C.norm ? Row::factor_of(partial, C.eps) : 1.0f;
    const PanelScale scale = C.panels ? PanelScale(peak_of_all(partial + kPeaks)) : PanelScale();
    if (C.panels && thread_index() == 0) a.factors[token] = factor * scale.inverse;
#pragma unroll
    for (int r = 0; r < kRounds; r++) {
      const int k = thread_index() * 4 + r * Row::kStride;
      if (k - lane_index() * 4 >= C.cols) break;
      const bool inside = k < C.cols;
      const float4 v = held[r];
      const std::size_t at = static_cast<std::size_t>(token) * C.cols + k;
      if constexpr (C.dense) {
        if (inside) split(times(v, factor), a.planes, at);
      }
      if constexpr (C.panels) Order::store(a.panels, round_up(C.tokens, 8), token, k, times(v, scale.scale));
    }
  }

  static __device__ __forceinline__ float4 times(float4 v, float factor) {
    return make_float4(v.x * factor, v.y * factor, v.z * factor, v.w * factor);
  }

  // A power of two that brings a row's largest value to 2^C.peak or above, but below twice that. Its inverse goes into the row's
  // factor, as that of the norm does.
  // For codes of four bits it becomes kFp4Peak, or less where that is no float's business; of what is not finite only the
  // inverse can tell.
  struct PanelScale {
    float scale = 1.0f;
    float inverse = 1.0f;
    PanelScale() = default;
    __device__ __forceinline__ explicit PanelScale(float peak) {
      if constexpr (C.fp4) {
        const float held = peak < 0x1p-100f ? 0x1p-100f : peak;
        scale = kFp4Peak / held;
        inverse = held * (1.0f / kFp4Peak) + (peak - peak);
      } else {
        constexpr int kBias = 127;
        const int exponent = static_cast<int>(float_to_bits(peak) >> 23 & 255u);
        if (exponent == 255) return;  // not finite, which the halfs are to show
        const int shift = max(exponent, C.peak + 6) - kBias - C.peak;  // 2^-shift must be a float
        scale = bits_to_float(static_cast<std::uint32_t>(kBias - shift) << 23);
        inverse = bits_to_float(static_cast<std::uint32_t>(kBias + shift) << 23);
      }
    }
  };
  static __device__ __forceinline__ float largest(float4 v) {
    return max_nan(max_nan(fabsf(v.x), fabsf(v.y)), max_nan(fabsf(v.z), fabsf(v.w)));
  }
  static __device__ __forceinline__ void leave_peak(float peak, float* partial) {
    peak = warp_max(peak);
    if (lane_index() == 0) partial[warp_index()] = peak;
  }
  static __device__ __forceinline__ float peak_of_all(const float* partial) {
    float peak = 0;
#pragma unroll
    for (int w = 0; w < kWarps; w++) peak = max_nan(peak, partial[w]);
    return peak;
  }

  static __device__ __forceinline__ void split(float4 v, std::uint16_t* planes, std::size_t at) {
    const uint2 high = make_uint2(floats_to_bfloat2(v.x, v.y), floats_to_bfloat2(v.z, v.w));
    const uint2 low = make_uint2(rest(v.x, v.y, high.x), rest(v.z, v.w, high.y));
    *reinterpret_cast<uint2*>(planes + at) = high;
    *reinterpret_cast<uint2*>(planes + static_cast<std::size_t>(C.tokens) * C.cols + at) = low;
  }
  static __device__ __forceinline__ std::uint32_t rest(float a, float b, std::uint32_t high) {
    return floats_to_bfloat2(a - bits_to_float(high << 16), b - bits_to_float(high & 0xffff0000u));
  }
};

}  // namespace imp
