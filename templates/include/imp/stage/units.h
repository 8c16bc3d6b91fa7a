// Matrices cut into units, the rows of one tile: where a unit's tiles lie, and what one warp makes of them. Both forms of
// decode, kernel after kernel and all in one, stream units; they differ in who fetches the tiles.
#pragma once
#include <tuple>
#include <type_traits>

#include "imp/stage/elementwise.h"
#include "imp/stage/tile_product.h"

namespace imp {

struct TileAddress {
  const std::uint8_t* data;
  int bytes;
  int count;  // tiles of the unit
};

// One or several matrices that share x, laid end to end: a unit is a tile's rows of one of them.
template <class... Ms>
struct MatrixUnits {
  static constexpr int kMatrices = sizeof...(Ms);
  static constexpr int kUnits = (TileProduct<Ms>::kUnits + ...);
  using First = std::tuple_element_t<0, std::tuple<Ms...>>;
  static constexpr int kTiles = First::kTiles;  // of a unit, if uniform
  static constexpr bool kUniform = ((Ms::kTiles == kTiles) && ...);
  static constexpr int kMostBytes = [] {
    int most = 0;
    ((most = Ms::Layout::kTileBytes > most ? Ms::Layout::kTileBytes : most), ...);
    return most;
  }();
  static_assert(((Ms::kCols == First::kCols) && ...), "matrices that share a vector have rows of its length");
  static constexpr bool kOneLayout = (std::is_same_v<typename Ms::Layout, typename First::Layout> && ...);
  static constexpr int kParts = 1;  // sums of a row

  static __device__ __forceinline__ TileAddress tile(const std::uint8_t* const* planes, int unit, int k) {
    TileAddress found{};
    int first = 0;
    int matrix = 0;
    (locate<Ms>(planes, unit, k, first, matrix, found), ...);
    return found;
  }
  // Calls epilogue.store(row in all, value) once for each row of the unit, each by some lane.
  template <class Tiles, class X, class Epilogue>
  static __device__ __forceinline__ void run(int unit, Tiles& tiles, const X& x, Epilogue& epilogue) {
    int first_unit = 0;
    int first_row = 0;
    int matrix = 0;
    if constexpr (kOneLayout) {  // one piece of code for all
      float sums[1][TileProduct<First>::kRows] = {};
      multiply_unit<First>(tiles, x, sums[0]);
      finish(unit, sums, x.scale, epilogue);
    } else {
      (visit<Ms>(unit, first_unit, first_row, matrix, tiles, x, epilogue), ...);
    }
  }
  // The end of run(), from the unit's sums.
  template <class Epilogue>
  static __device__ __forceinline__ void finish(int unit, const float (&sums)[1][TileProduct<First>::kRows], float scale,
                                                Epilogue& epilogue) {
    int first_unit = 0;
    int first_row = 0;
    int matrix = 0;
    (store<Ms>(unit, first_unit, first_row, matrix, sums[0], scale, epilogue), ...);
  }
  // The row that this lane will store of a unit, or -1: one matrix only.
  static __device__ __forceinline__ int row(int unit) {
    static_assert(kMatrices == 1, "what an epilogue reads ahead belongs to one matrix");
    const int row = unit * TileProduct<First>::kRows + lane_index();
    return lane_index() < TileProduct<First>::kRows && row < First::kRows ? row : -1;
  }

