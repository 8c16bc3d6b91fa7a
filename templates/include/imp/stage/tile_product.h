// One tile times its stretch of a vector, by one warp: the vector from shared memory, or held in registers.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

// The encoded vector, and what the sums are multiplied with.
template <class Floats>
struct Activations {
  Q8Activations q8;
  HalfActivations halfs;
  Floats dense;
  float scale;
  // Before the k-th tiles of a sweep are multiplied; the whole CTA calls it.
  __device__ __forceinline__ void reach(int) const {}
};

// What a layout reads is so short that a lane's part of it fits registers: codes or halfs.
template <class L>
inline constexpr bool kCompactInput = L::kInteger || ReadsHalfs<L>;

// Some rows of a tile in registers, as many as fit there. Lanes beyond a row's end hold zeros: what is written by some lanes
// only lives on, for the compiler, from one tile to the next, through everything that the step kernel does in between.
template <class M>
struct TileProduct {
  using L = typename M::Layout;
  static constexpr int kRows = L::kTile.rows;
  static constexpr int kUnits = ceil_div(M::kRows, kRows);
  static constexpr int kVectors = L::kTile.cols / L::kVector;     // of one row
  static constexpr int kLaneVectors = ceil_div(kVectors, kWarp);  // of one row and lane
  static constexpr int kTogether = [] {
    constexpr int most = (kCompactInput<L> ? 128 : 64) / (kLaneVectors * L::kVector);  // 128 or 64 weights of a lane
    int rows = most < kRows ? most : kRows;
    while (rows > 0 && kRows % rows != 0) rows--;
    return rows;
  }();
  static constexpr bool kFits = kTogether > 0;
  int first;  // of the rows
  typename L::Lane lanes[kLaneVectors][kTogether];

  __device__ __forceinline__ TileProduct(const std::uint8_t* tile, int first_row) : first(first_row) {
#pragma unroll
    for (int v = 0; v < kLaneVectors; v++) {
      const int vector = v * kWarp + lane_index();
#pragma unroll
      for (int r = 0; r < kTogether; r++) {
        lanes[v][r] = vector < kVectors ? L::template load<Landed>(tile, first + r, vector) : typename L::Lane{};
      }
    }
  }
  // input(v, vector): the lane's v-th piece of the stretch, which is the piece `vector` of it.
  template <class Input>
  __device__ __forceinline__ void add(const Input& input, float (&sums)[kRows]) const {
#pragma unroll
    for (int v = 0; v < kLaneVectors; v++) {
      const int vector = v * kWarp + lane_index();
      if (vector >= kVectors) continue;
      const typename L::Input in = input(v, vector);
#pragma unroll
      for (int r = 0; r < kTogether; r++) sums[first + r] = L::dot(lanes[v][r], in, vector, sums[first + r]);
    }
  }
};

// All rows of a landed tile. `release` is called when the last ones have left it.
template <class M, class Input, class Release>
__device__ __forceinline__ void add_tile(const std::uint8_t* tile, const Input& input, const Release& release,
                                         float (&sums)[TileProduct<M>::kRows]) {
  using Product = TileProduct<M>;
#pragma unroll
  for (int first = 0; first < Product::kRows; first += Product::kTogether) {
    const Product product(tile, first);
    if (first + Product::kTogether == Product::kRows) release();
    product.add(input, sums);
  }
}

// The same without registers for the tile, which is read where it lies: a row that no cut divides may be long.
template <class M, class Input>
__device__ __forceinline__ void add_landed(const std::uint8_t* tile, const Input& input,
                                           float (&sums)[TileProduct<M>::kRows]) {
  using Product = TileProduct<M>;
  using L = typename M::Layout;
#pragma unroll 4
  for (int v = 0; v < Product::kLaneVectors; v++) {
    const int vector = v * kWarp + lane_index();
    if (vector >= Product::kVectors) continue;
    const typename L::Input in = input(v, vector);
#pragma unroll
    for (int r = 0; r < Product::kRows; r++) {
      sums[r] = L::dot(L::template load<Landed>(tile, r, vector), in, vector, sums[r]);
    }
  }
}

// The stretch of the vector for the k-th tiles of all units.
template <class M, class X>
struct SharedInput {
  using L = typename M::Layout;
  const X& x;
  int k;
  __device__ __forceinline__ typename L::Input operator()(int, int vector) const {
    const int at = k * TileProduct<M>::kVectors + vector;
    if constexpr (L::kInteger) {
      return L::input(x.q8, at);
    } else if constexpr (ReadsHalfs<L>) {
      return L::input(x.halfs, at);
    } else {
      return L::input(x.dense, at);
    }
  }
};

// What a lane needs of it, in registers: shared memory is then read for the weights only.
template <class M>
struct HeldInput {
  using Product = TileProduct<M>;
  typename M::Layout::Input input[Product::kLaneVectors];

  template <class X>
  __device__ __forceinline__ HeldInput(const X& x, int k) {
    const SharedInput<M, X> shared{x, k};
#pragma unroll
    for (int v = 0; v < Product::kLaneVectors; v++) {
      const int vector = v * kWarp + lane_index();
      input[v] = vector < Product::kVectors ? shared(v, vector) : typename M::Layout::Input{};
    }
  }
  __device__ __forceinline__ const typename M::Layout::Input& operator()(int v, int) const { return input[v]; }
};

// Sums of one unit's rows over all of K, in every lane. `tiles` gives its tiles in order: take() a landed one, release() it.
template <class M, class Tiles, class X>
__device__ __forceinline__ void multiply_unit(Tiles& tiles, const X& x, float (&sums)[TileProduct<M>::kRows]) {
#pragma unroll 1
  for (int k = 0; k < M::kTiles; k++) {
    const auto release = [&] { tiles.release(); };
    if constexpr (TileProduct<M>::kFits && kCompactInput<typename M::Layout> && TileProduct<M>::kTogether < TileProduct<M>::kRows) {
      const HeldInput<M> held(x, k);
      add_tile<M>(tiles.take(), held, release, sums);
    } else if constexpr (TileProduct<M>::kFits) {
      add_tile<M>(tiles.take(), SharedInput<M, X>{x, k}, release, sums);
    } else {
      add_landed<M>(tiles.take(), SharedInput<M, X>{x, k}, sums);
      tiles.release();
    }
  }
  warp_sum(sums);
}

// The value of row `index` out of an array that every lane holds whole, without indexing registers at run time.
template <int N>
__device__ __forceinline__ float pick(const float (&values)[N], int index) {
  float result = values[0];
#pragma unroll
  for (int i = 1; i < N; i++) result = index == i ? values[i] : result;
  return result;
}

}  // namespace imp
