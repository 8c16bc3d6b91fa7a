// One warp's units of a product, with the vector in registers where a lane's part of it fits there.
#pragma once
#include "imp/stage/units.h"

namespace imp {

// `Most`: units of a warp. `Tiles` says which units they are, unit(i), and gives the k-th tile of the i-th: take(i, k) a
// landed one, release(i, k) it; rest(i) is what multiply_unit() takes.
template <class Units, int Most>
struct WarpUnits {
  using M = typename Units::First;
  using Product = TileProduct<M>;
  // As codes or halfs it fits, as floats it does not, nor if the stretch is that of a long tile.
  static constexpr bool kFits = Units::kOneLayout && kCompactInput<typename M::Layout> && Product::kFits;
  // One tile a row, or two, gate and up: all units need the same part of the vector.
  static constexpr bool kHeld = kFits && Units::kTiles == Units::kParts;
  // Several: the units go through the stretches of the vector together, all k-th tiles before the next ones, if their
  // sums fit too.
  static constexpr bool kMaySweep = kFits && Units::kParts == 1 && Units::kTiles > 1 && Most * Product::kRows <= 8;

  template <bool Sweep, class Tiles, class X, class Epilogue>
  static __device__ __forceinline__ void run(int count, Tiles& tiles, X& x, Epilogue& epilogue) {
    if constexpr (Sweep) {
      sweep(count, tiles, x, epilogue);
    } else if constexpr (kHeld) {
      const HeldInput<M> held(x, 0);
#pragma unroll 1
      for (int i = 0; i < count; i++) {
        float sums[Units::kParts][Product::kRows] = {};
#pragma unroll
        for (int k = 0; k < Units::kParts; k++) {
          add(tiles, i, k, held, sums[k]);
          warp_sum(sums[k]);
        }
        Units::finish(tiles.unit(i), sums, x.scale, epilogue);
      }
    } else {
#pragma unroll 1
      for (int i = 0; i < count; i++) {
        auto&& rest = tiles.rest(i);
        Units::run(tiles.unit(i), rest, x, epilogue);
      }
    }
  }

 private:
  template <class Tiles, class X, class Epilogue>
  static __device__ __forceinline__ void sweep(int count, Tiles& tiles, X& x, Epilogue& epilogue) {
    static_assert(kMaySweep, "the sums of a warp's units must fit its registers");
    float sums[Most][1][Product::kRows] = {};
#pragma unroll 1
    for (int k = 0; k < Units::kTiles; k++) {
      x.reach(k);
      const HeldInput<M> held(x, k);
#pragma unroll
      for (int i = 0; i < Most; i++) {
        if (i < count) add(tiles, i, k, held, sums[i][0]);
      }
    }
#pragma unroll
    for (int i = 0; i < Most; i++) {
      if (i >= count) continue;
      warp_sum(sums[i][0]);
      Units::finish(tiles.unit(i), sums[i], x.scale, epilogue);
    }
  }
  template <class Tiles>
  static __device__ __forceinline__ void add(Tiles& tiles, int i, int k, const HeldInput<M>& held,
                                             float (&sums)[Product::kRows]) {
    add_tile<M>(tiles.take(i, k), held, [&] { tiles.release(i, k); }, sums);
  }
};

}  // namespace imp
