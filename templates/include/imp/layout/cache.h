// A row of the KV cache: one position's keys or values of one head, f16 in chunks of 16 bytes. Chunks are permuted within
// the row by the position, so that eight positions' chunks of the same columns lie in different banks of shared memory
// once a block has been copied there as it is.
#pragma once
#include "isa.h"

namespace imp {

constexpr int kCacheTokens = 16;  // positions of a block

template <int HeadDim>
struct CacheRow {
  static constexpr int kChunks = HeadDim / 8;
  static constexpr int kSpread = kChunks % 8 == 0 ? 8 : kChunks % 4 == 0 ? 4 : kChunks % 2 == 0 ? 2 : 1;
  static constexpr int kBytes = HeadDim * 2;
  static_assert(HeadDim % 8 == 0, "a cache row consists of 16-byte chunks");

  // Byte at which chunk `chunk` of the row of `position` begins.
  static __device__ __forceinline__ int chunk(int position, int chunk) { return (chunk ^ (position % kSpread)) * 16; }
  // Byte of element `d`.
  static __device__ __forceinline__ int element(int position, int d) {
    return chunk(position, d / 8) + d % 8 * 2;
  }
};

}  // namespace imp
