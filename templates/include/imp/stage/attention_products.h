// The two products of attention over a tile of keys and one of values in shared memory: by warps, or by warpgroups where a
// target has them. A warp has 16 rows, of a head of more than 128 elements a part; sums and weights lie in the registers as
// isa_mma.h says in both.
//
//   kParts, kDepth, kTileKeys       warps that share a head, tensor-core steps of 16 elements of each, keys of a tile
//   kTileBytes, place(row, chunk)   of a tile of keys or of values, and where 16 bytes of a row lie
//   landed()                        by the thread that copied them, once they are there
//   score(keys, queries, scores)    scores = queries times keys, of this warp's part; they are there after scored(scores)
//   add(values, weights, out)       out += weights times values
#pragma once
#include "imp/layout/tile.h"

namespace imp {

// What both have in common. Warps of one part follow one another.
template <int HeadDim, int Groups>
struct AttentionParts {
  static constexpr int kParts = ceil_div(HeadDim, 128);
  static constexpr int kSteps = HeadDim / 16;
  static constexpr int kDepth = ceil_div(kSteps, kParts);
  static __device__ __forceinline__ int group() { return kParts > 1 ? warp_index() % Groups : warp_index(); }
  static __device__ __forceinline__ int part() { return kParts > 1 ? warp_index() / Groups : 0; }
  // The first of this warp's steps, and whether it has one that is the k-th: the last part of a head may have fewer.
  static __device__ __forceinline__ int step() { return part() * kDepth; }
  static __device__ __forceinline__ bool has(int k) { return kSteps % kParts == 0 || step() + k < kSteps; }
};

template <int HeadDim, int Groups>
struct MmaProducts : AttentionParts<HeadDim, Groups> {
  using Base = AttentionParts<HeadDim, Groups>;
  using Base::has;
  using Base::kDepth;
  using Base::kParts;
  using Base::step;
  static constexpr int kTileKeys = kParts == 1 ? 64 : kParts == 2 ? 32 : 16;
  static constexpr int kRowBytes = HeadDim * 2 + 16;  // an odd number of chunks: eight rows hit all banks
  static constexpr int kTileBytes = kTileKeys * kRowBytes;

  static __device__ __forceinline__ int place(int row, int chunk) { return row * kRowBytes + chunk * 16; }
  static __device__ __forceinline__ void landed() {}

  static __device__ __forceinline__ void score(const std::uint8_t* keys, const std::uint32_t (&queries)[kDepth][4],
                                               float (&scores)[kTileKeys / 8][4]) {
    // Four matrices: eight keys x two chunks of the head, then the next eight keys.
    const int row = lane_index() / 16 * 8 + lane_index() % 8;
    const int chunk = lane_index() / 8 % 2;
#pragma unroll
    for (int n = 0; n < kTileKeys / 16; n++) {
#pragma unroll
      for (int j = 0; j < 2; j++) {
#pragma unroll
        for (float& sum : scores[2 * n + j]) sum = 0;
      }
#pragma unroll
      for (int k = 0; k < kDepth; k++) {
        if (!has(k)) break;
        std::uint32_t r[4];
        ldmatrix_x4(r, keys + place(n * 16 + row, 2 * (step() + k) + chunk));
        const std::uint32_t b[2][2] = {{r[0], r[1]}, {r[2], r[3]}};
        mma_f16_k16(scores[2 * n], queries[k], b[0]);
        mma_f16_k16(scores[2 * n + 1], queries[k], b[1]);
      }
    }
  }

  static __device__ __forceinline__ void scored(float (&)[kTileKeys / 8][4]) {}

  static __device__ __forceinline__ void add(const std::uint8_t* values,
                                             const std::uint32_t (&weights)[kTileKeys / 16][4],
                                             float (&out)[2 * kDepth][4]) {
    // Four matrices, transposed: two times eight values x one chunk of the head, then the next chunk.
    const int row = lane_index() % 16;
    const int chunk = lane_index() / 16;
#pragma unroll
    for (int k = 0; k < kTileKeys / 16; k++) {
#pragma unroll
      for (int d = 0; d < kDepth; d++) {
        if (!has(d)) break;
        std::uint32_t r[4];
        ldmatrix_x4_trans(r, values + place(k * 16 + row, 2 * (step() + d) + chunk));
        const std::uint32_t b[2][2] = {{r[0], r[1]}, {r[2], r[3]}};
        mma_f16_k16(out[2 * d], weights[k], b[0]);
        mma_f16_k16(out[2 * d + 1], weights[k], b[1]);
      }
    }
  }
};

// Tiles are panels of 64 columns (isa_wgmma.h). A part of a head is one panel or two.
template <int HeadDim, int Groups>
struct WgmmaProducts : AttentionParts<HeadDim, Groups> {
  using Base = AttentionParts<HeadDim, Groups>;
  using Base::kDepth;
  using Base::kParts;
  using Base::part;
  static constexpr int kTileKeys = 64;
  static constexpr int kPanelBytes = kTileKeys * 128;
  static constexpr int kPanels = kDepth / 4;  // of a part
  static constexpr int kTileBytes = HeadDim / 64 * kPanelBytes;
  static_assert(Groups % 4 == 0, "a warpgroup has 64 rows");
  static_assert(HeadDim % (64 * kParts) == 0, "a part of a head consists of panels");

  static __device__ __forceinline__ int place(int row, int chunk) {
    return chunk / 8 * kPanelBytes + row * 128 + (chunk % 8 ^ row % 8) * 16;
  }
  // The tensor cores read through another proxy than cp_async writes.
  static __device__ __forceinline__ void landed() { bulk_fence(); }

  static __device__ __forceinline__ void score(const std::uint8_t* keys, const std::uint32_t (&queries)[kDepth][4],
                                               float (&scores)[kTileKeys / 8][4]) {
    auto& sums = reinterpret_cast<float(&)[kTileKeys / 2]>(scores);
#pragma unroll
    for (float& sum : sums) sum = 0;
    const std::uint8_t* panels = keys + part() * kPanels * kPanelBytes;
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kDepth; k++) {
      wgmma_f16<kTileKeys>(sums, queries[k], panels + k / 4 * kPanelBytes, k % 4);
    }
    wgmma_commit();
  }
  static __device__ __forceinline__ void scored(float (&scores)[kTileKeys / 8][4]) {
    wgmma_wait<0>(reinterpret_cast<float(&)[kTileKeys / 2]>(scores));
  }

  static __device__ __forceinline__ void add(const std::uint8_t* values,
                                             const std::uint32_t (&weights)[kTileKeys / 16][4],
                                             float (&out)[2 * kDepth][4]) {
    auto& sums = reinterpret_cast<float(&)[kPanels * 32]>(out);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kTileKeys / 16; k++) {
      wgmma_f16_lines<kPanels * 64>(sums, weights[k], values + part() * kPanels * kPanelBytes, kPanelBytes, k);
    }
    wgmma_commit();
    wgmma_wait<0>(sums);
  }
};

}  // namespace imp
