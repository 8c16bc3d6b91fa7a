// Matrix products of a few rows, one of each of so many sequences: y[rows, stride] = x W^T in f16 with float sums, for one
// matrix or for several that read the same x, whose rows lie side by side in y.
//
// Weights pass through once. They are the left operand: a lane loads its block of 32 of a group of 128 columns as it is
// packed, a few groups ahead, and makes halfs of it in registers. Activations are the right operand, in the order in which
// lanes take them (FragmentOrder): where they fit, a CTA has all of them copied to shared memory once, else lanes load them
// from L2, where they lie. Nobody waits for anybody before a tile's end.
// Warps that share rows have a stretch of the columns each, and add up their sums in pairs: an order that depends on the
// columns alone. So no bit of a row depends on how many others there are.
#pragma once
#include <type_traits>

#include "imp/stage/elementwise.h"
#include "imp/stage/epilogue.h"
#include "imp/stage/fragments.h"
#include "imp/stage/rows.h"

namespace imp {

struct BatchConfig {
  int cols;        // K
  int rows;        // of x and y at most: 8, 16, 32 or 64
  int warps;       // of a CTA
  int stretches;   // warps that share rows, a power of two
  int tiles;       // of 16 of a matrix's rows, a warp
  int slots;       // groups of columns that a warp has asked for at once
  bool resident;   // activations are copied to shared memory
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
  static constexpr int kWarpRows = C.tiles * 16;
  static constexpr int kBlockRows = C.warps / C.stretches * kWarpRows;
  static constexpr int kRowTiles = (ceil_div(Ms::kRows, kBlockRows) + ...);
  static constexpr int kGroups = ceil_div(C.cols, FragmentOrder::kGroup);
  static constexpr int kEights = C.rows / 8;
  static constexpr int kLine = kBlockRows + 4;  // floats of a row's sums: lanes that store two hit all banks
  static constexpr int kSums = C.rows * kLine;  // of a stretch
  static constexpr int kCopied = C.resident ? kGroups * kEights * FragmentOrder::kBytes : 0;  // bytes, before the sums
  static constexpr int kBarriers = kCopied + C.stretches * kSums * 4;
  static constexpr int kSharedBytes = kBarriers + (C.resident ? C.stretches * 8 : 0);
  static_assert(((Ms::kCols == C.cols) && ...), "the matrices read the same activations");
  static_assert(((Ms::Layout::kTile.cols % 32 == 0) && ...), "a lane takes 32 weights of a row");
  static_assert(C.rows % 8 == 0, "a tensor core's right operand has eight rows");
  static_assert((C.stretches & (C.stretches - 1)) == 0, "sums are added up in pairs");
  static_assert(C.warps % C.stretches == 0, "all rows of a CTA have as many warps");
  static_assert(C.offset >= 0 && C.offset + (Ms::kRows + ...) <= C.stride, "y's columns must lie within a row's stride");

  struct Args {
    const std::uint8_t* fragments;  // f16 [cols / 128, rounded up][rows / 8], each as FragmentOrder has it
    const float* factors;           // [rows]: what a row's sums are to be multiplied with
    const std::uint8_t* plane[kMatrices];
    Biases<C.biased> bias;
    float* y;
    const StepHeader* step;
  };

  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    if constexpr (C.resident) {
      if (thread_index() == 0) {
        for (int s = 0; s < C.stretches; s++) barrier_init(landed(s));
        barrier_init_fence();
      }
      block_sync();
    }
    run_from<0, Ms...>(a, block_index(), 0);
  }

