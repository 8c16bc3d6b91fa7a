// Matrix products of 32 or 64 rows by warpgroups, one row of each of so many sequences: y[rows, stride] = x W^T in f16 with float
// sums, for one matrix or for several that read the same x, whose rows lie side by side in y.
//
// Weights pass through once: lanes load their blocks of 32 as they are packed, a group or two of 128 columns ahead and before the
// kernel before is complete, and make halfs of them in registers. Activations come through shared memory, a chain's groups at a
// time, as panels that a CTA's warpgroups read for 64 rows of weights each. Columns are cut into stretches, so that every
// warpgroup of the card has one item and memory is waited for once; the warp that comes last adds up all.
#pragma once
#include <type_traits>

#include "imp/stage/batch_sums.h"
#include "imp/stage/batch_weights.h"
#include "imp/stage/panel.h"
#include "imp/stage/rows.h"

namespace imp {

struct BatchWgmmaConfig {
  int warps;       // of a CTA, a multiple of four
  int stages;      // pieces of activations in shared memory: of a chain's groups, or of two
  bool stays;      // they are all of a CTA's stretch, the same for all of its items
  int chain;       // groups of columns that are summed by themselves
  int fold;        // stretches that are added up by themselves
};

template <BatchProduct P, BatchWgmmaConfig C, class... Ms>
struct GemmBatchWgmma {
  using Out = BatchSums<P, Ms...>;
  using Args = typename Out::Args;
  using Sums = typename Out::Sums;
  using Part = typename Out::Part;
  static constexpr int kThreads = C.warps * kWarp;
  static constexpr int kEights = Out::kEights;
  static constexpr int kBlockRows = C.warps * Out::kRows;
  static constexpr int kGroups = P.cols / P.stretches / PanelOrder::kGroup;  // of a stretch

  // Neighbours of one layout share tiles of a CTA's rows, and the code: how many the first ones are, and their rows, of which each
  // matrix has whole warps'.
  struct Run {
    int matrices;
    int rows;
    constexpr int tiles() const { return ceil_div(rows, kBlockRows); }
  };
  template <class M, class... Rest>
  static constexpr Run run_of() {
    int matrices = 1;
    int rows = round_up(M::kRows, Out::kRows);
    [[maybe_unused]] bool alike = true;
    ((alike = alike && std::is_same_v<typename M::Layout, typename Rest::Layout>, matrices += alike ? 1 : 0,
      rows += alike ? round_up(Rest::kRows, Out::kRows) : 0), ...);
    return {matrices, rows};
  }
  template <int Skip, class M, class... Rest>
  static constexpr int row_tiles() {
    constexpr Run kRun = run_of<M, Rest...>();
    constexpr int kHere = Skip == 0 ? kRun.tiles() : 0;
    if constexpr (sizeof...(Rest) == 0) return kHere;
    else return kHere + row_tiles<(Skip == 0 ? kRun.matrices : Skip) - 1, Rest...>();
  }
  static constexpr int kRowTiles = row_tiles<0, Ms...>();
  static constexpr int kItems = kRowTiles * P.stretches;  // those of the same rows follow one another
  static constexpr int kPanel = P.rows * PanelOrder::kLine;
  static constexpr int kBytes = PanelOrder::kPanels * kPanel;  // of a group
  static constexpr int kStep = C.chain > 2 ? C.chain : 2;      // groups of a piece, and of a turn of the loop
  static constexpr int kPiece = kStep * kBytes;
  static constexpr int kBarriers = C.stages * kPiece;
  static constexpr int kSharedBytes = kBarriers + C.stages * (1 + C.warps) * 8;
  static_assert(P.cols % (P.stretches * kStep * PanelOrder::kGroup) == 0, "a stretch has whole pieces");
  static_assert(kStep % C.chain == 0, "a piece ends with a chain");
  static_assert(!C.stays || C.stages * kStep == kGroups, "what stays is a whole stretch");
  static_assert(C.warps % 4 == 0, "a warpgroup has four warps");

  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    Ring ring(a.activations);
    ring.prepare();
    block_sync();
    int item = block_index();
    run_from<0, 0, 0, Ms...>(a, item, 0, ring);
  }

