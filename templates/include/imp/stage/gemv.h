// Matrices times one encoded vector, a kernel. Each warp streams tiles of its rows through its own ring, beginning before
// the vector is there: the weights of this kernel are on their way while the kernel before ends.
#pragma once
#include "imp/stage/encode.h"
#include "imp/stage/epilogue.h"
#include "imp/stage/ring.h"
#include "imp/stage/units.h"

namespace imp {

struct GemvConfig {
  int warps;
  int grid;
  int slots;  // tiles in flight, a warp
};

// The tiles of one warp in the order in which it needs them: units unit, unit + stride, ..., each unit's tiles along K.
template <class Units, class Ring>
struct UnitStream {
  Ring& ring;
  const std::uint8_t* const* planes;
  int unit;
  int stride;
  int k = 0;

  __device__ __forceinline__ void fill() {
    if (unit >= Units::kUnits) return;
    const TileAddress tile = Units::tile(planes, unit, k);
    ring.fill(tile.data, tile.bytes);
    if (++k == tile.count) {
      k = 0;
      unit += stride;
    }
  }
  __device__ __forceinline__ const std::uint8_t* take() { return ring.take(); }
  __device__ __forceinline__ void release() {
    ring.release();
    fill();
  }
};

// y = epilogue(units x). run(): x, norm weight (or null), the epilogue's arguments, the planes in order.
template <GemvConfig C, EncodeConfig E, class Epilogue, class Units>
struct UnitGemv {
  using Encode = Encoder<E>;
  using Ring = WarpRing<C.warps, C.slots, Units::kMostBytes>;
  static constexpr int kThreads = C.warps * kWarp;
  static constexpr int kSharedBytes = Ring::kSharedBytes + Encode::kSharedBytes + Epilogue::kSharedBytes;
  static_assert(E.warps == C.warps, "the encoder works with the CTA's warps");

  template <class... Planes>
  static __device__ __forceinline__ void run(const float* x, const float* norm, const typename Epilogue::Args& out,
                                             Planes... plane) {
    static_assert(sizeof...(Planes) == Units::kMatrices, "one plane for each matrix");
    // At once: wherever this kernel's CTA has left its SM, one of the next takes its place and begins to read weights.
    grid_launch_next();
    const std::uint8_t* const planes[] = {plane...};
    std::uint8_t* shared = shared_memory();
    std::uint8_t* encoded = shared + Ring::kSharedBytes;
    constexpr int stride = C.warps * C.grid;
    // Warps of one CTA take distant units, so that a remainder spreads over the SMs.
    const int begin = block_index() + warp_index() * C.grid;
    Ring ring(shared);
    UnitStream<Units, Ring> tiles{ring, planes, begin, stride};
    for (int s = 0; s < C.slots; s++) tiles.fill();
    const typename Encode::Weights weights = Encode::weights(norm);
    grid_wait();
    Epilogue epilogue(out, encoded + Encode::kSharedBytes);
    if constexpr (Epilogue::kReads > 0) {
#pragma unroll
      for (int i = 0; i < Epilogue::kReads; i++) epilogue.read(i, Units::row(begin + i * stride));
    }
    const float scale = Encode::run(PlainInput{x}, weights, encoded);
    const Activations activations{Encode::q8(encoded), Encode::dense(encoded), scale};
    for (int unit = begin; unit < Units::kUnits; unit += stride) Units::run(unit, tiles, activations, epilogue);
    epilogue.finish();
  }
};

template <GemvConfig C, EncodeConfig E, class Epilogue, class... Ms>
using Gemv = UnitGemv<C, E, Epilogue, MatrixUnits<Ms...>>;

template <GemvConfig C, EncodeConfig E, class Gate, class Up>
using GatedGemv = UnitGemv<C, E, StoreRows<0>, PairUnits<Gate, Up>>;

}  // namespace imp
