// What the products of panels share: y[tokens, stride] = x W^T in f16, for one matrix or for several that read the same x, whose
// rows lie side by side in y.
//
// Weights are the left operand. They come from memory as they are packed, a group of 128 columns ahead, and become halfs in
// the registers of those who multiply: lane t of the four that share a row has block t of the group's four. Tokens are the
// right operand, from shared memory, where panels of them arrive in that very order by one copy each.
// Every sum is made in ascending groups by one warp, whatever the number of tokens: no bit depends on the chunk. Of matrices
// with few rows, a sum is that of two halves of the columns (C.halves), each made so, where there are few tiles by two CTAs: of
// every tile's, whose warps come second add what the others have left. Of two there is only one order.
//
// Of a mixture of experts (C.experts) each matrix is a stack of theirs, and what is said of tokens holds of pairs, at the places
// that ExpertPlaces gives them (expert_tile.h). All of a tile have one expert.
#pragma once
#include <type_traits>

#include "imp/stage/elementwise.h"
#include "imp/stage/epilogue.h"
#include "imp/stage/expert_tile.h"
#include "imp/stage/panel.h"
#include "imp/stage/rows.h"

namespace imp {

struct NoGate {};

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
    warp_sync();
    if (lane_index() == 0) barrier_arrive(empty + which * Warps + warp_index());
  }

 private:
  __device__ __forceinline__ void advance() {
    stage = stage + 1 == Stages ? 0 : stage + 1;
    parity ^= stage == 0 ? 1 : 0;
  }
};

// The packed weights of two rows of `Slots` groups, this lane's block of each; of one matrix, or of two that are alike. `Memory`:
// how they are asked for.
template <class M, class Memory, int Slots = 1>
struct WeightFragments {
  using L = typename M::Layout;
  static constexpr int kLanes = 32 / L::kVector;
  static constexpr int kBlocks = M::kCols / 32;
  static constexpr int kTileBlocks = L::kTile.cols / 32;
  const std::uint8_t* planes[2];
  int rows[2];
  typename L::Lane lanes[Slots][2][kLanes];

  // What a half of the blocks needs, or all that a format keeps together. Past the last group, and in one that is not
  // whole, the last block is there again: its activations are zeros.
  __device__ __forceinline__ void load(int group, int half, int slot = 0) {
    const int block = min(group * 4 + lane_index() % 4, kBlocks - 1);
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const std::uint8_t* tile = M::tile(planes[r], rows[r], block / kTileBlocks);
#pragma unroll
      for (int i = 0; i < kLanes; i++) {
        if (kLanes > 1 && i * 2 / kLanes != half) continue;
        lanes[slot][r][i] = L::template load<Memory>(tile, rows[r] % L::kTile.rows, block % kTileBlocks * kLanes + i);
      }
    }
  }
  // The fragments of a panel's four steps.
  __device__ __forceinline__ void unpack(int group, int half, std::uint32_t (&a)[4][4], int slot = 0) const {
    const int block = (group * 4 + lane_index() % 4) % kTileBlocks;
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const HalfPairs w = L::halfs(lanes[slot][r], block, half);
#pragma unroll
      for (int i = 0; i < 8; i++) a[i / 2][i % 2 * 2 + r] = w.pairs[i];
    }
  }
};

// `Kernel` multiplies: multiply<M>(args, part, first token, tokens, ring), activations in `Order`: of kGroup columns kPanels
// panels, each with kLine bytes a token, so that those of eight are together. C: its configuration, with the fields that are used
// here. A tile has `BlockRows` rows and C.block_tokens tokens; where two matrices are gates and what these multiply (C.paired),
// half as many of each.
template <class Kernel, class Order, auto C, int BlockRows, class... Ms>
struct GemmPanels {
  static constexpr int kBlockRows = BlockRows;
  static constexpr int kBlockTokens = C.block_tokens;
  static constexpr int kMatrices = sizeof...(Ms);
  static constexpr int kPartRows = C.paired ? kBlockRows / 2 : kBlockRows;  // of one matrix
  static constexpr int kRowTiles = (ceil_div(Ms::kRows, kPartRows) + ...) / (C.paired ? 2 : 1);
  static constexpr int kGroups = ceil_div(C.cols, Order::kGroup);
  static constexpr int kBytes = kBlockTokens * Order::kLine;  // of a panel
  static constexpr bool kExperts = C.experts > 0;
  // An expert's weights serve one tile or two, so that little is lost where nobody finds them in the cache.
  using Memory = std::conditional_t<kExperts, Ahead, Cached>;
  static constexpr int kUsed = kExperts ? C.used : 1;  // results of one matrix, side by side in a line of y
  static_assert(((Ms::kCols == C.cols) && ...), "the matrices read the same activations");
  static_assert(((Ms::Layout::kTile.cols % 32 == 0) && ...), "a lane takes 32 weights of a row");
  static_assert(C.tokens % 8 == 0, "an order repeats after eight lines");
  static_assert(!C.paired || kMatrices == 2, "gates and what they multiply are two matrices");
  static_assert(C.offset >= 0 && C.offset + kUsed * (Ms::kRows + ...) / (C.paired ? 2 : 1) <= C.stride,
                "y's columns must lie within a token's stride");
  static_assert(!kExperts || (!C.halves && !C.accumulate), "the results of a token's experts are added up behind this");