 private:
  // The activations of all items of the CTA on their way through shared memory. A stage has a warp that has pieces copied there,
  // each once all warps have read the one before.
  struct Ring {
    static_assert(C.stays || C.stages > 1, "a piece is copied before it is taken");
    const std::uint8_t* panels;
    int item = block_index();  // of the next copy
    int group = 0;
    int stage = 0;  // that is read
    int parity = 0;
    bool started = false;

    __device__ __forceinline__ explicit Ring(const std::uint8_t* from) : panels(from) {}
    static __device__ __forceinline__ std::uint64_t* full(int which) {
      return reinterpret_cast<std::uint64_t*>(shared_memory() + kBarriers) + which;
    }
    static __device__ __forceinline__ std::uint64_t* empty(int which) { return full(C.stages + which * C.warps); }
    // The whole CTA calls it, and meets before any warp uses the ring.
    __device__ __forceinline__ void prepare() const {
      if (warp_index() != 0) return;
      for (int b = lane_index(); b < C.stages * (1 + C.warps); b += kWarp) barrier_init(full(b));
      barrier_init_fence();
    }
    // Once the kernel before is complete.
    __device__ __forceinline__ void start() {
      started = true;
      for (int i = 0; i < (C.stays ? C.stages : C.stages - 1); i++) fill(i, 1);
    }
    __device__ __forceinline__ const std::uint8_t* piece() const {
      bulk_wait(full(stage), parity);
      return shared_memory() + warp_uniform(stage * kPiece);  // tensor cores take such an address
    }
    __device__ __forceinline__ void advance() {
      stage = stage + 1 == C.stages ? 0 : stage + 1;
      if constexpr (!C.stays) parity ^= stage == 0 ? 1 : 0;
    }
    // The warp's products of the piece before are done.
    __device__ __forceinline__ void release() const {
      if constexpr (C.stays) return;
      warp_sync();
      if (lane_index() == 0) barrier_arrive(empty(before()) + warp_index());
    }
    // The stage of the piece before, which all warps are to have released, gets the next one.
    __device__ __forceinline__ void refill() {
      if constexpr (!C.stays) fill(before(), stage == 0 ? parity ^ 1 : parity);
    }

   private:
    __device__ __forceinline__ int before() const { return stage == 0 ? C.stages - 1 : stage - 1; }
    __device__ __forceinline__ void fill(int which, int released) {
      if (item >= kItems) return;
      if ((C.stages <= C.warps ? which : which % C.warps) == warp_index()) {
        if (lane_index() < C.warps) barrier_wait(empty(which) + lane_index(), released);
        warp_sync();
        const std::size_t from = static_cast<std::size_t>(item % P.stretches * kGroups + group) * kBytes;
        if (lane_index() == 0) bulk_load_cached(shared_memory() + which * kPiece, panels + from, kPiece, full(which));
      }
      group += kStep;
      if (group < kGroups) return;
      item += grid_size();
      group = 0;
    }
  };

  // The CTA's items of the matrices left, of which `Skip` are done, and before which there are `Before` tiles of rows.
  template <int Skip, int Matrix, int Before, class M, class... Rest>
  static __device__ __forceinline__ void run_from(const Args& a, int& item, int column, Ring& ring) {
    constexpr Run kRun = run_of<M, Rest...>();
    if constexpr (Skip == 0) multiply<Matrix, Before, M, Rest...>(a, item, column, ring);
    if constexpr (sizeof...(Rest) > 0) {
      constexpr int kLeft = (Skip == 0 ? kRun.matrices : Skip) - 1;
      run_from<kLeft, Matrix + 1, Before + (Skip == 0 ? kRun.tiles() : 0), Rest...>(a, item, column + M::kRows, ring);
    }
  }

