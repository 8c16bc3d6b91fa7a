// Half precision, in chunks of 16 bytes. Chunks are permuted within the row by the position, so that eight positions' chunks
// of the same columns lie in different banks of shared memory once a tile has been copied there as it is.
#pragma once
#include "imp/layout/cache.h"
#include "imp/layout/tile.h"

namespace imp {

template <int HeadDim>
struct CacheF16 {
  static constexpr int kHeadDim = HeadDim;
  static constexpr int kRowBytes = HeadDim * 2;
  static constexpr int kChunks = HeadDim / 8;
  static constexpr int kSpread = kChunks % 8 == 0 ? 8 : kChunks % 4 == 0 ? 4 : kChunks % 2 == 0 ? 2 : 1;
  static_assert(HeadDim % 8 == 0, "a cache row consists of 16-byte chunks");

  template <int N, class Columns, class Write>
  static __device__ __forceinline__ void encode(int position, const float2 (&v)[N], const Columns& columns,
                                                const Write& write) {
#pragma unroll
    for (int i = 0; i < N; i++) {
      const int pair = lane_index() + i * kWarp;
      if (pair >= HeadDim / 2) continue;
      if constexpr (Columns::kAdjacent) {
        write(element(position, columns.first(pair)), floats_to_half2(v[i].x, v[i].y));
      } else {
        write(element(position, columns.first(pair)), float_to_half(v[i].x));
        write(element(position, columns.second(pair)), float_to_half(v[i].y));
      }
    }
  }

  template <class Tile>
  static __device__ __forceinline__ void keys(std::uint32_t (&a)[4], const Tile& tile, int step) {
    const int row = lane_index() % 16;
    ldmatrix_x4(a, tile.row(row) + chunk(row, 2 * step + lane_index() / 16));
  }
  template <class Tile>
  static __device__ __forceinline__ void values(std::uint32_t (&a)[4], const Tile& tile, int step) {
    const int row = lane_index() / 16 * 8 + lane_index() % 8;
    ldmatrix_x4_trans(a, tile.row(row) + chunk(row, 2 * step + lane_index() / 8 % 2));
  }
  static __device__ __forceinline__ int place(int position, int column) {
    return position % kCacheTokens * kRowBytes + chunk(position, column);
  }
  static __device__ __forceinline__ void fetch(std::uint8_t* to, const std::uint8_t* from, int) { cp_async16(to, from); }

 private:
  // Byte at which chunk `chunk` of the row of `position` begins.
  static __device__ __forceinline__ int chunk(int position, int chunk) { return (chunk ^ (position % kSpread)) * 16; }
  // Byte of element `d`.
  static __device__ __forceinline__ int element(int position, int d) {
    return chunk(position, d / 8) + d % 8 * 2;
  }
};

}  // namespace imp