  struct Args {
    const std::uint8_t* panels;  // [kGroups * Order::kPanels][tokens][Order::kLine], as EncodeActivations leaves them
    const float* factors;        // [tokens]: what a token's sums are to be multiplied with
    const std::uint8_t* plane[kMatrices];
    Biases<C.biased> bias;
    const ExpertTile* tiles;    // of experts, else null; as are
    const std::int32_t* pairs;  // the pairs at all places
    float4* halves;          // [grid][warps][values of a lane / 4][32]; null for sums that are made at once
    std::uint32_t* arrived;  // [grid / 2][warps], zero between launches; likewise
    float* y;
    const StepHeader* step;
  };

  // Where rows of one of the matrices begin, first as rows of all that are left from number `matrix` on.
  struct Part {
    int row;
    int rows;    // of the matrix
    int column;  // of its first row in y, from C.offset on
    int matrix;
    int expert;  // whose matrix it is
    int begin;   // groups
    int end;
    int place;  // of the sums of a half, until the others are there
    __device__ __forceinline__ bool beyond(int count) const { return row >= round_up(count, kPartRows); }
    __device__ __forceinline__ Part after(int count) const {
      return {row - round_up(count, kPartRows), 0, column + kUsed * count, matrix + 1, expert, begin, end, place};
    }
    // Both halves, one after the other.
    __device__ __forceinline__ bool whole() const { return end - begin == kGroups; }
  };
  static constexpr int kHalf = C.halves ? ceil_div(kGroups, 2) : kGroups;  // groups
  static_assert(!C.halves || kGroups > 1, "a half has a group at least");

  // One warp has the panels of all tiles of this CTA copied, the others multiply them.
  template <class Ring>
  static __device__ __forceinline__ void fetch_tiles(const Args& a, Ring& ring) {
    grid_wait();
    each_tile(a, [&](const Part& part, int first, int end) { fetch(a.panels, part, first, end, ring); });
  }
  template <class Ring>
  static __device__ __forceinline__ void multiply_tiles(const Args& a, Ring& ring) {
    if constexpr (kExperts) grid_wait();  // whose weights to ask for is not known before
    each_tile(a, [&](const Part& part, int first, int end) { multiply_rows<Ring, Ms...>(a, part, first, end, ring); });
  }

 protected:
  template <class M>
  static __device__ __forceinline__ const std::uint8_t* plane(const Args& a, const Part& part, int matrix) {
    const std::uint8_t* plane = a.plane[0];
#pragma unroll
    for (int i = 1; i < kMatrices; i++) plane = matrix == i ? a.plane[i] : plane;  // an index would make them memory
    return kExperts ? plane + M::kBytes * static_cast<std::size_t>(part.expert) : plane;
  }

  // Whose results are those of a place: a token's, or a pair's.
  static __device__ __forceinline__ int owner_of(const Args& a, int place) { return kExperts ? a.pairs[place] : place; }
  // Where they begin in y.
  static __device__ __forceinline__ float* line_of(const Args& a, const Part& part, int owner) {
    float* y = a.y + C.offset + part.column;
    if constexpr (kExperts) y += owner % kUsed * part.rows;
    return y + static_cast<std::size_t>(owner / kUsed) * C.stride;
  }

