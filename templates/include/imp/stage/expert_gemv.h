// The matrices of those experts that a token goes to, times one vector, a kernel. Which tiles to fetch is known only behind
// the kernel before: then each warp asks for its first ones before the vector is encoded.
#pragma once
#include "imp/stage/expert_rows.h"
#include "imp/stage/gemv.h"
#include "imp/stage/own_route.h"
#include "imp/stage/route.h"

namespace imp {

// Stacks of matrices, and of those the experts of the route, one a lane.
struct Stacks {
  const std::uint8_t* const* planes;
  int expert;

  // The matrix of the route's expert `slot` in the stack `matrix` of Ms; the whole warp asks.
  template <class M>
  __device__ __forceinline__ const std::uint8_t* of(int matrix, int slot) const {
    static_assert(M::kRows % M::Layout::kTile.rows == 0, "no tile has rows of two experts");
    constexpr std::size_t kBytes = static_cast<std::size_t>(TileProduct<M>::kUnits) * M::kTiles * M::Layout::kTileBytes;
    return planes[matrix] + static_cast<std::size_t>(shuffle(expert, slot)) * kBytes;
  }
};

// Gate and up of `Used` experts, whose results lie side by side: units of one expert after those of the other.
template <class A, class B, class F, int Used>
struct RoutedPair {
  using Pair = PairUnits<A, B, F>;
  using First = A;
  static constexpr int kMatrices = 2;
  static constexpr int kRows = Pair::kRows;
  static constexpr int kUnits = Used * Pair::kUnits;
  static constexpr int kTiles = Pair::kTiles;
  static constexpr int kMostBytes = Pair::kMostBytes;
  static constexpr bool kOneLayout = Pair::kOneLayout;
  static constexpr int kParts = Pair::kParts;

  static __device__ __forceinline__ TileAddress tile(const Stacks& stacks, int unit, int k) {
    const int slot = unit / Pair::kUnits;
    const std::uint8_t* const planes[2] = {stacks.of<A>(0, slot), stacks.of<B>(1, slot)};
    return Pair::tile(planes, unit % Pair::kUnits, k);
  }
  template <class Tiles, class X, class Epilogue>
  static __device__ __forceinline__ void run(int unit, Tiles& tiles, const X& x, Epilogue& epilogue) {
    auto shifted = shift(unit / Pair::kUnits, epilogue);
    Pair::run(unit % Pair::kUnits, tiles, x, shifted);
  }
  template <class Sums, class Epilogue>
  static __device__ __forceinline__ void finish(int unit, const Sums& sums, float scale, Epilogue& epilogue) {
    auto shifted = shift(unit / Pair::kUnits, epilogue);
    Pair::finish(unit % Pair::kUnits, sums, scale, shifted);
  }

