// The warp of the step kernel that fetches: a step's tiles in the order in which the CTA's other warps take them.
#pragma once
#include "imp/stage/step_attention.h"
#include "imp/stage/step_phase.h"
#include "imp/stage/tape.h"

namespace imp {

template <class Args, StepConfig C, class L, class Head>
struct Step;

template <class Args, StepConfig C, class L, class Head>
struct StepFetcher {
  using Kernel = Step<Args, C, L, Head>;
  using Attend = typename Kernel::Attend;

  const Args& args;
  typename Kernel::Ring& ring;
  typename Kernel::Count count{};

  __device__ __forceinline__ void run() {
    prefetch_vectors(0);
    products<0, L::kAttention>(0);
    grid_wait();  // which sequence it is, and what earlier steps left in its cache
    const int slot = args.rows[0].slot;
    const int position = args.positions[slot];
    const int table = slot * Kernel::kTableEntries;
    for (int l = 0; l < Kernel::kLayers; l++) {
      if (l + 1 < Kernel::kLayers) prefetch_vectors(l + 1);
      if (l > 0) products<0, L::kAttention>(l);
      Attend::Kinds::with(l, [&]<class Heads>() {
        cache<Heads>(Kernel::template cached<Heads>(args, l, table),
                     AttentionShare::of<Heads::kConfig>(position, Attend::window(l)));
      });
      products<L::kAttention + 1, L::kCount>(l);
    }
    matrices<Head>(0, args.head.plane);
  }
  // Weights of norms, and sinks, come straight from memory, where they would queue behind the tiles: into L2 a layer ahead, the CTAs
  // sharing the work.
  __device__ __forceinline__ void prefetch_vectors(int l) {
    const auto& at = args.layer[l];
    Attend::Kinds::with(l, [&]<class Heads>() { prefetch_of_heads<Heads::kConfig>(at); });
    L::each([&]<int I>() {
      using Phase = typename L::template At<I>;
      if constexpr (!Phase::kAttends) {
        if constexpr (Encoder<Phase::kEncode>::kWeighted) prefetch(Phase::of(at).norm, Phase::kEncode.cols);
        if constexpr (Phase::kEncode.post) prefetch(Phase::of(at).post, Phase::kEncode.cols);
        if constexpr (Phase::kEncode.scaled) prefetch(Phase::of(at).scale, 1);
      }
    });
  }
  template <AttentionConfig A>
  static __device__ __forceinline__ void prefetch_of_heads(const auto& layer) {
    if constexpr (A.qk_norm) {
      prefetch(layer.attention.q_norm, A.whole_norm ? A.heads * A.head_dim : A.head_dim);
      prefetch(layer.attention.k_norm, A.whole_norm ? A.kv_heads * A.head_dim : A.head_dim);
    }
    if constexpr (A.sinks) prefetch(layer.attention.sinks, A.heads);
  }
  static __device__ __forceinline__ void prefetch(const float* vector, int count) {
#pragma unroll 1
    for (int i = (block_index() + lane_index() * C.grid) * 32; i < count; i += C.grid * kWarp * 32) prefetch_l2(vector + i);
  }

  // The products among phases First to End - 1.
  template <int First, int End>
  __device__ __forceinline__ void products(int l) {
    if constexpr (First < End) {
      using Phase = typename L::template At<First>;
      matrices<Phase>(l, Phase::of(args.layer[l]).plane);
      products<First + 1, End>(l);
    }
  }
  template <class Phase>
  __device__ __forceinline__ void matrices(int l, const std::uint8_t* const* planes) {
    Phase::Matrices::with(l, [&]<class Units>() {
      const TapeShare s = count.template next<Units::kUnits, Units::kTiles>();
      const typename Kernel::template Order<Units> order{s.tile, s.units};
      fetch(order.tiles(), s.tile, [&](int i) {
        const auto at = order.place(i);
        return Units::tile(planes, s.first + at.unit * C.grid, at.k);
      });
    });
  }
  // Keys, then values, of each block of this CTA's splits.
  template <class Heads>
  __device__ __forceinline__ void cache(const typename Heads::Core::Args& a, const AttentionShare& share) {
    using Core = typename Heads::Core;
    constexpr AttentionConfig A = Heads::kConfig;
    for (int item = block_index(); item < Core::kItems * share.active; item += C.grid) {
      const int split = item / Core::kItems;
      const int begin = share.begin(split);
      constexpr int kTiles = 2 * Heads::kPieces;
      const TapeRounds<A.warps, kTiles> rounds{count.tile, share.end(split, A.block_tokens) - begin};
      fetch(rounds.tiles(), count.tile, [&](int i) {
        const auto at = rounds.place(i);
        const std::uint8_t* keys = Core::tile(a, item % Core::kItems / Core::kShares, begin + at.unit);
        const int row = at.k % Heads::kPieces * Heads::kPieceRows;
        const auto piece = Core::template written<Heads::kPieceRows>(
            keys + at.k / Heads::kPieces * Core::kValues + row * Heads::Row::kRowBytes,
            (begin + at.unit) * A.block_tokens + row, share.position);
        return TileAddress{piece.data, piece.bytes, kTiles};
      });
      count.tile += static_cast<std::uint32_t>(rounds.tiles());
    }
  }
  // Tiles first, first + 1, ...: each lane looks at one of the next few, and those up to the first that must wait are
  // fetched. In order, since a tile's turn is told from that of the slot's next one by one bit only.
  template <class Address>
  __device__ __forceinline__ void fetch(int tiles, std::uint32_t first, const Address& address) {
    Poll poll("room for a tile after", first);
    for (int next = 0; next < tiles;) {
      const int i = next + lane_index();
      const bool may = lane_index() < C.lanes && i < tiles && ring.may_fetch(first + i);
      const std::uint32_t ready = ballot(may);
      int count = 0;
#pragma unroll
      for (int k = 0; k < C.lanes; k++) count += count == k && (ready >> k & 1u) != 0 ? 1 : 0;
      if (lane_index() < count) {
        const TileAddress tile = address(i);
        ring.fetch(first + i, tile.data, tile.bytes);
      }
      next += count;
      if (count == 0) {
        poll.pause();
      } else {
        poll = Poll("room for a tile after", first + next);
      }
    }
  }
};

}  // namespace imp
