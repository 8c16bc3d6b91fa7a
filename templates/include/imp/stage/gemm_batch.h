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

#include "imp/stage/elementwise.h"
#include "imp/stage/epilogue.h"
#include "imp/stage/fragments.h"
#include "imp/stage/rows.h"

namespace imp {

struct BatchConfig {
  int cols;        // K
  int rows;        // of x and y at most, a multiple of 8
  int warps;       // of a CTA, 16 of a matrix's rows each
  int slots;       // groups of columns whose weights a warp has asked for at once
  int stages;      // groups of activations in shared memory
  int stretches;   // of columns
  int stride;      // floats from one row of y to the next
  int offset;      // y's first column
  bool accumulate;  // y += (the residual stream) instead of y =
  unsigned biased;  // bits of the matrices that have a bias
  float scale = 1.0f;  // of the sums, their bias included
  float cap = 0.0f;    // soft cap; 0: none
};

template <BatchConfig C, class... Ms>
struct GemmBatch {
  static constexpr int kThreads = C.warps * kWarp;
  static constexpr int kMatrices = sizeof...(Ms);
  static constexpr int kWarpRows = 16;
  static constexpr int kBlockRows = C.warps * kWarpRows;
  static constexpr int kRowTiles = (ceil_div(Ms::kRows, kBlockRows) + ...);
  static constexpr int kGroups = ceil_div(C.cols, FragmentOrder::kGroup);
  static constexpr int kEights = C.rows / 8;
  static constexpr int kItems = kRowTiles * C.stretches;  // a stretch of a CTA's rows each; those of the same rows follow
  static constexpr int kBytes = kEights * FragmentOrder::kBytes;  // of a group's activations
  static constexpr int kBarriers = C.stages * kBytes;
  static constexpr int kSharedBytes = kBarriers + C.stages * (1 + C.warps) * 8;
  static_assert(((Ms::kCols == C.cols) && ...), "the matrices read the same activations");
  static_assert(((Ms::Layout::kTile.cols % 32 == 0) && ...), "a lane takes 32 weights of a row");
  static_assert(C.rows % 8 == 0, "a tensor core's right operand has eight rows");
  static_assert(C.warps <= kWarp, "a lane waits for each warp");
  static_assert(C.stretches >= 1 && C.stretches <= kGroups, "every stretch has columns");
  static_assert(C.offset >= 0 && C.offset + (Ms::kRows + ...) <= C.stride, "y's columns must lie within a row's stride");

  struct Args {
    const std::uint8_t* fragments;  // f16 [cols / 128, rounded up][rows / 8], each as FragmentOrder has it
    const float* factors;           // [rows]: what a row's sums are to be multiplied with
    const std::uint8_t* plane[kMatrices];
    Biases<C.biased> bias;
    float* y;
    const StepHeader* step;
    float4* partial;         // [row tiles, warps, stretches, rows / 8, lanes]; unused with one stretch, as is
    std::uint32_t* arrived;  // [row tiles, warps], zero between launches
  };

  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    Activations ring(a.fragments);
    ring.prepare();
    block_sync();
    run_from<0, Ms...>(a, block_index(), 0, ring);
  }

 private:
  static __device__ __forceinline__ int begin_of(int stretch) { return kGroups * stretch / C.stretches; }