 private:
  template <class Epilogue>
  struct Shifted {
    Epilogue& to;
    int first;
    int first_bias;
    __device__ __forceinline__ float biased(int matrix, int row, float value) {
      return to.biased(matrix, first_bias + row, value);
    }
    __device__ __forceinline__ void store(int row, float value) { to.store(first + row, value); }
  };
  template <class Epilogue>
  static __device__ __forceinline__ Shifted<Epilogue> shift(int slot, Epilogue& to) {
    return {to, slot * A::kRows, to.first(slot, A::kRows)};
  }
};

// The sum of what `Used` experts make, each of its own part of the vector: as one matrix whose rows are theirs, end to end.
template <class M, int Used>
struct RoutedSum : MatrixUnits<Matrix<typename M::Layout, M::kRows, Used * M::kCols>> {
  static __device__ __forceinline__ TileAddress tile(const Stacks& stacks, int unit, int k) {
    const std::uint8_t* plane = stacks.of<M>(0, k / M::kTiles);
    const std::size_t index = static_cast<std::size_t>(unit) * M::kTiles + k % M::kTiles;
    return {plane + index * M::Layout::kTileBytes, M::Layout::kTileBytes, Used * M::kTiles};
  }
};

// A route that this kernel chooses; the `first` of a row's CTAs leaves it to others. The experts share one vector.
template <RouteConfig C>
struct ChosenRoute {
  struct Args {
    const float* logits;
    float* route;                       // [2][used]: experts, shares
    const float* correction = nullptr;  // [experts]
    const float* scales = nullptr;      // [experts]
  };
  static constexpr int kSharedBytes = 0;
  struct Weights {
    __device__ __forceinline__ explicit Weights(const Args&) {}
  };
  Routed routed;
  static __device__ __forceinline__ Args of_row(const Args& a, int row) {
    return {a.logits + row * (C.experts + C.others), a.route + row * (2 * C.used), a.correction, a.scales};
  }
  template <class Norm>
  __device__ __forceinline__ ChosenRoute(const Args& a, const Weights&, const float*, const Norm&, float*, bool first)
      : routed(choose_experts<C>(a.logits, a.correction, a.scales)) {
    if (first) store_route<C>(routed, a.route);
  }
  __device__ __forceinline__ PlainInput input(const float* x) const { return {x}; }
  static __device__ __forceinline__ FloatsInPlace in_place(const float* x) { return {x}; }
};

// A route that lies in memory, to some of `Experts`. Each of them has a vector of `Cols` elements, which counts as much as it does.
template <int Used, int Experts, int Cols>
struct KnownRoute {
  struct Args {
    const float* route;
  };
  struct Weighed {
    const float* x;
    const float* shares;
    __device__ __forceinline__ float4 chunk(int index) const {
      const float4 v = reinterpret_cast<const float4*>(x)[index];
      const float share = shares[index * 4 / Cols];
      return make_float4(v.x * share, v.y * share, v.z * share, v.w * share);
    }
    template <int N>
    __device__ __forceinline__ void read(float4 (&v)[N], const int (&at)[N]) const {
#pragma unroll
      for (int i = 0; i < N; i++) v[i] = at[i] >= 0 ? chunk(at[i] / 4) : make_float4(0, 0, 0, 0);
    }
  };
  static_assert(Cols % 4 == 0, "vectors are read four elements at a time");
  static constexpr int kSharedBytes = 0;
  struct Weights {
    __device__ __forceinline__ explicit Weights(const Args&) {}
  };
  const float* shares;
  Routed routed;
  // The kernel before chooses as it begins and then works for long. So before it has ended the route lies there, almost
  // always: by what lies there tiles are asked for, and again only if it was another one.
  static __device__ __forceinline__ int guess(const Args& a) {
    const float expert = lane_index() < Used ? load_fresh(a.route + lane_index()) : 0.0f;
    return expert >= 0.0f && expert < static_cast<float>(Experts) ? static_cast<int>(expert) : 0;
  }
  static __device__ __forceinline__ Args of_row(const Args& a, int row) { return {a.route + row * (2 * Used)}; }
  template <class X, class Norm>
  __device__ __forceinline__ KnownRoute(const Args& a, const Weights&, X, const Norm&, float*, bool) : shares(a.route + Used) {
    routed.expert = lane_index() < Used ? static_cast<int>(a.route[lane_index()]) : 0;
  }
  __device__ __forceinline__ Weighed input(const float* x) const { return {x, shares}; }
  __device__ __forceinline__ Weighed in_place(const float* x) const { return input(x); }
};

// y = epilogue(units x) as UnitGemv's, of the experts that `Route` says.
template <GemvConfig C, EncodeConfig E, class Route, class Epilogue, class Units>
struct ExpertGemv {
  using Encode = Encoder<E>;
  using Ring = WarpRing<C.warps, C.slots, Units::kMostBytes>;
  static constexpr int kThreads = C.warps * kWarp;
  static constexpr int kRouteBytes = Ring::kSharedBytes + Encode::kSharedBytes + Epilogue::kSharedBytes;
  static constexpr int kSharedBytes = kRouteBytes + Route::kSharedBytes;
  static constexpr int kGrid = C.grid;
  static_assert(E.warps == C.warps, "the encoder works with the CTA's warps");
  // Units that one CTA must have, where its epilogue needs neighbouring rows.
  static constexpr int kTogether = [] {
    if constexpr (requires { Epilogue::kTogether; }) {
      static_assert(Epilogue::kTogether % Units::kRows == 0, "units are parts of a block");
      return Epilogue::kTogether / Units::kRows;
    } else {
      return 1;
    }
  }();

  // A long vector is encoded in parts, each before the tiles that it multiplies, while weights and the next part come: 28,672
  // elements of Mixtral's down product take 29.0 us in one and 27.5 in four (Q6_K, H200).
  static constexpr int kTurns = Encode::kRounds;
  static constexpr int kParts = !E.norm && kTurns >= 12 && Units::kTiles % 4 == 0 ? 4 : 1;
  template <class Input>
  struct Parts : Activations<FloatActivations> {
    Input input;
    std::uint8_t* encoded;
    typename Encode::template Turns<ceil_div(kTurns, kParts) + 1> next;
    __device__ __forceinline__ void reach(int k) {
      constexpr int kEach = Units::kTiles / kParts;
      if (k % kEach != 0) return;
      next.store(turns(k), turns(k + kEach), encoded);
      next.read(input, turns(k + kEach), k + kEach < Units::kTiles ? turns(k + 2 * kEach) : 0);
      block_sync();
    }
    // Of the encoder, before the k-th tiles can be multiplied.
    static __device__ __forceinline__ int turns(int k) { return ceil_div(k * (E.cols / Units::kTiles), Encode::kStride); }
  };

