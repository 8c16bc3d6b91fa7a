// Matrix products of up to 16 rows, one of each of so many sequences: y[rows, stride] = x W^T in f16 with float sums, for one
// matrix or for several that read the same x, whose rows lie side by side in y.
//
// A warp has a part of the columns and holds its activations in registers, from the first of a matrix's rows to the last. Weights
// come through shared memory as they are packed: units of 16 rows of a stretch of the columns, whole tiles, which bulk copies
// bring while others are multiplied, and before the kernel before is complete. So what is on its way is a matter of shared memory,
// memory is read in long pieces, and the rows are shared evenly by all CTAs.
// Each warp leaves its sums of a unit in shared memory, and one that multiplies nothing adds up all in the order of the columns:
// it waits for memory, where the others would all wait for whoever does. There are as many of those as buffers of sums, since
// what other CTAs have summed is a few round trips away. Another one has the units copied.
#pragma once
#include <type_traits>

#include "imp/stage/batch_sums.h"
#include "imp/stage/fragments.h"
#include "imp/stage/rows.h"

namespace imp {

struct HeldConfig {
  int warps;       // of a CTA, that multiply
  int slots;       // units in shared memory
  int buffers;     // of sums of units that are not yet added up
  int fold;        // warps whose sums are added up by themselves
};

template <BatchProduct P, HeldConfig C, class... Ms>
struct GemmHeld {
  using Out = BatchSums<P, Ms...>;
  using Args = typename Out::Args;
  using Sums = typename Out::Sums;
  using Part = typename Out::Part;
  static constexpr int kHelpers = round_up(C.warps, 4);  // where a warpgroup begins, that multiplies nothing
  static constexpr int kThreads = (kHelpers + 4) * kWarp;
  // With three warpgroups the launch gives each thread 168 registers; the last one leaves the others more.
  static constexpr bool kShifts = kHelpers == 8 && P.rows > 8;
  static constexpr int kRows = Out::kRows;  // of a unit
  static constexpr int kEights = Out::kEights;
  static constexpr int kStretch = P.cols / P.stretches;
  static constexpr int kGroups = kStretch / FragmentOrder::kGroup;  // of a unit
  static constexpr int kHeld = kGroups / C.warps;                   // of a warp
  static constexpr int kUnits = (ceil_div(Ms::kRows, kRows) + ...);  // of a stretch
  static_assert(P.cols % (P.stretches * C.warps * FragmentOrder::kGroup) == 0, "a warp has whole groups of columns");
  static_assert(((kStretch % Ms::Layout::kTile.cols == 0) && ...), "a stretch has whole tiles");
  static_assert(((kRows % Ms::Layout::kTile.rows == 0) && ...), "a unit has whole tiles");
  static_assert(C.warps <= kWarp, "a lane waits for each warp");
  static_assert(C.buffers <= 3, "a warpgroup has three warps beside the one that has units copied");

  // The tiles of a unit: of all columns they lie side by side, of a stretch those of the same rows do.
  template <class M>
  struct Tiles {
    using L = typename M::Layout;
    static constexpr int kAcross = kStretch / L::kTile.cols;
    static constexpr int kDown = kRows / L::kTile.rows;
    static constexpr int kCopies = P.stretches == 1 ? 1 : kDown;
    static constexpr int kLine = kAcross * L::kTileBytes;
    static constexpr int kBytes = kDown * kLine;
  };
  static constexpr int largest(int a, int b) { return a > b ? a : b; }
  template <class... Ts>
  static constexpr int most_bytes() {
    int most = 0;
    ((most = largest(most, Tiles<Ts>::kBytes)), ...);
    return most;
  }
  template <class... Ts>
  static constexpr int most_copies() {
    int most = 0;
    ((most = largest(most, Tiles<Ts>::kCopies)), ...);
    return most;
  }
  static constexpr int kSlot = round_up(most_bytes<Ms...>(), 128);
  static constexpr int kCopies = most_copies<Ms...>();  // of a unit, each with a barrier; they are the same in all units
  static constexpr int kSums = kEights * kWarp * 16;  // bytes of a warp's sums
  static constexpr int kBuffers = C.slots * kSlot;
  static constexpr int kBarriers = kBuffers + C.buffers * C.warps * kSums;
  static constexpr int kSharedBytes = kBarriers + (C.slots * (kCopies + C.warps) + C.buffers * (C.warps + 1)) * 8;

  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    prepare();
    block_sync();
    if (warp_index() >= kHelpers) {
      if constexpr (kShifts) registers_keep<72>();
      if (warp_index() == kHelpers) fetch(a);
      const int buffer = warp_index() - (kHelpers + 1);
      if (buffer >= 0 && buffer < C.buffers) {
        grid_wait();
        add_up_units(a, buffer);
      }
    } else {
      if constexpr (kShifts) registers_take<216>();
      if (warp_index() >= C.warps) return;
      grid_wait();
      const Held held(a.activations);
      run_from<0, Ms...>(first_unit(), 0, held);
    }
  }