  // Those of the first matrices, which are of one layout.
  template <int Matrix, int Before, class M, class... Rest>
  static __device__ __forceinline__ void multiply(const Args& a, int& item, int column, Ring& ring) {
    constexpr Run kRun = run_of<M, Rest...>();
    constexpr int kEnd = (Before + kRun.tiles()) * P.stretches;
    // Groups whose weights are on their way, as registers allow: more where nothing lies in memory to be added up behind them.
    constexpr int kAhead = !M::Layout::kInteger ? 1 : P.rows <= 32 && P.stretches == 1 && kStep == 4 ? 4 : 2;
    constexpr int kBefore = 2;  // pieces whose weights are on their way to L2 before activations are there
    using Steps = WeightsAhead<M, kStep>;
    using Rows = typename BatchWeights<M>::Rows;
    static_assert(kStep % kAhead == 0, "a piece ends with groups loaded together");
    const auto part_of = [&](int which) {
      const int row = (which / P.stretches - Before) * kBlockRows + warp_index() * Out::kRows;
      Part part = Out::template found<Out::kRows, Matrix, kRun.matrices, M, Rest...>(a.plane, row, column);
      part.row += lane_index() / 4 * 2;
      return part;
    };
    if (item >= kEnd) return;
    BatchWeights<M> weights[kAhead];
    const Part part_now = part_of(item);
    Rows next(part_now);
    int first = item % P.stretches * kGroups;
#pragma unroll
    for (int s = 0; s < kAhead; s++) weights[s].load(next, first + s);
#pragma unroll
    for (int i = 0; i < kBefore; i++) {
      if (i * kStep < kGroups) Steps::fetch(part_now, first + i * kStep, i == 0);
    }
    if (!ring.started) {
      grid_wait();
      ring.start();
    }
    const int rows = a.step->rows;
    std::uint32_t fragments[2][4][4];
    for (; item < kEnd; item += grid_size()) {
      Sums total = {};
      float sums[kEights * 4] = {};
      const int begin = first;
      const bool more = item + grid_size() < kEnd;
#pragma unroll 1
      for (int group = 0; group < kGroups; group += kStep) {
        const std::uint8_t* piece = ring.piece();
#pragma unroll
        for (int s = 0; s < kStep; s++) {
          // Behind this item's last groups come the first ones of the next.
          int from = group + s + kAhead;
          const bool beyond = from >= kGroups;
          if (from == kGroups && more) {
            next = Rows(part_of(item + grid_size()));
            first = (item + grid_size()) % P.stretches * kGroups;
          }
          from -= beyond ? kGroups : 0;
          BatchWeights<M>& now = weights[s % kAhead];
#pragma unroll
          for (int half = 0; half < 2; half++) {
            now.unpack(begin + group + s, half, fragments[half]);
            if (half == 1 && (!beyond || more)) now.load(next, first + from);
            if (half == 0 && s == kStep / 2) ring.refill();
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < 4; k++) {
              wgmma_f16<P.rows>(sums, fragments[half][k], piece + s * kBytes + half * kPanel, k);
            }
            wgmma_commit();
            wgmma_wait<1>(sums);
          }
          // With the last of a piece nothing is under way any more: at a loop's end the compiler moves registers as it likes.
          if ((s + 1) % C.chain == 0) end_chain(sums, total);
        }
        ring.advance();
        ring.release();
      }
      const Part part = part_of(item);
      const typename Out::Ends ends(a, part, rows);
      if constexpr (P.stretches > 1) {
        const int place = item / P.stretches * C.warps + warp_index();
        if (!Out::template gathered<C.fold>(a, place, item % P.stretches, rows, total)) continue;
      }
      ends.store(a, part, rows, total);
    }
  }
  static __device__ __forceinline__ void end_chain(float (&sums)[kEights * 4], Sums& total) {
    wgmma_wait<0>(sums);
#pragma unroll
    for (int i = 0; i < kEights * 4; i++) {
      total[i / 4][i % 4] += sums[i];
      sums[i] = 0;
    }
  }
};

}  // namespace imp
