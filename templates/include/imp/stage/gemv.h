// Matrices times one encoded vector, a kernel. Each warp streams tiles of its rows through its own ring, beginning before
// the vector is there: the weights of this kernel are on their way while the kernel before ends.
#pragma once
#include "imp/stage/encode.h"
#include "imp/stage/epilogue.h"
#include "imp/stage/ring.h"
#include "imp/stage/warp_units.h"

namespace imp {

struct GemvConfig {
  int warps;
  int grid;
  int slots;  // tiles in flight, a warp
};

// The CTAs that share a vector's units, of which this is one: all of the launch, a number that is known when it is compiled...
template <int Count>
struct AllCtas {
  int index;
  static constexpr int kCount = Count;
  static constexpr int count() { return Count; }
};
// ... or some of them, where others work on other vectors.
struct SomeCtas {
  int index;
  int some;
  static constexpr int kCount = 0;
  __device__ __forceinline__ int count() const { return some; }
};

// The tiles of one warp in the order in which it needs them: each unit's tiles along K, or in a sweep the first tiles of all
// its units, then the second ones. `Share` says which units they are (UnitShare), `Planes` where they lie.
template <class Units, class Ring, class Share, bool Sweep, class Planes = const std::uint8_t* const*>
struct UnitStream {
  Ring& ring;
  Planes planes;
  Share share;
  int next = share.first();
  int k = 0;

  __device__ __forceinline__ int count() const { return share.count(); }
  __device__ __forceinline__ int unit(int i) const { return share.unit(i); }
  __device__ __forceinline__ void fill() {
    if (next >= Units::kUnits) return;
    const TileAddress tile = Units::tile(planes, next, k);
    ring.fill(tile.data, tile.bytes);
    if constexpr (Sweep) {
      next = share.after(next);
      if (next >= Units::kUnits && ++k < Units::kTiles) next = share.first();
    } else {
      if (++k < tile.count) return;
      next = share.after(next);
      k = 0;
    }
  }
  // Begins anew, with tiles that lie elsewhere: those on their way, of `slots` that were filled, are awaited and dropped.
  __device__ __forceinline__ void begin_anew(int slots, const Planes& others) {
    const int filled = min(slots, count() * Units::kTiles);
    for (int s = 0; s < filled; s++) {
      ring.take();
      ring.release();
    }
    planes = others;
    next = share.first();
    k = 0;
  }
  __device__ __forceinline__ const std::uint8_t* take() { return ring.take(); }
  __device__ __forceinline__ void release() {
    ring.release();
    fill();
  }
  __device__ __forceinline__ const std::uint8_t* take(int, int) { return take(); }
  __device__ __forceinline__ void release(int, int) { release(); }
  __device__ __forceinline__ UnitStream& rest(int) { return *this; }
};

// Who takes which units: `Together` neighbouring ones are one CTA's, whose warps take them in turn, so that warps of one CTA
// have distant ones, if they can, and a remainder spreads over the SMs. Where it is not known how many units a warp gets, it
// does one after the other.
template <class Units, int Warps, class Ctas, int Together = 1>
struct UnitShare {
  static constexpr bool kKnown = Ctas::kCount > 0;
  static constexpr int kGroups = ceil_div(Units::kUnits, Together);
  static constexpr int kMost = kKnown ? ceil_div(ceil_div(kGroups, kKnown ? Ctas::kCount : 1) * Together, Warps) : 1;
  using Work = WarpUnits<Units, kMost>;
  static constexpr bool kSweeps = kKnown && Work::kMaySweep;
  static_assert(Units::kUnits % Together == 0, "groups are whole");
  Ctas ctas;

  __device__ __forceinline__ int unit(int i) const {
    const int mine = warp_index() + i * Warps;
    return (mine / Together * ctas.count() + ctas.index) * Together + mine % Together;
  }
  __device__ __forceinline__ int first() const { return unit(0); }
  __device__ __forceinline__ int after(int unit) const {
    return unit + Warps + (unit % Together + Warps) / Together * (ctas.count() - 1) * Together;
  }
  __device__ __forceinline__ int count() const {
    return ceil_div(max(groups() * Together - warp_index(), 0), Warps);
  }
  // Of this CTA.
  __device__ __forceinline__ int groups() const { return ceil_div(kGroups - ctas.index, ctas.count()); }
};

// y = epilogue(units x). Args: x or what it is the sum of, norm weight or null, what the epilogue takes, the planes in order.
template <GemvConfig C, EncodeConfig E, class Epilogue, class Units>
struct UnitGemv {
  using Encode = Encoder<E>;
  using Ring = WarpRing<C.warps, C.slots, Units::kMostBytes>;
  static constexpr int kThreads = C.warps * kWarp;
  static constexpr int kSharedBytes = Ring::kSharedBytes + Encode::kSharedBytes + Epilogue::kSharedBytes;
  static constexpr int kGrid = C.grid;
  static_assert(E.warps == C.warps, "the encoder works with the CTA's warps");

