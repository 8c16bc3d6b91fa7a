// Prefill's matrix product by warps with weights and activations of four bits (W4A4): see gemm_panels.h and fp4.h. Sums are
// float32, scales of both are the tensor cores' business; what is left are the factors of rows and of tokens.
#pragma once
#include "imp/stage/fp4.h"
#include "imp/stage/gemm_warps.h"

namespace imp {

// `F`: what gates go through, if the matrices are paired.
template <MmaConfig C, class F, class... Ms>
struct GemmFp4 : GemmWarps<GemmFp4<C, F, Ms...>, Fp4Order, C, Ms...> {
  using Base = GemmWarps<GemmFp4<C, F, Ms...>, Fp4Order, C, Ms...>;
  using typename Base::Args;
  using typename Base::Part;
  using Base::kColumns;
  using Base::kGroups;
  using Base::kTokens;
  using typename Base::Ring;
  static_assert(!C.half_sums, "the tensor cores' sums are floats");

  // A tile's rows of a matrix times the tokens `first` on; which rows a lane has is as in GemmMma.
  template <class M>
  static __device__ __forceinline__ void multiply(const Args& a, const Part& part, int first, int tokens, Ring& ring) {
    using Weights = Fp4Weights<M, typename Base::Memory>;
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
      weights[r].begin();
    }
    grid_wait();  // the first tile's weights are on their way, which no kernel writes
    float sums[C.row_tiles][kColumns][4] = {};
#pragma unroll 1
    for (int group = 0; group < kGroups; group++) {
      std::uint32_t fragments[C.row_tiles][2][4], scales[C.row_tiles][2];
#pragma unroll
      for (int r = 0; r < C.row_tiles; r++) weights[r].take(group, fragments[r], scales[r]);
      const std::uint8_t* panel = ring.take() + token * Fp4Order::kLine;
#pragma unroll
      for (int column = 0; column < kColumns; column++) {
        const uint4 codes = Fp4Order::codes(panel + column * Fp4Order::kEight);
        const uint2 of_token = Fp4Order::scales(panel + column * Fp4Order::kEight);
        const std::uint32_t right[2][2] = {{codes.x, codes.y}, {codes.z, codes.w}};
#pragma unroll
        for (int step = 0; step < 2; step++) {
#pragma unroll
          for (int r = 0; r < C.row_tiles; r++) {
            mma_nvfp4_k64(sums[r][column], fragments[r][step], right[step], scales[r][step],
                          step == 0 ? of_token.x : of_token.y);
          }
        }
      }
      warp_sync();
      ring.template release<0>();
    }
#pragma unroll
    for (int r = 0; r < C.row_tiles; r++) {
      const float factors[2] = {weights[r].factor(0), weights[r].factor(1)};
#pragma unroll
      for (int column = 0; column < kColumns; column++) {
#pragma unroll
        for (int i = 0; i < 4; i++) sums[r][column][i] *= factors[i / 2];
      }
      const auto& own_sums = reinterpret_cast<const float(&)[kColumns * 4]>(sums[r]);
      if constexpr (C.paired) {
        Base::template store_gated<F>(a, part, part.row + own + r * kRows, first + token, tokens, own_sums);
      } else {
        Base::store(a, part, part.row + own + r * kRows, first + token, tokens, own_sums);
      }
    }
  }
};

}  // namespace imp
