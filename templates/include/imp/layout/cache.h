// The KV cache: blocks of 16 positions, in which every head of a layer has a tile of keys and one of values. How a tile's
// rows are kept is a format, a header of its own, `cache_<name>.h`, with a class template over the elements of a head:
//
//   kHeadDim, kRowBytes         elements and bytes of a row, the latter a multiple of 16; rows of a tile follow one another
//   encode(position, v, columns, write)
//                               A warp keeps a row: v[i] are the elements columns.first(pair) and columns.second(pair),
//                               pair = lane + 32 i, as far as there are any; columns.kAdjacent: all pairs are neighbours.
//                               write(byte, bits) puts 16 or 32 bits at a byte of the row.
//   keys(a, tile, step)         16 positions x elements 16 step .. 16 step + 15 of a tile in shared memory, as the tensor
//                               cores' A operand of f16; tile.row(i) is where its i-th row lies
//   values(a, tile, step)       the same transposed: elements x positions
//   place(position, chunk)      byte of a tile at which elements 8 chunk .. 8 chunk + 7 of a row begin
//   fetch(to, from, chunk)      those elements, which begin at `from` in memory, as f16 to shared memory, where they are once
//                               the thread's cp_async copies are
//
// A row of zero bytes must mean numbers: rows that nobody has written yet are multiplied by a weight of zero.
#pragma once
#include "isa.h"

namespace imp {

constexpr int kCacheTokens = 16;  // positions of a block

// A tile in shared memory whose rows follow one another.
template <class Row>
struct WholeTile {
  std::uint8_t* bytes;
  __device__ __forceinline__ std::uint8_t* row(int i) const { return bytes + i * Row::kRowBytes; }
};

// Neighbours as columns of encode().
struct NeighbourColumns {
  static constexpr bool kAdjacent = true;
  static __device__ __forceinline__ int first(int pair) { return 2 * pair; }
  static __device__ __forceinline__ int second(int pair) { return 2 * pair + 1; }
};

}  // namespace imp