 private:
  static __device__ __forceinline__ int stretch() { return block_index() % P.stretches; }
  static __device__ __forceinline__ int first_unit() { return block_index() / P.stretches; }
  static __device__ __forceinline__ int unit_step() { return grid_size() / P.stretches; }
  static __device__ __forceinline__ std::uint64_t* barriers() {
    return reinterpret_cast<std::uint64_t*>(shared_memory() + kBarriers);
  }
  static __device__ __forceinline__ std::uint64_t* full(int slot) { return barriers() + slot * kCopies; }
  static __device__ __forceinline__ std::uint64_t* empty(int slot) {
    return barriers() + C.slots * kCopies + slot * C.warps;
  }
  static __device__ __forceinline__ std::uint64_t* left(int buffer) {
    return barriers() + C.slots * (kCopies + C.warps) + buffer * (C.warps + 1);
  }
  static __device__ __forceinline__ std::uint64_t* added(int buffer) { return left(buffer) + C.warps; }

  // The right operands of the warp's columns.
  struct Held {
    uint4 v[kHeld][kEights][4];
    __device__ __forceinline__ explicit Held(const std::uint8_t* fragments) {
      const int first = stretch() * kGroups + warp_index() * kHeld;
#pragma unroll
      for (int i = 0; i < kHeld; i++) {
        for (int eight = 0; eight < kEights; eight++) {
          const std::uint8_t* from = fragments + FragmentOrder::at(P.rows, first + i, eight);
#pragma unroll
          for (int k = 0; k < 4; k++) v[i][eight][k] = FragmentOrder::load(from, k);
        }
      }
    }
  };

  // The whole CTA calls it, and meets before any warp goes on.
  static __device__ __forceinline__ void prepare() {
    if (warp_index() != 0) return;
    constexpr int kAll = C.slots * (kCopies + C.warps) + C.buffers * (C.warps + 1);
    for (int b = lane_index(); b < kAll; b += kWarp) barrier_init(barriers() + b);
    barrier_init_fence();
  }

  // Has the units of the CTA copied, each once all warps have read what lies there. Weights depend on nothing.
  static __device__ __forceinline__ void fetch(const Args& a) {
    int done = 0;
    for (int unit = first_unit(); unit < kUnits; unit += unit_step()) {
      const int slot = done % C.slots;
      if (lane_index() < C.warps) barrier_wait(empty(slot) + lane_index(), (done / C.slots & 1) ^ 1);
      warp_sync();
      copy<0, Ms...>(a, unit, slot);
      done++;
    }
  }
  template <int Matrix, class M, class... Rest>
  static __device__ __forceinline__ void copy(const Args& a, int unit, int slot) {
    if constexpr (sizeof...(Rest) > 0) {
      constexpr int kHere = ceil_div(M::kRows, kRows);
      if (unit >= kHere) return copy<Matrix + 1, Rest...>(a, unit - kHere, slot);
    }
    using T = Tiles<M>;
    const int lines = min(T::kDown, ceil_div(M::kRows, M::Layout::kTile.rows) - unit * T::kDown);  // the last unit has fewer
    const std::uint8_t* from = M::tile(a.plane[Matrix], unit * kRows, stretch() * T::kAcross);
    std::uint8_t* to = shared_memory() + slot * kSlot;
    if constexpr (kCopies == 1) {
      if (lane_index() == 0) bulk_load(to, from, lines * T::kLine, full(slot));
    } else if (lane_index() < T::kCopies) {
      const int line = min(lane_index(), lines - 1);
      bulk_load(to + lane_index() * T::kLine, from + static_cast<std::size_t>(line) * (M::kTiles * M::Layout::kTileBytes),
                T::kLine, full(slot) + lane_index());
    } else if (lane_index() < kCopies) {
      barrier_arrive(full(slot) + lane_index());
    }
  }

  static constexpr int units_before(int matrix) {
    int before = 0;
    int which = 0;
    ((before += which++ < matrix ? ceil_div(Ms::kRows, kRows) : 0), ...);
    return before;
  }