  // The groups of all items of the CTA on their way through shared memory. Warps have them copied in turn, each once all
  // warps have read what lies there.
  struct Activations {
    static constexpr int kBehind = C.stages > 2 ? 2 : 1;  // groups: a warp does not wait for others that are so near
    const std::uint8_t* fragments;
    int item = block_index();  // of the next copy
    int group = begin_of(block_index() % C.stretches);
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
        const std::uint8_t* from = fragments + FragmentOrder::at(C.rows, group, 0);
        if (lane_index() == 0) bulk_load_cached(shared_memory() + to * kBytes, from, kBytes, full(to));
      }
      copies++;
      if (++group < begin_of(item % C.stretches + 1)) return;
      item += grid_size();
      group = begin_of(item % C.stretches);
    }
  };

  // Rows of one of the matrices.
  struct Part {
    const std::uint8_t* plane;
    int row;
    int rows;    // of the matrix
    int column;  // of its first row in y, from C.offset on
    int matrix;
  };
  // What begins `row` rows behind the start of number `Matrix`, each matrix padded to whole CTAs.
  template <int Matrix, class M, class... Rest>
  static __device__ __forceinline__ Part found(const Args& a, int row, int column) {
    if constexpr (sizeof...(Rest) > 0) {
      constexpr int kPadded = round_up(M::kRows, kBlockRows);
      if (row >= kPadded) return found<Matrix + 1, Rest...>(a, row - kPadded, column + M::kRows);
    }
    return {a.plane[Matrix], row, M::kRows, column, Matrix};
  }
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

  // The packed weights of a warp's rows in a group, this lane's block of each.
  template <class M>
  struct Slot {
    using L = typename M::Layout;
    static constexpr int kLanes = 32 / L::kVector;
    static constexpr int kBlocks = C.cols / 32;
    static constexpr int kTileBlocks = L::kTile.cols / 32;
    typename L::Lane lanes[2][kLanes];

    // In a last group that is not whole, the last block is there again: its activations are zeros.
    __device__ __forceinline__ void load(const Part& part, int group) {
      const int block = min(group * 4 + lane_index() % 4, kBlocks - 1);
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const int row = min(part.row + r, part.rows - 1);
        const std::uint8_t* tile = M::tile(part.plane, row, block / kTileBlocks);
#pragma unroll
        for (int v = 0; v < kLanes; v++) {
          lanes[r][v] = L::template load<Ahead>(tile, row % L::kTile.rows, block % kTileBlocks * kLanes + v);
        }
      }
    }
    // The left operands of four steps: row 2 g of 16 where the first eight are, 2 g + 1 where the others are.
    __device__ __forceinline__ void unpack(int group, int half, std::uint32_t (&a)[4][4]) const {
      const int block = (group * 4 + lane_index() % 4) % kTileBlocks;
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const HalfPairs w = L::halfs(lanes[r], block, half);
#pragma unroll
        for (int i = 0; i < 8; i++) a[i / 2][i % 2 * 2 + r] = w.pairs[i];
      }
    }
  };

  using Sums = float[kEights][4];

  template <class M>
  static __device__ __forceinline__ void add(Sums& sums, const Slot<M>& slot, const std::uint8_t* fragments, int group) {
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
        (kBefore + ceil_div(M::kRows, kBlockRows) + (ceil_div(Rest::kRows, kBlockRows) + ... + 0)) * C.stretches;
    const auto part_of = [&](int which) {
      Part part = found<Matrix, M, Rest...>(a, (which / C.stretches - kBefore) * kBlockRows, column);
      part.row += warp_index() * kWarpRows + lane_index() / 4 * 2;
      return part;
    };
    if (item >= kEnd) return item;
    Slot<M> slots[C.slots];
    Part next = part_of(item);
    int begin = begin_of(item % C.stretches);
    int end = begin_of(item % C.stretches + 1);
#pragma unroll
    for (int s = 0; s < C.slots; s++) {
      if (begin + s < end) slots[s].load(next, begin + s);
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
          from = begin = begin_of(following % C.stretches);
          end = begin_of(following % C.stretches + 1);
        }
#pragma unroll
        for (int s = 0; s < C.slots; s++) {
          if (group + s < this_end) {
            add<M>(sums, slots[s], ring.take(), group + s);
            ring.release();
          }
          if (from + s < end) slots[s].load(next, from + s);
        }
      }
      finish(a, part, item, rows, sums);
    }
    return item;
  }

  static __device__ __forceinline__ void finish(const Args& a, const Part& part, int item, int rows, Sums& sums) {
    if constexpr (C.stretches > 1) {
      if (!gathered(a, item, rows, sums)) return;
    }
#pragma unroll
    for (int eight = 0; eight < kEights; eight++) {
      store(a, part, eight * 8 + lane_index() % 4 * 2, rows, sums[eight]);
    }
  }

  // Whether the warp's rows have sums of all stretches, which `sums` then are, added up in order.
  static __device__ __forceinline__ bool gathered(const Args& a, int item, int rows, Sums& sums) {
    constexpr int kStretch = kEights * kWarp;  // of float4
    const int place = item / C.stretches * C.warps + warp_index();
    float4* const first = a.partial + static_cast<std::size_t>(place) * (C.stretches * kStretch) + lane_index();
#pragma unroll
    for (int eight = 0; eight < kEights; eight++) {
      if (eight * 8 >= rows) break;
      const float(&s)[4] = sums[eight];
      first[item % C.stretches * kStretch + eight * kWarp] = make_float4(s[0], s[1], s[2], s[3]);
    }
    fence_gpu();
    warp_sync();
    std::uint32_t before = 0;
    if (lane_index() == 0) {
      before = atomic_add(a.arrived + place, 1u);
      fence_gpu();
    }
    before = shuffle(before, 0);
    warp_sync();
    if (before != C.stretches - 1) return false;
    if (lane_index() == 0) a.arrived[place] = 0;
#pragma unroll
    for (int eight = 0; eight < kEights; eight++) {
      if (eight * 8 >= rows) break;
      const float4* from = first + eight * kWarp;
      float4 sum = *from;
#pragma unroll
      for (int s = 1; s < C.stretches; s++) {
        const float4 v = from[s * kStretch];
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
      }
      float(&s)[4] = sums[eight];
      s[0] = sum.x, s[1] = sum.y, s[2] = sum.z, s[3] = sum.w;
    }
    return true;
  }

  // The lane's two rows of a matrix, of two rows of y from `first` on; those from `rows` on are not written.
  static __device__ __forceinline__ void store(const Args& a, const Part& part, int first, int rows,
                                               const float (&sums)[4]) {
    const int row = part.row;
    constexpr bool kPairs = ((Ms::kRows % 2 == 0) && ...) && C.stride % 2 == 0 && C.offset % 2 == 0;
    if (row >= part.rows) return;
    const bool both = row + 1 < part.rows;
    const float bias[2] = {a.bias.add(part.matrix, row, 0.0f), both ? a.bias.add(part.matrix, row + 1, 0.0f) : 0.0f};
#pragma unroll
    for (int i = 0; i < 2; i++) {
      if (first + i >= rows) return;
      const float factor = a.factors[first + i];
      const float value[2] = {fma(sums[i], factor, bias[0]), fma(sums[2 + i], factor, bias[1])};
      float* line = a.y + static_cast<std::size_t>(first + i) * C.stride + C.offset + part.column + row;
      if constexpr (kPairs) {
        auto* out = reinterpret_cast<float2*>(line);
        const float2 old = C.accumulate ? *out : make_float2(0, 0);
        *out = make_float2(leave(value[0], old.x), leave(value[1], old.y));
      } else {
        line[0] = leave(value[0], C.accumulate ? line[0] : 0);
        if (both) line[1] = leave(value[1], C.accumulate ? line[1] : 0);
      }
    }
  }
  static __device__ __forceinline__ float leave(float value, float old) {
    return leave_product<C.accumulate, C.scale, C.cap>(value, old);
  }
};

}  // namespace imp