  struct Args {
    typename Encode::Source x;
    const float* norm;
    typename Epilogue::Args out;
    const std::uint8_t* plane[Units::kMatrices];
  };
  // The arguments of one of several rows, whose vectors and results lie `x` and `y` floats apart.
  static __device__ __forceinline__ Args of_row(Args a, int row, int x, int y) {
    a.x += static_cast<std::size_t>(row) * x;
    a.out.y += static_cast<std::size_t>(row) * y;
    return a;
  }
  static __device__ __forceinline__ void run(const Args& args) { run(args, AllCtas<C.grid>{block_index()}); }
  template <class Ctas>
  static __device__ __forceinline__ void run(const Args& args, const Ctas& ctas) {
    using Share = UnitShare<Units, C.warps, Ctas>;
    const Args a = args;  // planes are found by an index, which would make a reference memory
    // At once: wherever this kernel's CTA has left its SM, one of the next takes its place and begins to read weights.
    grid_launch_next();
    std::uint8_t* shared = shared_memory();
    std::uint8_t* encoded = shared + Ring::kSharedBytes;
    const Share share{ctas};
    Ring ring(shared);
    UnitStream<Units, Ring, Share, Share::kSweeps> tiles{ring, a.plane, share};
    for (int s = 0; s < C.slots; s++) tiles.fill();
    const typename Encode::Weights weights = norms(a.x, a.norm);
    grid_wait();
    Epilogue epilogue(a.out, encoded + Encode::kSharedBytes);
    if constexpr (Epilogue::kReads > 0) {
#pragma unroll
      for (int i = 0; i < Epilogue::kReads; i++) epilogue.read(i, Units::row(share.unit(i)));
    }
    if constexpr (Encode::kInPlace) {
      const Activations<FloatsInPlace> activations{{}, {}, {a.x}, 1.0f};
      Share::Work::template run<Share::kSweeps>(tiles.count(), tiles, activations, epilogue);
    } else {
      const float scale = encode(a.x, weights, encoded);
      const Activations<FloatActivations> activations{Encode::q8(encoded), Encode::halfs(encoded), Encode::dense(encoded), scale};
      Share::Work::template run<Share::kSweeps>(tiles.count(), tiles, activations, epilogue);
    }
    epilogue.finish();
  }

 private:
  static __device__ __forceinline__ typename Encode::Weights norms(const float*, const float* norm) {
    return Encode::weights(norm);
  }
  static __device__ __forceinline__ typename Encode::Weights norms(const PostSource& x, const float* norm) {
    return Encode::weights(norm, x.norm, x.scale);
  }
  static __device__ __forceinline__ float encode(const float* x, const typename Encode::Weights& w, std::uint8_t* encoded) {
    return Encode::run(PlainInput{x}, w, encoded);
  }
  // Every CTA adds the branch for itself; the CTAs take turns at storing the sum, 128 columns each.
  static __device__ __forceinline__ float encode(const PostSource& x, const typename Encode::Weights& w,
                                                 std::uint8_t* encoded) {
    const auto keep = [&](int k, float4 v) {
      if (x.sum != nullptr && k / 128 % C.grid == block_index()) *reinterpret_cast<float4*>(x.sum + k) = v;
    };
    return Encode::run_sum(Encode::columns(PlainInput{x.stream}), PlainInput{x.branch}, w, keep, encoded);
  }
};

template <GemvConfig C, EncodeConfig E, class Epilogue, class... Ms>
using Gemv = UnitGemv<C, E, Epilogue, MatrixUnits<Ms...>>;

template <GemvConfig C, EncodeConfig E, class Epilogue, class Gate, class Up, class F = Silu>
using GatedGemv = UnitGemv<C, E, Epilogue, PairUnits<Gate, Up, F>>;

}  // namespace imp