 private:
  template <class M>
  static __device__ __forceinline__ void locate(const std::uint8_t* const* planes, int unit, int k, int& first,
                                                int& matrix, TileAddress& found) {
    const int local = unit - first;
    if (local >= 0 && local < TileProduct<M>::kUnits) {
      const std::size_t index = static_cast<std::size_t>(local) * M::kTiles + k;
      found = {planes[matrix] + index * M::Layout::kTileBytes, M::Layout::kTileBytes, M::kTiles};
    }
    first += TileProduct<M>::kUnits;
    matrix++;
  }
  template <class M, class Tiles, class X, class Epilogue>
  static __device__ __forceinline__ void visit(int unit, int& first_unit, int& first_row, int& matrix, Tiles& tiles,
                                               const X& x, Epilogue& epilogue) {
    float sums[TileProduct<M>::kRows] = {};
    if (unit >= first_unit && unit < first_unit + TileProduct<M>::kUnits) multiply_unit<M>(tiles, x, sums);
    store<M>(unit, first_unit, first_row, matrix, sums, x.scale, epilogue);
  }
  template <class M, class Epilogue>
  static __device__ __forceinline__ void store(int unit, int& first_unit, int& first_row, int& matrix,
                                               const float (&sums)[TileProduct<M>::kRows], float scale,
                                               Epilogue& epilogue) {
    using Product = TileProduct<M>;
    const int local = unit - first_unit;
    const int row = local * Product::kRows + lane_index();
    if (local >= 0 && local < Product::kUnits && lane_index() < Product::kRows && row < M::kRows) {
      epilogue.store(first_row + row, epilogue.biased(matrix, row, scale * pick(sums, lane_index())));
    }
    first_unit += Product::kUnits;
    first_row += M::kRows;
    matrix++;
  }
};

// Gate and up side by side: a unit is the same rows of both, and its result F(gate) * up.
template <class A, class B, class F = Silu>
struct PairUnits {
  static constexpr int kMatrices = 2;
  static constexpr int kRows =
      A::Layout::kTile.rows > B::Layout::kTile.rows ? A::Layout::kTile.rows : B::Layout::kTile.rows;
  static constexpr int kUnits = ceil_div(A::kRows, kRows);
  static constexpr int kTilesA = kRows / A::Layout::kTile.rows * A::kTiles;
  static constexpr int kTilesB = kRows / B::Layout::kTile.rows * B::kTiles;
  static constexpr bool kUniform = true;
  static constexpr int kTiles = kTilesA + kTilesB;
  static constexpr int kMostBytes =
      A::Layout::kTileBytes > B::Layout::kTileBytes ? A::Layout::kTileBytes : B::Layout::kTileBytes;
  static_assert(A::kRows == B::kRows && A::kCols == B::kCols, "gate and up have one shape");
  using First = A;
  static constexpr bool kOneLayout = std::is_same_v<typename A::Layout, typename B::Layout>;
  static constexpr int kParts = 2;

  static __device__ __forceinline__ TileAddress tile(const std::uint8_t* const* planes, int unit, int k) {
    return k < kTilesA ? at<A>(planes[0], unit * kTilesA + k) : at<B>(planes[1], unit * kTilesB + k - kTilesA);
  }
  template <class Tiles, class X, class Epilogue>
  static __device__ __forceinline__ void run(int unit, Tiles& tiles, const X& x, Epilogue& epilogue) {
    float sums[2][kRows] = {};
    if constexpr (kOneLayout) {  // one piece of code for both
#pragma unroll 1
      for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int r = 0; r < kRows; r++) sums[0][r] = sums[1][r];
        rows<A>(tiles, x, sums[1]);
      }
    } else {
      rows<A>(tiles, x, sums[0]);
      rows<B>(tiles, x, sums[1]);
    }
    finish(unit, sums, x.scale, epilogue);
  }
  template <class Epilogue>
  static __device__ __forceinline__ void finish(int unit, const float (&sums)[2][kRows], float scale,
                                                Epilogue& epilogue) {
    const int row = unit * kRows + lane_index();
    const float gate = scale * pick(sums[0], lane_index() % kRows);
    const float up = scale * pick(sums[1], lane_index() % kRows);
    if (lane_index() < kRows && row < A::kRows) {
      epilogue.store(row, gated<F>(epilogue.biased(0, row, gate), epilogue.biased(1, row, up)));
    }
  }

 private:
  // In the last unit a matrix may have fewer tiles than the other: it gives its last tile again, which nobody stores.
  template <class M>
  static __device__ __forceinline__ TileAddress at(const std::uint8_t* plane, int index) {
    constexpr int last = TileProduct<M>::kUnits * M::kTiles - 1;
    const std::size_t tile = index < last ? index : last;
    return {plane + tile * M::Layout::kTileBytes, M::Layout::kTileBytes, kTiles};
  }
  template <class M, class Tiles, class X>
  static __device__ __forceinline__ void rows(Tiles& tiles, const X& x, float (&sums)[kRows]) {
    constexpr int kUnitRows = M::Layout::kTile.rows;
#pragma unroll
    for (int i = 0; i < kRows / kUnitRows; i++) {
      float part[kUnitRows] = {};
      multiply_unit<M>(tiles, x, part);
#pragma unroll
      for (int r = 0; r < kUnitRows; r++) sums[i * kUnitRows + r] = part[r];
    }
  }
};

}  // namespace imp
