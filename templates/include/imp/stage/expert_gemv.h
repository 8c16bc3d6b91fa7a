// The matrices of those experts that a token goes to, times one vector, a kernel. Which tiles to fetch is known only behind
// the kernel before: then each warp asks for its first ones before the vector is encoded.
#pragma once
#include "imp/stage/gemv.h"
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

// y = value, of experts: the biases of all experts of a matrix lie one after the other.
template <unsigned Biased>
struct StoreExperts : StoreRows<Biased> {
  int expert;  // of the route, one a lane
  template <class Route>
  __device__ __forceinline__ StoreExperts(const typename StoreRows<Biased>::Args& args, const Route& route)
      : StoreRows<Biased>(args, nullptr), expert(route.routed.expert) {}
  // Where the biases begin of the route's expert `slot`, of `rows` rows; the whole warp asks.
  __device__ __forceinline__ int first(int slot, int rows) const {
    if constexpr (Biased == 0) return 0;
    return shuffle(expert, slot) * rows;
  }
};

// y += Scale * value, to which `Used` experts of `Rows` rows have added their biases, each times its share.
template <unsigned Biased, int Used, int Rows, float Scale = 1.0f>
struct AddExperts : AddRows<0, Scale> {
  using Add = AddRows<0, Scale>;
  struct Args {
    float* y;
    Biases<Biased> bias;
  };
  const float* bias;
  const float* route;  // [2][Used]: experts, shares
  float ahead[Add::kReads] = {};
  template <class Route>
  __device__ __forceinline__ AddExperts(const Args& args, const Route& known)
      : Add({args.y, {}}, nullptr), bias(args.bias.of[0]), route(known.shares - Used) {}
  __device__ __forceinline__ void read(int unit, int row) {
    Add::read(unit, row);
    if constexpr (Biased != 0) ahead[unit] = row >= 0 ? weighed(row) : 0;
  }
  __device__ __forceinline__ float biased(int, int row, float value) {
    if constexpr (Biased == 0) return value;
    return value + (Add::units < Add::kReads ? pick(ahead, Add::units) : weighed(row));
  }

 private:
  __device__ __forceinline__ float weighed(int row) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < Used; i++) sum = fma(route[Used + i], bias[static_cast<int>(route[i]) * Rows + row], sum);
    return sum;
  }
};

// Gate and up of `Used` experts, whose results lie side by side: units of one expert after those of the other.
template <class A, class B, class F, int Used>
struct RoutedPair {
  using Pair = PairUnits<A, B, F>;
  using First = A;
  static constexpr int kMatrices = 2;
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
  Routed routed;
  static __device__ __forceinline__ Args of_row(const Args& a, int row) {
    return {a.logits + row * (C.experts + C.others), a.route + row * (2 * C.used), a.correction, a.scales};
  }
  __device__ __forceinline__ ChosenRoute(const Args& a, bool first)
      : routed(choose_experts<C>(a.logits, a.correction, a.scales)) {
    if (!first || thread_index() >= C.used) return;
    a.route[thread_index()] = static_cast<float>(routed.expert);
    a.route[C.used + thread_index()] = routed.share;
  }
  __device__ __forceinline__ PlainInput input(const float* x) const { return {x}; }
  static __device__ __forceinline__ FloatsInPlace in_place(const float* x) { return {x}; }
};

// A route that lies in memory. Each of its experts has a vector of `Cols` elements, which counts as much as the expert does.
template <int Used, int Cols>
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
  const float* shares;
  Routed routed;
  static __device__ __forceinline__ Args of_row(const Args& a, int row) { return {a.route + row * (2 * Used)}; }
  __device__ __forceinline__ KnownRoute(const Args& a, bool) : shares(a.route + Used) {
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
  static constexpr int kSharedBytes = Ring::kSharedBytes + Encode::kSharedBytes + Epilogue::kSharedBytes;
  static constexpr int kGrid = C.grid;
  static_assert(E.warps == C.warps, "the encoder works with the CTA's warps");

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
    const float* x;
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
    using Share = UnitShare<Units, C.warps, Ctas>;
    const Args a = args;  // planes are found by an index, which would make a reference memory
    grid_launch_next();
    std::uint8_t* shared = shared_memory();
    std::uint8_t* encoded = shared + Ring::kSharedBytes;
    const int begin = Share::first(ctas);
    const typename Share::Stride stride = Share::stride(ctas);
    Ring ring(shared);
    const typename Encode::Weights weights = Encode::weights(a.norm);
    grid_wait();
    const Route route(a.route, ctas.index == 0);
    const Stacks stacks{a.plane, route.routed.expert};
    UnitStream<Units, Ring, typename Share::Stride, Share::kSweeps, Stacks> tiles{ring, stacks, begin, stride};
    for (int s = 0; s < C.slots; s++) tiles.fill();
    Epilogue epilogue(a.out, route);
    if constexpr (Epilogue::kReads > 0) {
#pragma unroll
      for (int i = 0; i < Epilogue::kReads; i++) epilogue.read(i, Units::row(begin + i * stride));
    }
    if constexpr (Encode::kInPlace) {
      const auto floats = route.in_place(a.x);
      const Activations<std::remove_const_t<decltype(floats)>> activations{{}, floats, 1.0f};
      Share::Work::template run<Share::kSweeps>(tiles.count(), tiles, activations, epilogue);
    } else if constexpr (Share::kSweeps && kParts > 1) {
      const auto input = route.input(a.x);
      Parts<std::remove_const_t<decltype(input)>> parts{
          {Encode::q8(encoded), Encode::dense(encoded), 1.0f}, input, encoded, {}};
      parts.next.read(input, 0, parts.turns(Units::kTiles / kParts));
      Share::Work::template run<true>(tiles.count(), tiles, parts, epilogue);
    } else {
      const float scale = Encode::run(route.input(a.x), weights, encoded);
      const Activations<FloatActivations> activations{Encode::q8(encoded), Encode::dense(encoded), scale};
      Share::Work::template run<Share::kSweeps>(tiles.count(), tiles, activations, epilogue);
    }
    epilogue.finish();
  }
};

template <GemvConfig C, EncodeConfig E, RouteConfig R, class Epilogue, class Gate, class Up, class F>
using ExpertGateUp = ExpertGemv<C, E, ChosenRoute<R>, Epilogue, RoutedPair<Gate, Up, F, R.used>>;

template <GemvConfig C, EncodeConfig E, int Used, class Epilogue, class Down>
using ExpertDown = ExpertGemv<C, E, KnownRoute<Used, Down::kCols>, Epilogue, RoutedSum<Down, Used>>;

}  // namespace imp