  // Leaves the sums of a half for whoever has the others.
  template <int Sums>
  static __device__ __forceinline__ void leave(const Args& a, const Part& part, const float (&sums)[Sums]) {
    float4* words = words_of<Sums>(a, part.place);
#pragma unroll
    for (int i = 0; i < Sums / 4; i++) {
      words[i * kWarp] = make_float4(sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]);
    }
  }
  // Whether the sums of a part are those of its tile now: if the other half's are there, which this adds to them; else it leaves
  // them. The warp that does this for the other half has the same rows and tokens.
  template <int Sums>
  static __device__ __forceinline__ bool joined(const Args& a, const Part& part, float (&sums)[Sums]) {
    if constexpr (!C.halves) return true;
    int place = part.place;
    if (!part.whole()) {
      leave(a, part, sums);
      std::uint32_t* arrived = a.arrived + place / 2 * kSumWarps + warp_index();
      if (!others_arrived(arrived)) return false;
      if (lane_index() == 0) *arrived = 0;
      place ^= 1;
    }
    const float4* words = words_of<Sums>(a, place);
#pragma unroll
    for (int i = 0; i < Sums / 4; i++) {
      const uint4 other = load_fresh4(reinterpret_cast<const uint4*>(words + i * kWarp));
      sums[4 * i] += bits_to_float(other.x);
      sums[4 * i + 1] += bits_to_float(other.y);
      sums[4 * i + 2] += bits_to_float(other.z);
      sums[4 * i + 3] += bits_to_float(other.w);
    }
    return true;
  }

  // Rows `row` and `row` + 1 of a matrix, of the tokens `first` on as fragments have them; those from `tokens` on are not
  // written.
  template <int Sums>
  static __device__ __forceinline__ void store(const Args& a, const Part& part, int row, int first, int tokens,
                                               const float (&sums)[Sums]) {
    constexpr bool kPairs = ((Ms::kRows % 2 == 0) && ...) && C.stride % 2 == 0 && C.offset % 2 == 0;
    if (row >= part.rows) return;
    const bool both = row + 1 < part.rows;
    const float bias[2] = {bias_of(a, part, part.matrix, row), both ? bias_of(a, part, part.matrix, row + 1) : 0.0f};
    const auto token_of = [first](int i) { return first + i / 2 * 8 + lane_index() % 4 * 2 + i % 2; };
    // So many tokens are read before the first of them is written: for all that the compiler knows, a write changes what is
    // read after it, and one round trip to memory a token is what the whole tile would wait for.
    constexpr int kBatch = Sums / 2 % 8 == 0 ? 8 : 2;
#pragma unroll
    for (int begin = 0; begin < Sums / 2; begin += kBatch) {
      float factor[kBatch];
      int owner[kBatch];
      float2 old[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; i++) {
        const int token = token_of(begin + i);
        factor[i] = token < tokens ? a.factors[token] : 0;
        owner[i] = token < tokens ? owner_of(a, token) : 0;
        old[i] = C.accumulate && token < tokens ? read<kPairs>(line_of(a, part, owner[i]) + row, both) : make_float2(0, 0);
      }
#pragma unroll
      for (int i = 0; i < kBatch; i++) {
        const int token = token_of(begin + i);
        if (token >= tokens) continue;
        const float* sum = sums + (begin + i) / 2 * 4 + i % 2;
        const float2 value = make_float2(finish(fma(sum[0], factor[i], bias[0]), old[i].x),
                                         finish(fma(sum[2], factor[i], bias[1]), old[i].y));
        float* line = line_of(a, part, owner[i]) + row;
        if constexpr (kPairs) {
          *reinterpret_cast<float2*>(line) = value;
        } else {
          line[0] = value.x;
          if (both) line[1] = value.y;
        }
      }
    }
  }

  // y = F(the first matrix's row `row`) * the second one's, likewise: the former has the sums 0, 1, 4, 5, ..., the latter the others.
  template <class F, int Sums>
  static __device__ __forceinline__ void store_gated(const Args& a, const Part& part, int row, int first, int tokens,
                                                     const float (&sums)[Sums]) {
    if (row >= part.rows) return;
    const float bias[2] = {bias_of(a, part, 0, row), bias_of(a, part, 1, row)};
    const auto token_of = [first](int i) { return first + i / 2 * 8 + lane_index() % 4 * 2 + i % 2; };
    constexpr int kBatch = Sums / 2 % 8 == 0 ? 8 : 2;  // read before the first is written, as in `store`
#pragma unroll
    for (int begin = 0; begin < Sums / 2; begin += kBatch) {
      float factor[kBatch];
      int owner[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; i++) {
        const int token = token_of(begin + i);
        factor[i] = token < tokens ? a.factors[token] : 0;
        owner[i] = token < tokens ? owner_of(a, token) : 0;
      }
#pragma unroll
      for (int i = 0; i < kBatch; i++) {
        if (token_of(begin + i) >= tokens) continue;
        const float* sum = sums + (begin + i) / 2 * 4 + i % 2;
        const float up = fma(sum[2], factor[i], bias[1]);
        line_of(a, part, owner[i])[row] = gated<F>(fma(sum[0], factor[i], bias[0]), up);
      }
    }
  }

  // What a matrix has to add to a row's sums.
  static __device__ __forceinline__ float bias_of(const Args& a, const Part& part, int matrix, int row) {
    return a.bias.add(matrix, kExperts ? part.expert * part.rows + row : row, 0.0f);
  }

 private:
  // tile(rows of a matrix, first place, end) for every tile of this CTA.
  template <class Tile>
  static __device__ __forceinline__ void each_tile(const Args& a, const Tile& tile) {
    if constexpr (kExperts) {
      const int units = a.tiles[0].end * kRowTiles;
      for (int unit = block_index(); unit < units; unit += grid_size()) {
        const ExpertTile of = a.tiles[1 + unit / kRowTiles];
        tile(Part{unit % kRowTiles * kPartRows, 0, 0, 0, of.expert, 0, kGroups, 0}, of.first, of.end);
      }
    } else {
      const int tokens = a.step->rows;
      const int token_tiles = ceil_div(tokens, kBlockTokens);
      const int tiles = kRowTiles * token_tiles;
      const bool split = C.halves && 2 * tiles <= grid_size();
      for (int unit = block_index(); unit < (split ? 2 * tiles : tiles); unit += grid_size()) {
        const int of = split ? unit / 2 : unit;
        const int begin = split && unit % 2 != 0 ? kHalf : 0;
        const int end = split && unit % 2 == 0 ? kHalf : kGroups;
        const Part part{of / token_tiles * kPartRows, 0, 0, 0, 0, begin, end, block_index()};
        tile(part, of % token_tiles * kBlockTokens, tokens);
      }
    }
  }

  // Two neighbours, or one.
  template <bool Pairs>
  static __device__ __forceinline__ float2 read(const float* line, bool both) {
    if constexpr (Pairs) return *reinterpret_cast<const float2*>(line);
    return make_float2(line[0], both ? line[1] : 0);
  }

  // This lane's part of what a warp leaves at a place.
  static constexpr int kSumWarps = kBlockRows / 16;
  template <int Sums>
  static __device__ __forceinline__ float4* words_of(const Args& a, int place) {
    return a.halves + (place * kSumWarps + warp_index()) * (Sums / 4 * kWarp) + lane_index();
  }
  // Whether another warp has said so before this one does; then what it wrote until then is to be seen here.
  static __device__ __forceinline__ bool others_arrived(std::uint32_t* arrived) {
    std::uint32_t before = 0;
    fence_gpu();
    warp_sync();
    if (lane_index() == 0) {
      before = atomic_add(arrived, 1u);
      fence_gpu();
    }
    warp_sync();
    return shuffle(before, 0) != 0;
  }

  // Of a tile's tokens those that there are; the other lines of shared memory are no one's, and nor are their sums.
  template <class Ring>
  static __device__ __forceinline__ void fetch(const std::uint8_t* panels, const Part& part, int first, int tokens,
                                               Ring& ring) {
    const int lines = min(kBlockTokens, round_up(tokens - first, 8));
    for (int panel = Order::kPanels * part.begin; panel < Order::kPanels * part.end; panel++) {
      const std::size_t line = static_cast<std::size_t>(panel) * C.tokens + static_cast<std::size_t>(first);
      ring.fill(panels + line * Order::kLine, lines * Order::kLine);
    }
  }

  // Matrices of one layout share the code.
  template <class Ring, class M, class... Rest>
  static __device__ __forceinline__ void multiply_rows(const Args& a, const Part& part, int first, int tokens, Ring& ring) {
    static_assert(!C.paired || (std::is_same_v<M, Rest> && ...), "paired matrices are alike");
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
    return {part.row, M::kRows, part.column, part.matrix, part.expert, part.begin, part.end, part.place};
  }
  static __device__ __forceinline__ float finish(float value, float old) {
    return leave_product<C.accumulate, C.scale, C.cap>(value, old);
  }
};

}  // namespace imp
