// Prefill's matrix product where warpgroups multiply, with float sums: see gemm_panels.h.
#pragma once
#include "imp/stage/gemm_panels.h"

namespace imp {

struct WgmmaConfig {
  int cols;          // K
  int tokens;        // of a full chunk
  int block_tokens;  // of a tile: 32, 64, 128 or 256
  int stride;        // floats from one token of y to the next
  int offset;        // y's first column
  bool accumulate;   // y += (the residual stream) instead of y =
  unsigned biased;   // bits of the matrices that have a bias
  float scale = 1.0f;   // of the sums, their bias included
  float cap = 0.0f;     // soft cap; 0: none
  bool halves = false;  // of the columns are summed by themselves
  int rows = 128;       // of a tile: 64, 128 or 192
  bool paired = false;  // y = F(first matrix's) * second one's
  int experts = 0;      // of each matrix; 0: it is none of experts
  int used = 0;         // of them, by a token
  int per_sm = 1;       // CTAs that share a multiprocessor
};

// `F`: what gates go through, if the matrices are paired.
template <WgmmaConfig C, class F, class... Ms>
struct GemmWgmma : GemmPanels<GemmWgmma<C, F, Ms...>, PanelOrder, C, C.rows, Ms...> {
  using Base = GemmPanels<GemmWgmma<C, F, Ms...>, PanelOrder, C, C.rows, Ms...>;
  using typename Base::Args;
  using typename Base::Part;
  using Base::kBlockRows;
  using Base::kBlockTokens;
  using Base::kBytes;
  static constexpr int kWarps = kBlockRows / 16;         // that multiply: warpgroups
  static constexpr int kThreads = (kWarps + 4) * kWarp;  // and one more, whose first warp has panels copied
  static constexpr int kMost = 48 * 4096 / C.per_sm / kBytes;
  static constexpr int kStages = kMost < 8 ? kMost : 8;
  // With 24 of the others no more than the launch has given.
  static constexpr int kRegisters = C.per_sm > 1 ? 104 : C.rows > 128 ? 160 : 240;
  // Groups whose weights are on their way: tiles of few tokens wait for memory, those of many have no registers for more.
  template <class Lanes>
  static constexpr int slots_of() {
    if (kBlockTokens > 64 || C.per_sm > 1) return 1;
    const int room = (C.rows > 128 ? 48 : 112) / (sizeof(Lanes) / 4);
    return room < 1 ? 1 : room < 4 ? room : 4;
  }
  using Ring = PanelRing<kBytes, kStages, kWarps>;
  static constexpr int kSharedBytes = Ring::kSharedBytes;
  static_assert(!C.paired || !C.accumulate, "what is gated is added to nothing");

  static __device__ __forceinline__ void run(const Args& a) {
    Ring ring(shared_memory());
    grid_launch_next();
    if (thread_index() == 0) ring.prepare();
    block_sync();
    if (warp_index() >= kWarps) {
      registers_keep<24>();
      if (warp_index() == kWarps) Base::fetch_tiles(a, ring);
    } else {
      registers_take<kRegisters>();
      Base::multiply_tiles(a, ring);
    }
  }

  // A tile's rows of a matrix times the tokens `first` on. The warp's fragments hold its 16 rows in pairs: row 2 g of them
  // where the first eight rows are, row 2 g + 1 where the others are, so that a lane's sums are neighbours in y. Of paired
  // matrices it has eight rows each: row g of the first, and of the second where the others are.
  template <class M>
  static __device__ __forceinline__ void multiply(const Args& a, const Part& part, int first, int tokens, Ring& ring) {
    using OneGroup = WeightFragments<M, typename Base::Memory>;
    constexpr int kSlots = slots_of<decltype(OneGroup::lanes)>();
    using Weights = WeightFragments<M, typename Base::Memory, kSlots>;
    const int row = part.row + (C.paired ? warp_index() * 8 + lane_index() / 4 : warp_index() * 16 + lane_index() / 4 * 2);
    const std::uint8_t* first_plane = Base::template plane<M>(a, part, part.matrix);
    Weights weights{{first_plane, C.paired ? Base::template plane<M>(a, part, 1) : first_plane},
                    {min(row, part.rows - 1), min(row + !C.paired, part.rows - 1)},
                    {}};
    const auto ask = [&weights](int group) {
#pragma unroll
      for (int slot = 0; slot < kSlots; slot++) {
        weights.load(group + slot, 0, slot);
        if constexpr (Weights::kLanes > 1) weights.load(group + slot, 1, slot);
      }
    };
    ask(part.begin);
    grid_wait();  // the first tile's weights are on their way, which no kernel writes
    float sums[kBlockTokens / 2] = {};
    std::uint32_t fragments[2][4][4];
#pragma unroll 1
    for (int begin = part.begin; begin < part.end;) {
      const int end = min(part.end, begin + Base::kHalf);
#pragma unroll 1
      for (int next = begin; next < end; next += kSlots) {
#pragma unroll
        for (int slot = 0; slot < kSlots; slot++) {
          const int group = next + slot;
          if (kSlots > 1 && group >= end) break;
#pragma unroll
          for (int half = 0; half < 2; half++) {
            weights.unpack(group, half, fragments[half], slot);
            if (Weights::kLanes > 1 || half == 1) weights.load(group + kSlots, half, slot);
            const std::uint8_t* panel = ring.take();
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < 4; k++) wgmma_f16<kBlockTokens>(sums, fragments[half][k], panel, k);
            wgmma_commit();
            wgmma_wait<1>(sums);
            if (group + half > begin) ring.template release<1>();
          }
        }
      }
      wgmma_wait<0>(sums);
      ring.template release<0>();
      begin = end;
      if (begin == part.end) break;
      if constexpr (kSlots > 1) ask(begin);  // whose groups may be in other slots
      Base::leave(a, part, sums);
#pragma unroll
      for (float& sum : sums) sum = 0;
    }
    if (!Base::joined(a, part, sums)) return;
    if constexpr (C.paired) {
      Base::template store_gated<F>(a, part, row, first, tokens, sums);
    } else {
      Base::store(a, part, row, first, tokens, sums);
    }
  }
};

}  // namespace imp
