// Prefill's matrix product with F32, F16 or BF16 weights, as sums of bfloat16 products with fp32 accumulation.
// A weight is split exactly into Layout::kTerms bfloat16 terms and an activation into hi + lo (to 2^-16 of itself);
// the product of lo with a third term, at most 2^-24 of the whole, is left out.
#pragma once
#include "imp/stage/gemm.h"
#include "imp/stage/rows.h"

namespace imp {

template <GemmConfig C, class M>
struct GemmBf16 : GemmTile<C> {
  using Tile = GemmTile<C>;
  using Layout = typename M::Layout;
  using Tile::kBlockRows;
  using Tile::kBlockTokens;
  using Tile::kLineBytes;
  using Tile::kRowTiles;
  using Tile::kThreads;
  static constexpr int kTerms = Layout::kTerms;
  static constexpr int kVector = Layout::kVector;
  static constexpr int kStepCols = kLineBytes / 2;
  static constexpr int kSteps = ceil_div(C.cols, kStepCols);
  static constexpr int kRowVectors = kStepCols / kVector;
  static constexpr int kThreadVectors = kBlockRows * kRowVectors / kThreads;

  static constexpr int kTokenPlane = kBlockTokens * kLineBytes;
  static constexpr int kRowPlane = kBlockRows * kLineBytes;
  static constexpr int kRowsAt = 2 * kTokenPlane;
  static constexpr int kBufferBytes = kRowsAt + kTerms * kRowPlane;
  static constexpr int kSharedBytes = 2 * kBufferBytes;

  static_assert(!Layout::kInteger, "GemmBf16 multiplies float weights; halfs hold the others");
  static_assert(C.rows == M::kRows && C.cols == M::kCols, "the matrix must have the configured shape");
  static_assert(C.cols % 16 == 0, "a tensor-core product takes 16 columns");

  struct Args {
    const std::uint8_t* weights;
    const std::uint16_t* planes;  // bf16 [2: hi, lo][tokens, cols], as EncodeActivations leaves them
    const float* bias;            // [rows] or null
    float* y;
    const StepHeader* step;
  };
  static __device__ __forceinline__ void run(const Args& a) {
    const int tokens = a.step->rows;
    if (Tile::first_token() >= tokens) return;
    std::uint8_t* shared = shared_memory();
    float sums[2][kRowTiles][4] = {};
    uint4 vectors[kThreadVectors];  // as loaded, so that a load has a whole step to arrive before it is used

    copy_tokens(a.planes, 0, shared);
    load_rows(a.weights, 0, vectors);
    store_rows(vectors, shared);
    load_rows(a.weights, 1, vectors);
    cp_async_wait<0>();
    block_sync();
    for (int step = 0; step < kSteps; step++) {
      const std::uint8_t* buffer = shared + step % 2 * kBufferBytes;
      std::uint8_t* next = shared + (step + 1) % 2 * kBufferBytes;
      if (step + 1 < kSteps) {
        copy_tokens(a.planes, step + 1, next);
        store_rows(vectors, next);
        load_rows(a.weights, step + 2, vectors);
      }
      multiply(buffer, step, sums);
      cp_async_wait<0>();
      block_sync();
    }
    Tile::store(a.y, a.bias, tokens, sums);
  }

 private:
  static __device__ __forceinline__ void copy_tokens(const std::uint16_t* planes, int step, std::uint8_t* buffer) {
#pragma unroll
    for (int i = 0; i < 2 * kBlockTokens * 8 / kThreads; i++) {
      const int index = thread_index() + i * kThreads;
      const int plane = index / (kBlockTokens * 8);
      const int token = index / 8 % kBlockTokens;
      const int chunk = index % 8;
      const int col = step * kStepCols + chunk * 8;
      const std::size_t line = static_cast<std::size_t>(plane * C.tokens + Tile::first_token() + token);
      if (C.cols % kStepCols == 0 || col < C.cols) {
        cp_async16(buffer + plane * kTokenPlane + Tile::at(token, chunk), planes + line * C.cols + col);
      }
    }
    cp_async_commit();
  }

  // Rows and columns past the end repeat the last ones; nothing of them is used.
  static __device__ __forceinline__ void load_rows(const std::uint8_t* weights, int step,
                                                   uint4 (&vectors)[kThreadVectors]) {
#pragma unroll
    for (int i = 0; i < kThreadVectors; i++) {
      const int index = thread_index() + i * kThreads;
      const int row = min(Tile::first_row() + index / kRowVectors, C.rows - 1);
      const int col = min(step * kStepCols + index % kRowVectors * kVector, C.cols - kVector);
      const std::uint8_t* tile = M::tile(weights, row, col / Layout::kTile.cols);
      vectors[i] =
          *reinterpret_cast<const uint4*>(Layout::at(tile, row % Layout::kTile.rows, col % Layout::kTile.cols));
    }
  }

  static __device__ __forceinline__ void store_rows(const uint4 (&vectors)[kThreadVectors], std::uint8_t* buffer) {
#pragma unroll
    for (int i = 0; i < kThreadVectors; i++) {
      const int index = thread_index() + i * kThreads;
      const int row = index / kRowVectors;
      const int byte = index % kRowVectors * kVector * 2;
      float w[kVector];
      Layout::unpack(vectors[i], w);
#pragma unroll
      for (int term = 0; term < kTerms; term++) {
        std::uint32_t words[kVector / 2];
#pragma unroll
        for (int j = 0; j < kVector / 2; j++) {
          words[j] = floats_to_bfloat2(w[2 * j], w[2 * j + 1]);
          w[2 * j] -= bits_to_float(words[j] << 16);
          w[2 * j + 1] -= bits_to_float(words[j] & 0xffff0000u);
        }
        std::uint8_t* out = buffer + kRowsAt + term * kRowPlane + Tile::at(row, byte / 16) + byte % 16;
        if constexpr (kVector == 8) {
          *reinterpret_cast<uint4*>(out) = make_uint4(words[0], words[1], words[2], words[3]);
        } else {
          *reinterpret_cast<uint2*>(out) = make_uint2(words[0], words[1]);
        }
      }
    }
  }

  static __device__ __forceinline__ void multiply(const std::uint8_t* buffer, int step,
                                                  float (&sums)[2][kRowTiles][4]) {
#pragma unroll
    for (int k = 0; k < kStepCols / 16; k++) {
      if (C.cols % kStepCols != 0 && step * kStepCols + k * 16 >= C.cols) continue;
      std::uint32_t high[2][4];
      std::uint32_t low[2][4];
      Tile::load_tokens(buffer, 2 * k, high);
      Tile::load_tokens(buffer + kTokenPlane, 2 * k, low);
#pragma unroll
      for (int term = kTerms - 1; term >= 0; term--) {
        std::uint32_t b[kRowTiles][2];
        Tile::load_rows(buffer + kRowsAt + term * kRowPlane, 2 * k, b);
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
          for (int j = 0; j < kRowTiles; j++) {
            if (term < 2) mma_bf16_k16(sums[i][j], low[i], b[j]);
            mma_bf16_k16(sums[i][j], high[i], b[j]);
          }
        }
      }
    }
  }
};

}  // namespace imp