 private:
  static __device__ __forceinline__ int begin_of(int stretch) { return kGroups * stretch / C.stretches; }
  static __device__ __forceinline__ std::uint64_t* landed(int stretch) {
    return reinterpret_cast<std::uint64_t*>(shared_memory() + kBarriers) + stretch;
  }
  // Where the activations are, once the kernel before is complete and the stretch has landed; `first`: nobody has called it.
  static __device__ __forceinline__ const std::uint8_t* activations(const Args& a, int stretch, bool first) {
    grid_wait();
    if constexpr (!C.resident) return a.fragments;
    if (first && warp_index() < C.stretches && lane_index() == 0) {
      const std::size_t from = FragmentOrder::at(C.rows, begin_of(warp_index()), 0);
      const std::size_t bytes = FragmentOrder::at(C.rows, begin_of(warp_index() + 1), 0) - from;
      std::uint8_t* to = shared_memory() + from;
      if (bytes > 0) bulk_load_cached(to, a.fragments + from, static_cast<int>(bytes), landed(warp_index()));
    }
    warp_sync();
    if (begin_of(stretch) < begin_of(stretch + 1)) bulk_wait(landed(stretch), 0);
    return shared_memory();
  }

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

  // The CTA's tiles from number `tile` of the matrices left on. Those of one layout share the code.
  template <int Matrix, class M, class... Rest>
  static __device__ __forceinline__ void run_from(const Args& a, int tile, int column) {
    if constexpr ((std::is_same_v<typename M::Layout, typename Rest::Layout> && ...)) {
      multiply<Matrix, M, Rest...>(a, tile, column);
    } else {
      tile = multiply<Matrix, M>(a, tile, column);
      run_from<Matrix + 1, Rest...>(a, tile - ceil_div(M::kRows, kBlockRows), column + M::kRows);
    }
  }

  // The packed weights of a warp's rows in a group, this lane's block of each.
  template <class M>
  struct Slot {
    using L = typename M::Layout;
    static constexpr int kLanes = 32 / L::kVector;
    static constexpr int kBlocks = C.cols / 32;
    static constexpr int kTileBlocks = L::kTile.cols / 32;
    typename L::Lane lanes[C.tiles][2][kLanes];

