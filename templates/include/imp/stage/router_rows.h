// A router's logits for several rows. Its matrix has few rows and is read again and again: a CTA takes some rows of the step, normed
// in shared memory, and a warp some of the matrix, whose weights serve all of them. Every logit is one sum of 32 lanes', whoever
// else is there.
#pragma once
#include "imp/layout/tile.h"
#include "imp/stage/chunk_row.h"
#include "imp/stage/rows.h"

namespace imp {

struct RouterConfig {
  int cols;
  int block_rows;    // of the step, that a CTA has
  int warp_experts;  // that a warp has: more, so that rows are read less often, or fewer, so that more CTAs share them
  bool norm;       // x * weight / rms(x)
  float eps;
  bool weighted;
  bool biased;
};

template <RouterConfig C, class M>
struct RouterRows {
  using Layout = typename M::Layout;
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kExperts = C.warp_experts;
  static constexpr int kBlockExperts = kWarps * kExperts;
  static constexpr int kVectors = C.cols / Layout::kVector;
  static constexpr int kTileVectors = Layout::kTile.cols / Layout::kVector;
  static constexpr int kSharedBytes = C.block_rows * C.cols * 4;
  static_assert(M::kCols == C.cols && C.cols % 4 == 0, "a lane takes four columns");
  static_assert(!Layout::kInteger, "routers have float weights");
  static_assert(kExperts * C.block_rows <= kWarp, "a lane stores one logit");

  struct Args {
    const float* x;     // [rows][cols]
    const float* norm;  // [cols], or null
    const std::uint8_t* plane;
    const float* bias;  // [experts], or null
    float* logits;      // [rows][experts]
    const StepHeader* step;
  };

  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    grid_wait();
    const int first = block_index() * C.block_rows;
    const int rows = a.step->rows - first;
    if (rows <= 0) return;
    auto* const shared = reinterpret_cast<float*>(shared_memory());
    for (int row = warp_index(); row < C.block_rows; row += kWarps) {
      keep(a.x + static_cast<std::size_t>(first + row) * C.cols, a.norm, row < rows, shared + row * C.cols);
    }
    block_sync();
    const int expert = block_index_y() * kBlockExperts + warp_index() * kExperts;
    if (expert >= M::kRows) return;
    float sums[kExperts * C.block_rows] = {};
#pragma unroll(8 / kExperts)
    for (int v = lane_index(); v < kVectors; v += kWarp) {
      typename Layout::Lane weights[kExperts];
#pragma unroll
      for (int i = 0; i < kExperts; i++) {
        const int row = min(expert + i, M::kRows - 1);
        const std::uint8_t* tile = M::tile(a.plane, row, v / kTileVectors);
        weights[i] = Layout::template load<Cached>(tile, row % Layout::kTile.rows, v % kTileVectors);
      }
#pragma unroll
      for (int r = 0; r < C.block_rows; r++) {
        const typename Layout::Input x = Layout::input(FloatsInPlace{shared + r * C.cols}, v);
#pragma unroll
        for (int i = 0; i < kExperts; i++) {
          float& sum = sums[i * C.block_rows + r];
          sum = Layout::dot(weights[i], x, 0, sum);
        }
      }
    }
    warp_sum(sums);
    float own = 0;
#pragma unroll
    for (int i = 0; i < kExperts * C.block_rows; i++) own = lane_index() == i ? sums[i] : own;
    const int row = lane_index() % C.block_rows;
    const int which = expert + lane_index() / C.block_rows;
    if (lane_index() >= kExperts * C.block_rows || row >= rows || which >= M::kRows) return;
    if constexpr (C.biased) own += a.bias[which];
    a.logits[static_cast<std::size_t>(first + row) * M::kRows + which] = own;
  }

 private:
  // A row as the matrix multiplies it; zeros if there is none. A warp calls it.
  static __device__ __forceinline__ void keep(const float* x, const float* norm, bool there, float* out) {
    constexpr int kRounds = ceil_div(C.cols, kWarp * 4);
    constexpr int kHeld = kRounds < 32 ? kRounds : 32;  // asked for together
    float squares = 0;
#pragma unroll 1
    for (int first = 0; first < kRounds; first += kHeld) {
      float4 held[kHeld];
#pragma unroll
      for (int i = 0; i < kHeld; i++) {
        const int k = ((first + i) * kWarp + lane_index()) * 4;
        held[i] = there && k < C.cols ? *reinterpret_cast<const float4*>(x + k) : make_float4(0, 0, 0, 0);
      }
#pragma unroll
      for (int i = 0; i < kHeld; i++) {
        const int k = ((first + i) * kWarp + lane_index()) * 4;
        const float4 v = held[i];
        if (k < C.cols) *reinterpret_cast<float4*>(out + k) = v;
        if constexpr (C.norm) squares = fma(v.x, v.x, fma(v.y, v.y, fma(v.z, v.z, fma(v.w, v.w, squares))));
      }
    }
    if constexpr (C.norm) {
      const float factor = rsqrt_fast(fma(warp_sum(squares), 1.0f / static_cast<float>(C.cols), C.eps));
#pragma unroll 8
      for (int k = lane_index() * 4; k < C.cols; k += kWarp * 4) {
        auto* const at = reinterpret_cast<float4*>(out + k);
        const float4 g = C.weighted ? *reinterpret_cast<const float4*>(norm + k) : make_float4(1, 1, 1, 1);
        const float4 v = *at;
        *at = make_float4(v.x * factor * g.x, v.y * factor * g.y, v.z * factor * g.z, v.w * factor * g.w);
      }
    }
  }
};

}  // namespace imp
