// What the products of panels share: y[tokens, stride] = x W^T in f16, for one matrix or for several that read the same x, whose
// rows lie side by side in y.
//
// Weights are the left operand. They come from memory as they are packed, a group of 128 columns ahead, and become halfs in
// the registers of those who multiply: lane t of the four that share a row has block t of the group's four. Tokens are the
// right operand, from shared memory, where panels of 64 columns arrive in that very order (PanelOrder) by one copy each.
// Every sum is made in ascending groups by one warp, whatever the number of tokens: no bit depends on the chunk.
#pragma once
#include <type_traits>

#include "imp/stage/elementwise.h"
#include "imp/stage/epilogue.h"
#include "imp/stage/panel.h"
#include "imp/stage/rows.h"

namespace imp {

// Panels on their way through shared memory: one thread has them copied, each of `Warps` warps takes them in order.
template <int Bytes, int Stages, int Warps>
struct PanelRing {
  static constexpr int kBarriers = Stages * Bytes;
  static constexpr int kSharedBytes = kBarriers + Stages * (1 + Warps) * 8;
  std::uint8_t* panels;
  std::uint64_t* full;
  std::uint64_t* empty;  // [Stages][Warps]
  int stage = 0;
  int parity = 0;

  __device__ __forceinline__ explicit PanelRing(std::uint8_t* shared)
      : panels(shared), full(reinterpret_cast<std::uint64_t*>(shared + kBarriers)), empty(full + Stages) {}
  // One thread calls it, before all others use the ring.
  __device__ __forceinline__ void prepare() const {
    for (int i = 0; i < Stages * (1 + Warps); i++) barrier_init(full + i);
    barrier_init_fence();
  }
  // A whole warp calls it, which takes none.
  __device__ __forceinline__ void fill(const std::uint8_t* panel, int bytes) {
    if (lane_index() < Warps) barrier_wait(empty + stage * Warps + lane_index(), parity ^ 1);
    warp_sync();
    if (lane_index() == 0) bulk_load_cached(panels + stage * Bytes, panel, bytes, full + stage);
    advance();
  }
  __device__ __forceinline__ const std::uint8_t* take() {
    bulk_wait(full + stage, parity);
    const std::uint8_t* panel = panels + stage * Bytes;
    advance();
    return panel;
  }
  // The warp reads the panel before the last `Later` taken ones no more.
  template <int Later>
  __device__ __forceinline__ void release() const {
    const int which = stage - 1 - Later < 0 ? stage - 1 - Later + Stages : stage - 1 - Later;
    if (lane_index() == 0) barrier_arrive(empty + which * Warps + warp_index());
  }

 private:
  __device__ __forceinline__ void advance() {
    stage = stage + 1 == Stages ? 0 : stage + 1;
    parity ^= stage == 0 ? 1 : 0;
  }
};

// The packed weights of two rows of a group, this lane's block of each.
template <class M>
struct WeightFragments {
  using L = typename M::Layout;
  static constexpr int kLanes = 32 / L::kVector;
  static constexpr int kBlocks = M::kCols / 32;
  static constexpr int kTileBlocks = L::kTile.cols / 32;
  const std::uint8_t* plane;
  int rows[2];
  typename L::Lane lanes[2][kLanes];

  // What a half of the blocks needs, or all that a format keeps together. Past the last group, and in one that is not
  // whole, the last block is there again: its activations are zeros.
  __device__ __forceinline__ void load(int group, int half) {
    const int block = min(group * 4 + lane_index() % 4, kBlocks - 1);
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const std::uint8_t* tile = M::tile(plane, rows[r], block / kTileBlocks);
#pragma unroll
      for (int i = 0; i < kLanes; i++) {
        if (kLanes > 1 && i * 2 / kLanes != half) continue;
        lanes[r][i] = L::template load<Cached>(tile, rows[r] % L::kTile.rows, block % kTileBlocks * kLanes + i);
      }
    }
  }
  // The fragments of a panel's four steps.
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

// `Kernel` multiplies: multiply<M>(args, part, first token, tokens, ring). C: its configuration, with the fields that are used
// here. A tile has `BlockRows` rows and C.block_tokens tokens.
template <class Kernel, auto C, int BlockRows, class... Ms>
struct GemmPanels {
  static constexpr int kBlockRows = BlockRows;
  static constexpr int kBlockTokens = C.block_tokens;
  static constexpr int kMatrices = sizeof...(Ms);
  static constexpr int kRowTiles = (ceil_div(Ms::kRows, kBlockRows) + ...);
  static constexpr int kGroups = ceil_div(C.cols, PanelOrder::kGroup);
  static constexpr int kBytes = kBlockTokens * PanelOrder::kLine;  // of a panel
  static_assert(((Ms::kCols == C.cols) && ...), "the matrices read the same activations");
  static_assert(((Ms::Layout::kTile.cols % 32 == 0) && ...), "a lane takes 32 weights of a row");
  static_assert(C.tokens % 8 == 0, "a panel's swizzle repeats after eight lines");
  static_assert(C.offset >= 0 && C.offset + (Ms::kRows + ...) <= C.stride, "y's columns must lie within a token's stride");

  struct Args {
    const std::uint8_t* panels;  // f16 [cols / 64, rounded up to even][tokens][64], as EncodePanels leaves them
    const float* factors;        // [tokens]: what a token's sums are to be multiplied with
    const std::uint8_t* plane[kMatrices];
    Biases<C.biased> bias;
    float* y;
    const StepHeader* step;
  };

