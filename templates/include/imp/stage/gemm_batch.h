// Matrix products of a few rows, one of each of so many sequences: y[rows, stride] = x W^T in f16 with float sums, for one
// matrix or for several that read the same x, whose rows lie side by side in y.
//
// Weights pass through once. They are the left operand: a lane loads its block of 32 of a group of 128 columns as it is
// packed, a few groups ahead, and makes halfs of it in registers. Activations are the right operand: warps in turn have one
// group of them after the other copied to shared memory, in the order in which lanes take them (FragmentOrder).
// Columns are cut into stretches, so that there is work for all CTAs. A warp leaves its rows' sums of a stretch in memory,
// and the one that comes last adds all up in the order of the columns. Where stretches begin depends on the matrix alone, so
// no bit of a row depends on how many others there are.
#pragma once
#include <type_traits>

#include "imp/stage/batch_sums.h"
#include "imp/stage/batch_weights.h"
#include "imp/stage/fragments.h"
#include "imp/stage/rows.h"

namespace imp {

struct BatchConfig {
  int warps;       // of a CTA, 16 of a matrix's rows each
  int slots;       // groups of columns whose weights a warp has asked for at once
  int stages;      // groups of activations in shared memory
};

template <BatchProduct P, BatchConfig C, class... Ms>
struct GemmBatch {
  using Out = BatchSums<P, Ms...>;
  using Args = typename Out::Args;
  using Sums = typename Out::Sums;
  using Part = typename Out::Part;
  static constexpr int kThreads = C.warps * kWarp;
  static constexpr int kWarpRows = Out::kRows;
  static constexpr int kBlockRows = C.warps * kWarpRows;
  static constexpr int kRowTiles = (ceil_div(Ms::kRows, kBlockRows) + ...);
  static constexpr int kGroups = ceil_div(P.cols, FragmentOrder::kGroup);
  static constexpr int kEights = P.rows / 8;
  static constexpr int kItems = kRowTiles * P.stretches;  // a stretch of a CTA's rows each; those of the same rows follow
  static constexpr int kBytes = kEights * FragmentOrder::kBytes;  // of a group's activations
  static constexpr int kBarriers = C.stages * kBytes;
  static constexpr int kSharedBytes = kBarriers + C.stages * (1 + C.warps) * 8;
  static_assert(((Ms::Layout::kTile.cols % 32 == 0) && ...), "a lane takes 32 weights of a row");
  static_assert(C.warps <= kWarp, "a lane waits for each warp");
  static_assert(P.stretches >= 1 && P.stretches <= kGroups, "every stretch has columns");

  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    Activations ring(a.activations);
    ring.prepare();
    block_sync();
    run_from<0, Ms...>(a, block_index(), 0, ring);
  }

 private:
  static __device__ __forceinline__ int begin_of(int stretch) { return kGroups * stretch / P.stretches; }

  // The groups of all items of the CTA on their way through shared memory. Warps have them copied in turn, each once all
  // warps have read what lies there.
  struct Activations {
    static constexpr int kBehind = C.stages > 2 ? 2 : 1;  // groups: a warp does not wait for others that are so near
    const std::uint8_t* fragments;
    int item = block_index();  // of the next copy
    int group = begin_of(block_index() % P.stretches);
    int copies = 0;
    int stage = 0;
    int parity = 0;

    __device__ __forceinline__ explicit Activations(const std::uint8_t* from) : fragments(from) {}
    static __device__ __forceinline__ std::uint64_t* full(int stage) {
      return reinterpret_cast<std::uint64_t*>(shared_memory() + kBarriers) + stage;
    }
    static __device__ __forceinline__ std::uint64_t* empty(int stage, int warp) {
      return full(C.stages + stage * C.warps + warp);
    }
    // The whole CTA calls it, and meets before any warp uses the ring.
    __device__ __forceinline__ void prepare() const {
      if (lane_index() != 0) return;
      for (int s = 0; s < C.stages; s++) barrier_init(empty(s, warp_index()));
      for (int s = warp_index(); s < C.stages; s += C.warps) barrier_init(full(s));
      barrier_init_fence();
    }
    // Once the kernel before is complete.
    __device__ __forceinline__ void start() {
      for (int i = 0; i < C.stages - kBehind; i++) fill();
    }
    __device__ __forceinline__ const std::uint8_t* take() {
      fill();
      bulk_wait(full(stage), parity);
      return shared_memory() + stage * kBytes;
    }
    __device__ __forceinline__ void release() {
      warp_sync();
      if (lane_index() == 0) barrier_arrive(empty(stage, warp_index()));
      stage = stage + 1 == C.stages ? 0 : stage + 1;
      parity ^= stage == 0 ? 1 : 0;
    }

