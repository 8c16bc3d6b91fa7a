// Prefill's matrix product with integer weights: int8 activations, exact int32 sums per scale group, fp32 over groups.
#pragma once
#include "imp/stage/gemm.h"
#include "imp/stage/rows.h"

namespace imp {

template <GemmConfig C, class M>
struct GemmQ8 : GemmTile<C> {
  using Tile = GemmTile<C>;
  using Layout = typename M::Layout;
  using Tile::kBlockRows;
  using Tile::kBlockTokens;
  using Tile::kLineBytes;
  using Tile::kRowTiles;
  using Tile::kThreads;
  static constexpr int kStepBlocks = kLineBytes / 32;
  static constexpr int kBlocks = C.cols / 32;
  static constexpr int kScales = round_up(kBlocks, 2);  // of a token
  static constexpr int kSteps = ceil_div(kBlocks, kStepBlocks);
  static constexpr int kLanes = 32 / Layout::kVector;  // loads of one block
  using Lanes = typename Layout::Lane[kLanes];
  static constexpr int kGroups = 32 / Layout::kScaleGroup;  // scales of a block of weights
  static constexpr int kTokenScales = kStepBlocks + 2;      // uint2 of a token, padded against bank conflicts
  static constexpr int kRowScales = kBlockRows + 8;         // floats of a block, likewise

  // Shared memory: two buffers, each with one step of both operands.
  static constexpr int kTokenCodes = 0;
  static constexpr int kRowCodes = kTokenCodes + kBlockTokens * kLineBytes;
  static constexpr int kTokenScaleAt = kRowCodes + kBlockRows * kLineBytes;
  static constexpr int kRowScaleAt = kTokenScaleAt + kBlockTokens * kTokenScales * 8;
  static constexpr int kOffsetAt = kRowScaleAt + kGroups * kStepBlocks * kRowScales * 4;
  static constexpr int kBufferBytes = kOffsetAt + (Layout::kOffset ? kStepBlocks * kRowScales * 4 : 0);
  static constexpr int kSharedBytes = 2 * kBufferBytes;

  static_assert(Layout::kInteger, "GemmQ8 multiplies integer weights; GemmBf16 takes the others");
  static_assert(C.rows == M::kRows && C.cols == M::kCols, "the matrix must have the configured shape");
  static_assert(C.cols % 32 == 0, "activations come in blocks of 32");
  static_assert(kThreads == kBlockRows * kStepBlocks, "each thread unpacks one block of a step");

  struct Args {
    const std::uint8_t* weights;
    const std::uint8_t* codes;  // int8 [tokens, cols], as EncodeActivations leaves them; scales too
    const uint2* scales;        // [tokens, cols / 32, rounded up to even]
    const float* bias;          // [rows] or null
    float* y;
    const StepHeader* step;
  };
  static __device__ __forceinline__ void run(const Args& a) {
    const int tokens = a.step->rows;
    if (Tile::first_token() >= tokens) return;
    std::uint8_t* shared = shared_memory();
    float sums[2][kRowTiles][4] = {};

    Lanes lanes;  // packed, so that a load has a whole step to arrive before it is used
    copy_tokens(a.codes, a.scales, 0, shared);
    load_rows(a.weights, 0, lanes);
    store_rows(lanes, 0, shared);
    load_rows(a.weights, 1, lanes);
    cp_async_wait<0>();
    block_sync();
    for (int step = 0; step < kSteps; step++) {
      const std::uint8_t* buffer = shared + step % 2 * kBufferBytes;
      std::uint8_t* next = shared + (step + 1) % 2 * kBufferBytes;
      if (step + 1 < kSteps) {
        copy_tokens(a.codes, a.scales, step + 1, next);
        store_rows(lanes, step + 1, next);
        load_rows(a.weights, step + 2, lanes);
      }
      multiply(buffer, step, sums);
      cp_async_wait<0>();
      block_sync();
    }
    Tile::store(a.y, a.bias, tokens, sums);
  }

 private:
  static __device__ __forceinline__ bool inside(int step, int block) {
    return kBlocks % kStepBlocks == 0 || step * kStepBlocks + block < kBlocks;
  }

  static __device__ __forceinline__ void copy_tokens(const std::uint8_t* codes, const uint2* scales, int step,
                                                     std::uint8_t* buffer) {
#pragma unroll
    for (int i = 0; i < kBlockTokens * 8 / kThreads; i++) {
      const int token = (thread_index() + i * kThreads) / 8;
      const int chunk = thread_index() % 8;
      const std::size_t line = static_cast<std::size_t>(Tile::first_token() + token);
      if (inside(step, chunk / 2)) {
        cp_async16(buffer + kTokenCodes + Tile::at(token, chunk),
                   codes + line * C.cols + step * kLineBytes + chunk * 16);
      }
    }
    const int token = thread_index() / 2;
    const int block = thread_index() % 2 * 2;
    if (token < kBlockTokens && inside(step, block)) {
      const std::size_t line = static_cast<std::size_t>(Tile::first_token() + token);
      cp_async16(buffer + kTokenScaleAt + (token * kTokenScales + block) * 8,
                 scales + line * kScales + step * kStepBlocks + block);
    }
    cp_async_commit();
  }