  // Where rows of one of the matrices begin, first as rows of all that are left from number `matrix` on.
  struct Part {
    int row;
    int rows;    // of the matrix
    int column;  // of its first row in y, from C.offset on
    int matrix;
    __device__ __forceinline__ bool beyond(int count) const { return row >= round_up(count, kBlockRows); }
    __device__ __forceinline__ Part after(int count) const {
      return {row - round_up(count, kBlockRows), 0, column + count, matrix + 1};
    }
  };

  // One warp has the panels of all tiles of this CTA copied, the others multiply them.
  template <class Ring>
  static __device__ __forceinline__ void fetch_tiles(const Args& a, Ring& ring) {
    const int tokens = a.step->rows;
    const int token_tiles = ceil_div(tokens, kBlockTokens);
    for (int tile = block_index(); tile < kRowTiles * token_tiles; tile += grid_size()) {
      fetch(a.panels, tile % token_tiles * kBlockTokens, tokens, ring);
    }
  }
  template <class Ring>
  static __device__ __forceinline__ void multiply_tiles(const Args& a, Ring& ring) {
    const int tokens = a.step->rows;
    const int token_tiles = ceil_div(tokens, kBlockTokens);
    for (int tile = block_index(); tile < kRowTiles * token_tiles; tile += grid_size()) {
      const Part part{tile / token_tiles * kBlockRows, 0, 0, 0};
      multiply_rows<Ring, Ms...>(a, part, tile % token_tiles * kBlockTokens, tokens, ring);
    }
  }

 protected:
  static __device__ __forceinline__ const std::uint8_t* plane(const Args& a, int matrix) {
    const std::uint8_t* plane = a.plane[0];
#pragma unroll
    for (int i = 1; i < kMatrices; i++) plane = matrix == i ? a.plane[i] : plane;  // an index would make them memory
    return plane;
  }

  // Rows `row` and `row` + 1 of a matrix, of the tokens `first` on as fragments have them; those from `tokens` on are not
  // written.
  template <int Sums>
  static __device__ __forceinline__ void store(const Args& a, const Part& part, int row, int first, int tokens,
                                               const float (&sums)[Sums]) {
    constexpr bool kPairs = ((Ms::kRows % 2 == 0) && ...) && C.stride % 2 == 0 && C.offset % 2 == 0;
    if (row >= part.rows) return;
    const bool both = row + 1 < part.rows;
    const float bias[2] = {a.bias.add(part.matrix, row, 0.0f), both ? a.bias.add(part.matrix, row + 1, 0.0f) : 0.0f};
    float* y = a.y + C.offset + part.column + row;
#pragma unroll
    for (int i = 0; i < Sums / 2; i++) {
      const int token = first + i / 2 * 8 + lane_index() % 4 * 2 + i % 2;
      if (token >= tokens) continue;
      const float factor = a.factors[token];
      const float value[2] = {fma(sums[i / 2 * 4 + i % 2], factor, bias[0]),
                              fma(sums[i / 2 * 4 + 2 + i % 2], factor, bias[1])};
      float* line = y + static_cast<std::size_t>(token) * C.stride;
      if constexpr (kPairs) {
        auto* out = reinterpret_cast<float2*>(line);
        const float2 old = C.accumulate ? *out : make_float2(0, 0);
        *out = make_float2(finish(value[0], old.x), finish(value[1], old.y));
      } else {
        line[0] = finish(value[0], C.accumulate ? line[0] : 0);
        if (both) line[1] = finish(value[1], C.accumulate ? line[1] : 0);
      }
    }
  }

 private:
  // Of a tile's tokens those that there are; the other lines of shared memory are no one's, and nor are their sums.
  template <class Ring>
  static __device__ __forceinline__ void fetch(const std::uint8_t* panels, int first, int tokens, Ring& ring) {
    const int lines = min(kBlockTokens, round_up(tokens - first, 8));
    for (int panel = 0; panel < 2 * kGroups; panel++) {
      const std::size_t line = static_cast<std::size_t>(panel) * C.tokens + static_cast<std::size_t>(first);
      ring.fill(panels + line * PanelOrder::kLine, lines * PanelOrder::kLine);
    }
  }

  // Matrices of one layout share the code.
  template <class Ring, class M, class... Rest>
  static __device__ __forceinline__ void multiply_rows(const Args& a, const Part& part, int first, int tokens, Ring& ring) {
    if constexpr ((std::is_same_v<typename M::Layout, typename Rest::Layout> && ...)) {
      Kernel::template multiply<M>(a, found<M, Rest...>(part), first, tokens, ring);
    } else if (part.beyond(M::kRows)) {
      multiply_rows<Ring, Rest...>(a, part.after(M::kRows), first, tokens, ring);
    } else {
      Kernel::template multiply<M>(a, found<M>(part), first, tokens, ring);
    }
  }
  template <class M, class... Rest>
  static __device__ __forceinline__ Part found(const Part& part) {
    if constexpr (sizeof...(Rest) > 0) {
      if (part.beyond(M::kRows)) return found<Rest...>(part.after(M::kRows));
    }
    return {part.row, M::kRows, part.column, part.matrix};
  }
  static __device__ __forceinline__ float finish(float value, float old) {
    return leave_product<C.accumulate, C.scale, C.cap>(value, old);
  }
};

}  // namespace imp