  struct Args {
    typename Encode::Source x;
    const float* norm;
    typename Route::Args route;
    typename Epilogue::Args out;
    const std::uint8_t* plane[Units::kMatrices];
  };
  static __device__ __forceinline__ Args of_row(Args a, int row, int x, int y) {
    a.x += static_cast<std::size_t>(row) * x;
    a.out.y += static_cast<std::size_t>(row) * y;
    a.route = Route::of_row(a.route, row);
    return a;
  }
  static __device__ __forceinline__ void run(const Args& args) { run(args, AllCtas<C.grid>{block_index()}); }
  template <class Ctas>
  static __device__ __forceinline__ void run(const Args& args, const Ctas& ctas) {
    using Share = UnitShare<Units, C.warps, Ctas, kTogether>;
    const Args a = args;  // planes are found by an index, which would make a reference memory
    grid_launch_next();
    std::uint8_t* shared = shared_memory();
    std::uint8_t* encoded = shared + Ring::kSharedBytes;
    const Share share{ctas};
    Ring ring(shared);
    const typename Encode::Weights weights = Encode::weights(a.norm);
    const typename Route::Weights router(a.route);
    constexpr bool kGuessed = requires { Route::guess(a.route); };
    Stacks stacks{a.plane, 0};
    if constexpr (kGuessed) stacks.expert = Route::guess(a.route);
    UnitStream<Units, Ring, Share, Share::kSweeps, Stacks> tiles{ring, stacks, share};
    if constexpr (kGuessed) {
      for (int s = 0; s < C.slots; s++) tiles.fill();
    }
    if constexpr (E.made) Encode::prepare(encoded);
    grid_wait();
    if constexpr (E.made) Encode::fetch(a.x, encoded);
    const Route route(a.route, router, a.x, weights, reinterpret_cast<float*>(shared + kRouteBytes), ctas.index == 0);
    if (!kGuessed || ballot(stacks.expert != route.routed.expert) != 0) {
      stacks.expert = route.routed.expert;
      tiles.begin_anew(kGuessed ? C.slots : 0, stacks);
      for (int s = 0; s < C.slots; s++) tiles.fill();
    }
    Epilogue epilogue(a.out, route, encoded + Encode::kSharedBytes);
    if constexpr (Epilogue::kReads > 0) {
#pragma unroll
      for (int i = 0; i < Epilogue::kReads; i++) epilogue.read(i, Units::row(share.unit(i)));
    }
    if constexpr (Encode::kInPlace) {
      const auto floats = route.in_place(a.x);
      const Activations<std::remove_const_t<decltype(floats)>> activations{{}, {}, floats, 1.0f};
      Share::Work::template run<Share::kSweeps>(tiles.count(), tiles, activations, epilogue);
    } else if constexpr (E.made) {
      Encode::await(encoded);
      const Activations<FloatActivations> activations{Encode::q8(encoded), Encode::halfs(encoded), Encode::dense(encoded), 1.0f};
      Share::Work::template run<Share::kSweeps>(tiles.count(), tiles, activations, epilogue);
    } else if constexpr (Share::kSweeps && kParts > 1) {
      const auto input = route.input(a.x);
      Parts<std::remove_const_t<decltype(input)>> parts{
          {Encode::q8(encoded), Encode::halfs(encoded), Encode::dense(encoded), 1.0f}, input, encoded, {}};
      parts.next.read(input, 0, parts.turns(Units::kTiles / kParts));
      Share::Work::template run<true>(tiles.count(), tiles, parts, epilogue);
    } else {
      const float scale = Encode::run(route.input(a.x), weights, encoded);
      const Activations<FloatActivations> activations{Encode::q8(encoded), Encode::halfs(encoded), Encode::dense(encoded),
                                                      scale};
      Share::Work::template run<Share::kSweeps>(tiles.count(), tiles, activations, epilogue);
    }
    epilogue.finish();
  }
};

template <GemvConfig C, EncodeConfig E, RouteConfig R, class Epilogue, class Gate, class Up, class F>
using ExpertGateUp = ExpertGemv<C, E, ChosenRoute<R>, Epilogue, RoutedPair<Gate, Up, F, R.used>>;

template <GemvConfig C, EncodeConfig E, RouteConfig R, class Router, class Epilogue, class Gate, class Up, class F>
using RoutedGateUp = ExpertGemv<C, E, OwnRoute<E, R, Router>, Epilogue, RoutedPair<Gate, Up, F, R.used>>;

template <GemvConfig C, EncodeConfig E, int Used, int Experts, class Epilogue, class Down>
using ExpertDown = ExpertGemv<C, E, KnownRoute<Used, Experts, Down::kCols>, Epilogue, RoutedSum<Down, Used>>;

}  // namespace imp