    // In a last group that is not whole, the last block is there again: its activations are zeros.
    __device__ __forceinline__ void load(const Part& part, int group) {
      const int block = min(group * 4 + lane_index() % 4, kBlocks - 1);
#pragma unroll
      for (int i = 0; i < C.tiles * 2; i++) {
        const int row = min(part.row + i / 2 * 16 + i % 2, part.rows - 1);
        const std::uint8_t* tile = M::tile(part.plane, row, block / kTileBlocks);
#pragma unroll
        for (int v = 0; v < kLanes; v++) {
          lanes[i / 2][i % 2][v] =
              L::template load<Cached>(tile, row % L::kTile.rows, block % kTileBlocks * kLanes + v);
        }
      }
    }
    // The left operands of four steps of tile `t`: row 2 g of 16 where the first eight are, 2 g + 1 where the others are.
    __device__ __forceinline__ void unpack(int t, int group, int half, std::uint32_t (&a)[4][4]) const {
      const int block = (group * 4 + lane_index() % 4) % kTileBlocks;
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const HalfPairs w = L::halfs(lanes[t][r], block, half);
#pragma unroll
        for (int i = 0; i < 8; i++) a[i / 2][i % 2 * 2 + r] = w.pairs[i];
      }
    }
  };

  using Sums = float[C.tiles][kEights][4];

  template <class M>
  static __device__ __forceinline__ void add(Sums& sums, const Slot<M>& slot, const std::uint8_t* fragments, int group) {
    const std::uint8_t* first = fragments + FragmentOrder::at(C.rows, group, 0);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      std::uint32_t left[C.tiles][4][4];
#pragma unroll
      for (int t = 0; t < C.tiles; t++) slot.unpack(t, group, half, left[t]);
#pragma unroll
      for (int eight = 0; eight < kEights; eight++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const uint4 v = FragmentOrder::load(first + eight * FragmentOrder::kBytes, half * 2 + i);
#pragma unroll
          for (int t = 0; t < C.tiles; t++) {
            mma_f16_k16(sums[t][eight], left[t][2 * i], {v.x, v.y});
            mma_f16_k16(sums[t][eight], left[t][2 * i + 1], {v.z, v.w});
          }
        }
      }
    }
  }

  static constexpr int tiles_before(int matrix) {
    int before = 0;
    int which = 0;
    ((before += which++ < matrix ? ceil_div(Ms::kRows, kBlockRows) : 0), ...);
    return before;
  }

  // The first tile of the CTA's behind these matrices comes back.
  template <int Matrix, class M, class... Rest>
  static __device__ __forceinline__ int multiply(const Args& a, int tile, int column) {
    constexpr int kTiles = ceil_div(M::kRows, kBlockRows) + (ceil_div(Rest::kRows, kBlockRows) + ... + 0);
    constexpr int kBefore = tiles_before(Matrix);
    const int stretch = warp_index() % C.stretches;
    const int begin = begin_of(stretch);
    const int end = begin_of(stretch + 1);
    const int mine = warp_index() / C.stretches * kWarpRows + lane_index() / 4 * 2;
    const auto part_of = [&](int which) {
      Part part = found<Matrix, M, Rest...>(a, which * kBlockRows, column);
      part.row += mine;
      return part;
    };
    if (tile >= kTiles) return tile;
    Slot<M> slots[C.slots];
    Part next = part_of(tile);
#pragma unroll
    for (int s = 0; s < C.slots; s++) {
      if (begin + s < end) slots[s].load(next, begin + s);
    }
    const std::uint8_t* fragments = activations(a, stretch, kBefore + tile == block_index());
    const int rows = a.step->rows;
    for (; tile < kTiles; tile += grid_size()) {
      const Part part = next;
      Sums sums = {};
#pragma unroll 1
      for (int group = begin; group < end; group += C.slots) {
        // Behind this tile's last groups come the first ones of the CTA's next tile.
        const bool last = group + C.slots >= end;
        const int from = last ? begin : group + C.slots;
        const bool more = !last || tile + grid_size() < kTiles;
        if (last && more) next = part_of(tile + grid_size());
#pragma unroll
        for (int s = 0; s < C.slots; s++) {
          if (group + s < end) add<M>(sums, slots[s], fragments, group + s);
          if (more && from + s < end) slots[s].load(next, from + s);
        }
      }
      // A stretch without groups asks for nothing.
      if (begin == end && tile + grid_size() < kTiles) next = part_of(tile + grid_size());
      finish(a, part, mine, stretch, rows, sums);
    }
    return tile;
  }

  // Sums of all stretches, then y.
  static __device__ __forceinline__ void finish(const Args& a, const Part& part, int mine, int stretch, int rows,
                                                const Sums& sums) {
    auto* shared = reinterpret_cast<float*>(shared_memory() + kCopied);
    float* own = shared + stretch * kSums + mine;
#pragma unroll
    for (int t = 0; t < C.tiles; t++) {
#pragma unroll
      for (int eight = 0; eight < kEights; eight++) {
        const float(&s)[4] = sums[t][eight];
        float* at = own + (eight * 8 + lane_index() % 4 * 2) * kLine + t * 16;
        *reinterpret_cast<float2*>(at) = make_float2(s[0], s[2]);
        *reinterpret_cast<float2*>(at + kLine) = make_float2(s[1], s[3]);
      }
    }
    block_sync();
    const int first = part.row - mine;
    for (int i = thread_index(); i < rows * kBlockRows; i += kThreads) {
      const int row = i / kBlockRows;
      const int r = i % kBlockRows;
      if (first + r >= part.rows) continue;
      const float sum = pairs<C.stretches>(shared + row * kLine + r);
      const float value = a.bias.add(part.matrix, first + r, 0.0f);
      float* y = a.y + static_cast<std::size_t>(row) * C.stride + C.offset + part.column + first + r;
      *y = leave_product<C.accumulate, C.scale, C.cap>(fma(sum, a.factors[row], value), C.accumulate ? *y : 0);
    }
    block_sync();
  }
  // Of so many stretches.
  template <int Count>
  static __device__ __forceinline__ float pairs(const float* sums) {
    if constexpr (Count == 1) {
      return *sums;
    } else {
      return pairs<Count / 2>(sums) + pairs<Count / 2>(sums + Count / 2 * kSums);
    }
  }
};

}  // namespace imp