  // The CTA's units of the matrices left. Those of one layout share the code.
  template <int Matrix, class M, class... Rest>
  static __device__ __forceinline__ void run_from(int unit, int done, const Held& held) {
    if constexpr ((std::is_same_v<typename M::Layout, typename Rest::Layout> && ...)) {
      multiply<M>(unit, kUnits, done, held);
    } else {
      multiply<M>(unit, units_before(Matrix + 1), done, held);
      run_from<Matrix + 1, Rest...>(unit, done, held);
    }
  }
  template <class M>
  static __device__ __forceinline__ void multiply(int& unit, int end, int& done, const Held& held) {
#pragma unroll 1
    for (; unit < end; unit += unit_step()) {
      const int slot = done % C.slots;
      if (lane_index() < kCopies) bulk_wait(full(slot) + lane_index(), done / C.slots & 1);
      warp_sync();
      const std::uint8_t* tiles = shared_memory() + slot * kSlot;
      Sums sums = {};
#pragma unroll
      for (int i = 0; i < kHeld; i++) add<M>(sums, tiles, warp_index() * kHeld + i, held.v[i]);
      warp_sync();
      if (lane_index() == 0) barrier_arrive(empty(slot) + warp_index());
      leave(sums, done % C.buffers, done / C.buffers & 1);
      done++;
    }
  }
  // Those whose sums are left in a buffer.
  static __device__ __forceinline__ void add_up_units(const Args& a, int buffer) {
    const int rows = a.step->rows;
    int round = 0;
    for (int unit = first_unit() + buffer * unit_step(); unit < kUnits; unit += C.buffers * unit_step()) {
      Part part = Out::template found<kRows, 0, Out::kMatrices, Ms...>(a.plane, unit * kRows, 0);
      part.row += lane_index() / 4 * 2;
      const typename Out::Ends ends(a, part, rows);
      Sums sums;
      gather(sums, buffer, round);
      round ^= 1;
      if constexpr (P.stretches > 1) {
        if (!Out::template gathered<1>(a, unit, stretch(), rows, sums)) continue;
      }
      ends.store(a, part, rows, sums);
    }
  }

  // A group of 16 rows, this lane's block of 32 of two of them.
  template <class M>
  static __device__ __forceinline__ void add(Sums& sums, const std::uint8_t* tiles, int group, const uint4 (&right)[kEights][4]) {
    using L = typename M::Layout;
    constexpr int kLanes = 32 / L::kVector;
    constexpr int kTileBlocks = L::kTile.cols / 32;
    const int block = group * 4 + lane_index() % 4;
    typename L::Lane lanes[2][kLanes];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const int row = lane_index() / 4 * 2 + r;
      const std::uint8_t* tile = tiles + (row / L::kTile.rows * Tiles<M>::kAcross + block / kTileBlocks) * L::kTileBytes;
#pragma unroll
      for (int v = 0; v < kLanes; v++) {
        lanes[r][v] = L::template load<Landed>(tile, row % L::kTile.rows, block % kTileBlocks * kLanes + v);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      std::uint32_t left[4][4];
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const HalfPairs w = L::halfs(lanes[r], block % kTileBlocks, half);
#pragma unroll
        for (int i = 0; i < 8; i++) left[i / 2][i % 2 * 2 + r] = w.pairs[i];
      }
#pragma unroll
      for (int eight = 0; eight < kEights; eight++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const uint4 v = right[eight][half * 2 + i];
          mma_f16_k16(sums[eight], left[2 * i], {v.x, v.y});
          mma_f16_k16(sums[eight], left[2 * i + 1], {v.z, v.w});
        }
      }
    }
  }

  static __device__ __forceinline__ float4* sums_of(int buffer, int warp) {
    return reinterpret_cast<float4*>(shared_memory() + kBuffers + (buffer * C.warps + warp) * kSums) + lane_index();
  }
  static __device__ __forceinline__ void leave(const Sums& sums, int buffer, int round) {
    barrier_wait(added(buffer), round ^ 1);
#pragma unroll
    for (int eight = 0; eight < kEights; eight++) {
      const float(&s)[4] = sums[eight];
      sums_of(buffer, warp_index())[eight * kWarp] = make_float4(s[0], s[1], s[2], s[3]);
    }
    warp_sync();
    if (lane_index() == 0) barrier_arrive(left(buffer) + warp_index());
  }
  // The sums of all warps.
  static __device__ __forceinline__ void gather(Sums& sums, int buffer, int round) {
    if (lane_index() < C.warps) barrier_wait(left(buffer) + lane_index(), round);
    warp_sync();
#pragma unroll
    for (int eight = 0; eight < kEights; eight++) {
      Out::template add_up<C.warps, C.fold>(sums[eight], [&](int w) { return sums_of(buffer, w)[eight * kWarp]; });
    }
    warp_sync();
    if (lane_index() == 0) barrier_arrive(added(buffer));
  }
};

}  // namespace imp