   private:
    __device__ __forceinline__ void fill() {
      if (item >= kItems) return;
      if (copies % C.warps == warp_index()) {
        const int to = copies % C.stages;
        if (lane_index() < C.warps) barrier_wait(empty(to, lane_index()), ((copies / C.stages) & 1) ^ 1);
        warp_sync();
        const std::uint8_t* from = fragments + FragmentOrder::at(P.rows, group, 0);
        if (lane_index() == 0) bulk_load_cached(shared_memory() + to * kBytes, from, kBytes, full(to));
      }
      copies++;
      if (++group < begin_of(item % P.stretches + 1)) return;
      item += grid_size();
      group = begin_of(item % P.stretches);
    }
  };

  static constexpr int tiles_before(int matrix) {
    int before = 0;
    int which = 0;
    ((before += which++ < matrix ? ceil_div(Ms::kRows, kBlockRows) : 0), ...);
    return before;
  }

  // The CTA's items of the matrices left. Those of one layout share the code.
  template <int Matrix, class M, class... Rest>
  static __device__ __forceinline__ void run_from(const Args& a, int item, int column, Activations& ring) {
    if constexpr ((std::is_same_v<typename M::Layout, typename Rest::Layout> && ...)) {
      multiply<Matrix, M, Rest...>(a, item, column, ring);
    } else {
      item = multiply<Matrix, M>(a, item, column, ring);
      run_from<Matrix + 1, Rest...>(a, item, column + M::kRows, ring);
    }
  }

  template <class M>
  static __device__ __forceinline__ void add(Sums& sums, const BatchWeights<M>& slot, const std::uint8_t* fragments, int group) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      std::uint32_t left[4][4];
      slot.unpack(group, half, left);
#pragma unroll
      for (int eight = 0; eight < kEights; eight++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const uint4 v = FragmentOrder::load(fragments + eight * FragmentOrder::kBytes, half * 2 + i);
          mma_f16_k16(sums[eight], left[2 * i], {v.x, v.y});
          mma_f16_k16(sums[eight], left[2 * i + 1], {v.z, v.w});
        }
      }
    }
  }

  // The first item of the CTA's behind these matrices comes back.
  template <int Matrix, class M, class... Rest>
  static __device__ __forceinline__ int multiply(const Args& a, int item, int column, Activations& ring) {
    constexpr int kBefore = tiles_before(Matrix);
    constexpr int kEnd =
        (kBefore + ceil_div(M::kRows, kBlockRows) + (ceil_div(Rest::kRows, kBlockRows) + ... + 0)) * P.stretches;
    const auto part_of = [&](int which) {
      const int row = (which / P.stretches - kBefore) * kBlockRows;
      Part part = Out::template found<kBlockRows, Matrix, 1 + sizeof...(Rest), M, Rest...>(a.plane, row, column);
      part.row += warp_index() * kWarpRows + lane_index() / 4 * 2;
      return part;
    };
    if (item >= kEnd) return item;
    BatchWeights<M> slots[C.slots];
    using Rows = typename BatchWeights<M>::Rows;
    Part next = part_of(item);
    Rows lines(next);
    int begin = begin_of(item % P.stretches);
    int end = begin_of(item % P.stretches + 1);
#pragma unroll
    for (int s = 0; s < C.slots; s++) {
      if (begin + s < end) slots[s].load(lines, begin + s);
    }
    if (ring.copies == 0) {
      grid_wait();
      ring.start();
    }
    const int rows = a.step->rows;
    for (; item < kEnd; item += grid_size()) {
      const Part part = next;
      const int this_end = end;
      Sums sums = {};
#pragma unroll 1
      for (int group = begin; group < this_end; group += C.slots) {
        // Behind this item's last groups come the first ones of the CTA's next item.
        int from = group + C.slots;
        const int following = item + grid_size();
        if (from >= this_end && following < kEnd) {
          next = part_of(following);
          lines = Rows(next);
          from = begin = begin_of(following % P.stretches);
          end = begin_of(following % P.stretches + 1);
        }
#pragma unroll
        for (int s = 0; s < C.slots; s++) {
          if (group + s < this_end) {
            add<M>(sums, slots[s], ring.take(), group + s);
            ring.release();
          }
          if (from + s < end) slots[s].load(lines, from + s);
        }
      }
      finish(a, part, item, rows, sums);
    }
    return item;
  }

  static __device__ __forceinline__ void finish(const Args& a, const Part& part, int item, int rows, Sums& sums) {
    if constexpr (P.stretches > 1) {
      const int place = item / P.stretches * C.warps + warp_index();
      if (!Out::template gathered<1>(a, place, item % P.stretches, rows, sums)) return;
    }
    const typename Out::Ends ends(a, part, rows);
    ends.store(a, part, rows, sums);
  }
};

}  // namespace imp