  // Rows and blocks past the end repeat the last one; nothing of them is used.
  static __device__ __forceinline__ void load_rows(const std::uint8_t* weights, int step, Lanes& lanes) {
    constexpr int kTileBlocks = Layout::kTile.cols / 32;
    const int row = min(Tile::first_row() + thread_index() / kStepBlocks, C.rows - 1);
    const int block = min(step * kStepBlocks + thread_index() % kStepBlocks, kBlocks - 1);
    const std::uint8_t* tile = M::tile(weights, row, block / kTileBlocks);
#pragma unroll
    for (int i = 0; i < kLanes; i++) {
      lanes[i] = Layout::load(tile, row % Layout::kTile.rows, block % kTileBlocks * kLanes + i);
    }
  }

  static __device__ __forceinline__ void store_rows(const Lanes& lanes, int step, std::uint8_t* buffer) {
    const int row = thread_index() / kStepBlocks;
    const int block = thread_index() % kStepBlocks;
    const WeightBlock w = Layout::unpack(lanes, step * kStepBlocks + block);
    std::uint8_t* lines = buffer + kRowCodes;
    *reinterpret_cast<uint4*>(lines + Tile::at(row, 2 * block)) = make_uint4(w.q[0], w.q[1], w.q[2], w.q[3]);
    *reinterpret_cast<uint4*>(lines + Tile::at(row, 2 * block + 1)) = make_uint4(w.q[4], w.q[5], w.q[6], w.q[7]);
    auto* scale = reinterpret_cast<float*>(buffer + kRowScaleAt);
#pragma unroll
    for (int group = 0; group < kGroups; group++) {
      scale[(group * kStepBlocks + block) * kRowScales + row] = w.scale[group];
    }
    if constexpr (Layout::kOffset) {
      reinterpret_cast<float*>(buffer + kOffsetAt)[block * kRowScales + row] = w.offset;
    }
  }

  // Sums start at the bits of 1.5 * 2^23: read as a float they are that number plus the sum, exact up to 2^22.
  static constexpr int kFloatBias = 0x4b400000;
  static __device__ __forceinline__ float to_float(int sum) {
    return bits_to_float(static_cast<std::uint32_t>(sum)) - 12582912.0f;
  }

  static __device__ __forceinline__ void multiply(const std::uint8_t* buffer, int step,
                                                  float (&sums)[2][kRowTiles][4]) {
    const int group_lane = lane_index() / 4;
    const int column = Tile::warp_row() + lane_index() % 4 * 2;
    const auto* token_scales = reinterpret_cast<const uint2*>(buffer + kTokenScaleAt);
    const auto* row_scales = reinterpret_cast<const float*>(buffer + kRowScaleAt);
    const auto* offsets = reinterpret_cast<const float*>(buffer + kOffsetAt);
#pragma unroll
    for (int block = 0; block < kStepBlocks; block++) {
      if (!inside(step, block)) continue;
      std::uint32_t a[2][4];
      std::uint32_t b[kRowTiles][2];
      Tile::load_tokens(buffer + kTokenCodes, 2 * block, a);
      Tile::load_rows(buffer + kRowCodes, 2 * block, b);
      float scale[2][2];
      float total[2][2];  // scale times the sum of the 32 activation codes
#pragma unroll
      for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const uint2 s = token_scales[(Tile::warp_token() + i * 16 + half * 8 + group_lane) * kTokenScales + block];
          scale[i][half] = bits_to_float(s.x);
          total[i][half] = scale[i][half] * static_cast<float>(low_sum(s.y) + high_sum(s.y));
        }
      }
#pragma unroll
      for (int j = 0; j < kRowTiles; j++) {
#pragma unroll
        for (int group = 0; group < kGroups; group++) {
          const float2 d = *reinterpret_cast<const float2*>(
              row_scales + (group * kStepBlocks + block) * kRowScales + column + j * 8);
#pragma unroll
          for (int i = 0; i < 2; i++) {
            int part[4] = {kFloatBias, kFloatBias, kFloatBias, kFloatBias};
            if constexpr (kGroups == 1) {
              mma_s8_k32(part, a[i], b[j]);
            } else {
              const std::uint32_t a_half[2] = {a[i][2 * group], a[i][2 * group + 1]};
              const std::uint32_t b_half[1] = {b[j][group]};
              mma_s8_k16(part, a_half, b_half);
            }
#pragma unroll
            for (int e = 0; e < 4; e++) {
              sums[i][j][e] = fma(to_float(part[e]), scale[i][e / 2] * (e % 2 == 0 ? d.x : d.y), sums[i][j][e]);
            }
          }
        }
        if constexpr (Layout::kOffset) {
          const float2 offset = *reinterpret_cast<const float2*>(offsets + block * kRowScales + column + j * 8);
#pragma unroll
          for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
              sums[i][j][e] = fma(-(e % 2 == 0 ? offset.x : offset.y), total[i][e / 2], sums[i][j][e]);
            }
          }
        }
      }
    }
  }
};

}  // namespace imp
