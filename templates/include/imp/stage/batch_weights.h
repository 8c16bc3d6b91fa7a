// Weights of a step of few sequences on their way from memory to the tensor cores.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

// The packed weights of two rows of 16 in a group of 128 columns, this lane's block of 32 of each.
template <class M>
struct BatchWeights {
  using L = typename M::Layout;
  static constexpr int kLanes = 32 / L::kVector;
  static constexpr int kBlocks = M::kCols / 32;
  static constexpr int kTileBlocks = L::kTile.cols / 32;
  typename L::Lane lanes[2][kLanes];

  // Where the weights of `part.row`, which is even, and of the row behind it begin.
  struct Rows {
    const std::uint8_t* tile;  // the first one's
    int in_tile;
    int second;  // 1; 0 where there is no second row, and the first one is read again
    template <class Part>
    __device__ __forceinline__ explicit Rows(const Part& part) {
      const int row = min(part.row, part.rows - 1) & ~1;
      tile = M::tile(part.plane, row, 0);
      in_tile = row % L::kTile.rows;
      second = row + 1 < part.rows ? 1 : 0;
    }
  };

  // In a last group that is not whole, the last block is there again: its activations are zeros.
  __device__ __forceinline__ void load(const Rows& rows, int group) {
    constexpr int kUnit = M::kTiles * L::kTileBytes;  // bytes of the rows of a tile
    const int number = group * 4 + lane_index() % 4;
    const int block = kBlocks % 4 == 0 ? number : min(number, kBlocks - 1);
    const int tile = (kTileBlocks % 4 == 0 ? group * 4 : block) / kTileBlocks;  // of all lanes, where it can be
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const int row = r == 0 ? rows.in_tile : rows.in_tile + rows.second;
      const bool one = L::kTile.rows % 2 == 0;  // tile has both
      const std::uint8_t* from = rows.tile + (one ? 0 : row / L::kTile.rows * kUnit) + tile * L::kTileBytes;
#pragma unroll
      for (int v = 0; v < kLanes; v++) {
        lanes[r][v] = L::template load<Ahead>(from, one ? row : row % L::kTile.rows, (block - tile * kTileBlocks) * kLanes + v);
      }
    }
  }
  // The left operands of four steps: row 2 g of 16 where the first eight are, 2 g + 1 where the others are.
  __device__ __forceinline__ void unpack(int group, int half, std::uint32_t (&a)[4][4]) const {
    const int block = (group * 4 + lane_index() % 4) % kTileBlocks;
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const HalfPairs w = L::halfs(lanes[r], block, half);
#pragma unroll
      for (int i = 0; i < 8; i++) a[i / 2][i % 2 * 2 + r] = w.pairs[i];
    }
  }
};

// A warp's weights on their way to L2, so many groups of columns at a time, where there is yet nothing to multiply them with. Which
// bytes of a tile belong to which columns is the layout's own matter, so they are its share of the tile; with the first ones of a
// stretch come the bytes at the tile's end, where scales are.
template <class M, int Groups>
struct WeightsAhead {
  using L = typename M::Layout;
  static constexpr int kTiles = 16 / L::kTile.rows;
  static constexpr bool kWhole = L::kTile.cols % (Groups * 128) == 0;  // so many groups are of one tile; else they are not fetched
  static constexpr int kOfTile = kWhole ? L::kTile.cols / (Groups * 128) : 1;

  // Of the lane's `part` of the warp's rows, the columns from `group` on.
  template <class Part>
  static __device__ __forceinline__ void fetch(const Part& part, int group, bool first) {
    if constexpr (kWhole) {
      const int tile = group / Groups / kOfTile;
      fetch_lines<ceil_div(kShare, kLine)>(part, tile, kShare * (group / Groups % kOfTile));
      if (first) fetch_lines<ceil_div(L::kTileBytes - kEnd, kLine)>(part, tile, kEnd);
    }
  }

 private:
  static constexpr int kLine = 128;
  static constexpr int kShare = L::kTileBytes / kOfTile;
  static constexpr int kEnd = L::kTileBytes / 8 * 7;

  template <int Lines, class Part>
  static __device__ __forceinline__ void fetch_lines(const Part& part, int tile, int begin) {
    const int first = part.row - lane_index() / 4 * 2;  // of the warp
#pragma unroll
    for (int i = 0; i < ceil_div(kTiles * Lines, kWarp); i++) {
      const int line = i * kWarp + lane_index();
      const int row = first + line / Lines * L::kTile.rows;
      if (line < kTiles * Lines && row < part.rows) prefetch_l2(M::tile(part.plane, row, tile) + begin + line % Lines * kLine);
    }
  }
};

}  // namespace imp
