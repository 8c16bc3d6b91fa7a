// Prefill's matrix product by warps, of halfs: see gemm_panels.h.
//
// Where sums are halfs, which cards with slow float sums take twice as fast, a panel's 64 columns are added up in halfs, by
// four tensor-core steps, and the panels in float32. A row's values are then encoded so small that such a sum stays finite.
#pragma once
#include "imp/stage/gemm_warps.h"

namespace imp {

// `F`: what gates go through, if the matrices are paired.
template <MmaConfig C, class F, class... Ms>
struct GemmMma : GemmWarps<GemmMma<C, F, Ms...>, PanelOrder, C, Ms...> {
  using Base = GemmWarps<GemmMma<C, F, Ms...>, PanelOrder, C, Ms...>;
  using typename Base::Args;
  using typename Base::Part;
  using Base::kGroups;
  using Base::kColumns;
  using Base::kTokens;
  using typename Base::Ring;

  // A tile's rows of a matrix times the tokens `first` on. Of the 16 rows of a tensor-core tile, row 2 g is where the first
  // eight are, row 2 g + 1 where the others are, so that a lane's sums are neighbours in y. Of paired matrices it has eight rows
  // each: row g of the first, and of the second where the others are.
  template <class M>
  static __device__ __forceinline__ void multiply(const Args& a, const Part& part, int first, int tokens, Ring& ring) {
    using Weights = WeightFragments<M, typename Base::Memory>;
    constexpr int kRows = C.paired ? 8 : 16;  // of a matrix
    const int own = warp_index() / C.token_warps * C.row_tiles * kRows + lane_index() / 4 * (kRows / 8);
    const int token = warp_index() % C.token_warps * kTokens;
    const std::uint8_t* plane = Base::template plane<M>(a, part, part.matrix);
    const std::uint8_t* other = C.paired ? Base::template plane<M>(a, part, 1) : plane;
    Weights weights[C.row_tiles];
#pragma unroll
    for (int r = 0; r < C.row_tiles; r++) {
      const int row = part.row + own + r * kRows;
      weights[r] = {{plane, other}, {min(row, part.rows - 1), min(row + !C.paired, part.rows - 1)}, {}};
      weights[r].load(0, 0);
      if constexpr (Weights::kLanes > 1) weights[r].load(0, 1);
    }
    grid_wait();  // the first tile's weights are on their way, which no kernel writes
    float sums[C.row_tiles][kColumns][4] = {};
#pragma unroll 1
    for (int group = 0; group < kGroups; group++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        std::uint32_t fragments[C.row_tiles][4][4];
#pragma unroll
        for (int r = 0; r < C.row_tiles; r++) {
          weights[r].unpack(group, half, fragments[r]);
          if (Weights::kLanes > 1 || half == 1) weights[r].load(group + 1, half);
        }
        multiply_panel(ring.take() + token * PanelOrder::kLine, fragments, sums);
        warp_sync();
        ring.template release<0>();
      }
    }
#pragma unroll
    for (int r = 0; r < C.row_tiles; r++) {
      const auto& own_sums = reinterpret_cast<const float(&)[kColumns * 4]>(sums[r]);
      if constexpr (C.paired) {
        Base::template store_gated<F>(a, part, part.row + own + r * kRows, first + token, tokens, own_sums);
      } else {
        Base::store(a, part, part.row + own + r * kRows, first + token, tokens, own_sums);
      }
    }
  }

 private:
  // The B fragments of a panel's four steps for eight tokens.
  struct Tokens {
    std::uint32_t steps[4][2];
    __device__ __forceinline__ void load(const std::uint8_t* lines) {
      const int line = lane_index() % 8;
      const int at = line * PanelOrder::kLine + (lane_index() / 8 ^ line) * 16;
#pragma unroll
      for (int i = 0; i < 2; i++) {
        ldmatrix_x4(reinterpret_cast<std::uint32_t(&)[4]>(steps[2 * i]), lines + (at ^ i * 64));
      }
    }
  };

  static __device__ __forceinline__ void multiply_panel(const std::uint8_t* panel,
                                                        const std::uint32_t (&fragments)[C.row_tiles][4][4],
                                                        float (&sums)[C.row_tiles][kColumns][4]) {
    constexpr int kTogether = kColumns % 2 == 0 ? 2 : 1;  // so that few sums wait for one another
    Tokens next[kTogether];
#pragma unroll
    for (int j = 0; j < kTogether; j++) next[j].load(panel + j * 8 * PanelOrder::kLine);
#pragma unroll
    for (int column = 0; column < kColumns; column += kTogether) {
      Tokens now[kTogether];
#pragma unroll
      for (int j = 0; j < kTogether; j++) now[j] = next[j];
      if (column + kTogether < kColumns) {
#pragma unroll
        for (int j = 0; j < kTogether; j++) next[j].load(panel + (column + kTogether + j) * 8 * PanelOrder::kLine);
      }
      if constexpr (C.half_sums) {
        std::uint32_t parts[C.row_tiles][kTogether][2] = {};
#pragma unroll
        for (int k = 0; k < 4; k++) {
#pragma unroll
          for (int r = 0; r < C.row_tiles; r++) {
#pragma unroll
            for (int j = 0; j < kTogether; j++) mma_f16_k16(parts[r][j], fragments[r][k], now[j].steps[k]);
          }
        }
#pragma unroll
        for (int r = 0; r < C.row_tiles; r++) {
#pragma unroll
          for (int j = 0; j < kTogether; j++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
              const float2 part = half2_to_float2(parts[r][j][half]);
              sums[r][column + j][2 * half] += part.x;
              sums[r][column + j][2 * half + 1] += part.y;
            }
          }
        }
      } else {
#pragma unroll
        for (int k = 0; k < 4; k++) {
#pragma unroll
          for (int r = 0; r < C.row_tiles; r++) {
#pragma unroll
            for (int j = 0; j < kTogether; j++) mma_f16_k16(sums[r][column + j], fragments[r][k], now[j].steps[k]);
          }
        }
      }
    }
  }
};

}  // namespace imp
