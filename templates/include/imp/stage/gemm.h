// What the matrix products of prefill share: y[tokens, stride] columns offset .. offset + rows - 1 = x W^T.
// A CTA makes 64 tokens x 64 rows with eight warps of 32 tokens x 16 rows, or, where a chunk is not a multiple of 64
// tokens, 32 x 64 with warps of 32 x 8. Each output is one fp32 sum in ascending k, whatever else is in the chunk.
#pragma once
#include "imp/layout/tile.h"
#include "imp/stage/elementwise.h"

namespace imp {

struct GemmConfig {
  int rows;    // of the weight matrix: output columns
  int cols;    // K
  int tokens;  // of a full chunk
  int stride;  // floats from one token of y to the next
  int offset;  // y's first column
  bool accumulate;  // y += (the residual stream) instead of y =
  bool bias;
  float scale = 1.0f;  // of the sums, their bias included
  float cap = 0.0f;    // soft cap; 0: none
};

template <GemmConfig C>
struct GemmTile {
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kBlockTokens = C.tokens % 64 == 0 ? 64 : 32;
  static constexpr int kBlockRows = 64;
  static constexpr int kGridX = ceil_div(C.tokens, kBlockTokens);
  static constexpr int kGridY = ceil_div(C.rows, kBlockRows);
  static constexpr int kGridZ = 1;
  static constexpr int kTokenWarps = kBlockTokens / 32;
  static constexpr int kWarpRows = kBlockRows * kTokenWarps / kWarps;
  static constexpr int kRowTiles = kWarpRows / 8;
  static constexpr int kLineBytes = 128;  // of one token or row of a step, in eight chunks of 16
  static_assert(C.tokens > 0 && C.tokens % 32 == 0, "a chunk consists of 32-token tiles");
  static_assert(C.offset >= 0 && C.offset + C.rows <= C.stride, "the output columns must lie within a token's stride");

  static __device__ __forceinline__ int first_token() { return block_index() * kBlockTokens; }
  static __device__ __forceinline__ int first_row() { return block_index_y() * kBlockRows; }
  static __device__ __forceinline__ int warp_token() { return warp_index() % kTokenWarps * 32; }
  static __device__ __forceinline__ int warp_row() { return warp_index() / kTokenWarps * kWarpRows; }

  // Lines of 128 bytes: chunks change places by line, so that eight lines' chunks of one column hit all banks.
  static __device__ __forceinline__ int at(int line, int chunk) {
    return line * kLineBytes + (chunk ^ (line & 7)) * 16;
  }

  // A fragments of the warp's 32 tokens: two chunks from the even `chunk` on. (Flipping its bits in a lane's place for
  // chunks 0 and 1 costs one instruction.)
  static __device__ __forceinline__ void load_tokens(const std::uint8_t* lines, int chunk, std::uint32_t (&a)[2][4]) {
    const std::uint8_t* from = lines + (at(warp_token() + lane_index() % 16, lane_index() / 16) ^ (chunk * 16));
#pragma unroll
    for (int i = 0; i < 2; i++) ldmatrix_x4(a[i], from + i * 16 * kLineBytes);
  }
  // B fragments of the warp's rows.
  static __device__ __forceinline__ void load_rows(const std::uint8_t* lines, int chunk,
                                                   std::uint32_t (&b)[kRowTiles][2]) {
    const std::uint8_t* from = lines + (at(warp_row() + lane_index() % 8, lane_index() / 8 % 2) ^ (chunk * 16));
#pragma unroll
    for (int j = 0; j < kRowTiles; j++) ldmatrix_x2(b[j], from + j * 8 * kLineBytes);
  }

  // Tokens from `tokens` on are not written.
  static __device__ __forceinline__ void store(float* y, const float* bias, int tokens,
                                               const float (&sums)[2][kRowTiles][4]) {
    constexpr bool kPairs = C.rows % 2 == 0 && C.stride % 2 == 0 && C.offset % 2 == 0;
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int token = first_token() + warp_token() + i * 16 + half * 8 + lane_index() / 4;
        if (token >= tokens) continue;
        float* line = y + static_cast<std::size_t>(token) * C.stride + C.offset;
#pragma unroll
        for (int j = 0; j < kRowTiles; j++) {
          const int row = first_row() + warp_row() + j * 8 + lane_index() % 4 * 2;
          if (row >= C.rows) continue;
          const float2 value = make_float2(sums[i][j][half * 2], sums[i][j][half * 2 + 1]);
          if constexpr (kPairs) {
            auto* out = reinterpret_cast<float2*>(line + row);
            const float2 add = C.bias ? *reinterpret_cast<const float2*>(bias + row) : make_float2(0, 0);
            const float2 old = C.accumulate ? *out : make_float2(0, 0);
            *out = make_float2(finish(value.x, add.x, old.x), finish(value.y, add.y, old.y));
          } else {
            store_one(line, bias, row, value.x);
            if (row + 1 < C.rows) store_one(line, bias, row + 1, value.y);
          }
        }
      }
    }
  }

 private:
  static __device__ __forceinline__ void store_one(float* line, const float* bias, int row, float value) {
    line[row] = finish(value, C.bias ? bias[row] : 0, C.accumulate ? line[row] : 0);
  }
  // What becomes of a sum.
  static __device__ __forceinline__ float finish(float value, float bias, float old) {
    if constexpr (C.bias) value += bias;
    return leave_product<C.accumulate, C.scale, C.cap>(value, old);
  }
};

}  // namespace imp
