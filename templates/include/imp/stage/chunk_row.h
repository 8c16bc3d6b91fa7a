// One token of a chunk, by one CTA: the RMS factor of its values, and the sum of its residual stream and a branch. Each
// thread takes the same columns all the while.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

// A chunk's residual stream whose latest branch is not yet added to it: both f32 [tokens, cols].
struct PostChunk {
  float* stream;
  const float* branch;
  const float* norm;   // its weight
  const float* scale = nullptr;  // of the sum, if it has one
};

template <int Cols, int Warps>
struct ChunkRow {
  static constexpr int kStride = Warps * kWarp * 4;

  static __device__ __forceinline__ float4 load(const float* from) { return *reinterpret_cast<const float4*>(from); }

  // row(k): the values of the columns k to k + 3. `partial` [Warps], which nothing else uses meanwhile.
  template <class R>
  static __device__ __forceinline__ float rms_factor(const R& row, float eps, float* partial) {
    float squares = 0;
    for (int k = thread_index() * 4; k < Cols; k += kStride) {
      squares = add_squares(row(k), squares);
    }
    return rms_factor(squares, eps, partial);
  }
  static __device__ __forceinline__ float add_squares(float4 v, float sum) {
    return fma(v.x, v.x, fma(v.y, v.y, fma(v.z, v.z, fma(v.w, v.w, sum))));
  }
  // The same of this thread's squares.
  static __device__ __forceinline__ float rms_factor(float squares, float eps, float* partial) {
    leave_squares(squares, partial);
    block_sync();
    return factor_of(partial, eps);
  }
  // Its two halves, on either side of a barrier.
  static __device__ __forceinline__ void leave_squares(float squares, float* partial) {
    squares = warp_sum(squares);
    if (lane_index() == 0) partial[warp_index()] = squares;
  }
  static __device__ __forceinline__ float factor_of(const float* partial, float eps) {
    float total = 0;
#pragma unroll
    for (int w = 0; w < Warps; w++) total += partial[w];
    return rsqrt_fast(fma(total, 1.0f / static_cast<float>(Cols), eps));
  }

  // The row stream + rms_norm(branch) * norm, if `Scaled` times a number, whose first columns lie at `first`; it takes the
  // stream's place if it is to be kept.
  template <bool Scaled, bool Keep>
  static __device__ __forceinline__ auto sum(const PostChunk& from, std::size_t first, float eps, float* partial) {
    float* const x = from.stream + first;
    const float* const y = from.branch + first;
    const float* const weight = from.norm;
    const float scale = Scaled ? *from.scale : 1.0f;
    const float factor = rms_factor([&](int k) { return load(y + k); }, eps, partial);
    const auto added = [=](int k) {
      const float4 old = load(x + k);
      const float4 v = load(y + k);
      const float4 g = load(weight + k);
      return make_float4(scale * fma(v.x * factor, g.x, old.x), scale * fma(v.y * factor, g.y, old.y),
                         scale * fma(v.z * factor, g.z, old.z), scale * fma(v.w * factor, g.w, old.w));
    };
    if constexpr (Keep) {
      for (int k = thread_index() * 4; k < Cols; k += kStride) *reinterpret_cast<float4*>(x + k) = added(k);
      return [=](int k) { return load(x + k); };
    } else {
      return added;
    }
  }
};

}  // namespace imp
