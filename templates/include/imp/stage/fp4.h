// Activations of four bits: e2m1 codes with an e4m3 scale for each 16, in the order in which FP4 tensor cores take them.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

// x = code * scale * (peak / 2688), peak being the row's largest value: 6 * 448, the largest code times the largest scale. So
// a scale is the block's peak over the row's, times 448, whatever number the row is multiplied with behind.
constexpr float kFp4Peak = 2688.0f;

// Eight tokens' values of a group of 128 columns are 576 bytes: codes, then scales. Two tensor-core steps take the group; the
// s-th has blocks s and s + 2 of its four blocks of 32, as lanes t = 2 p and 2 p + 1 of four have to share what one scale
// holds for: 16 columns, that are eight of each. So a lane's 16 bytes are words 0 and 1 of step 0, then of step 1; word h has
// eight columns of half h of block s + 2 p, the first for even t. Scale 2 h + p of a step is that half's.
struct Fp4Order {
  static constexpr int kGroup = 128;
  static constexpr int kPanels = 1;  // of a group
  static constexpr int kLine = 72;
  static constexpr int kEight = 8 * kLine;
  static constexpr int kScales = 8 * kGroup / 2;  // where they begin

  // Four values from column k on, a multiple of four, of a token; a warp has 128 columns, its lanes four each. Values are at
  // most kFp4Peak.
  static __device__ __forceinline__ void store(std::uint8_t* panels, int tokens, int token, int k, float4 v) {
    const float peak = group_max<4>(max_nan(max_nan(fabsf(v.x), fabsf(v.y)), max_nan(fabsf(v.z), fabsf(v.w))));
    const std::uint32_t scale = float_to_e4m3(peak * (1.0f / 6.0f));
    const float value = half2_to_float2(e4m3x2_to_half2(static_cast<std::uint16_t>(scale))).x;
    const float inverse = value > 0 ? 1.0f / value : 0;
    const std::uint32_t low = floats_to_e2m1x2(v.x * inverse, v.y * inverse);
    const std::uint32_t high = floats_to_e2m1x2(v.z * inverse, v.w * inverse);
    const int block = k % kGroup / 32, step = block % 2, pair = block / 2, half = k % 32 / 16;
    const std::size_t eight = static_cast<std::size_t>(k / kGroup) * static_cast<std::size_t>(tokens / 8) +
                              static_cast<std::size_t>(token / 8);
    std::uint8_t* at = panels + eight * kEight;
    const int lane = token % 8 * 4 + pair * 2 + k % 16 / 8;
    *reinterpret_cast<std::uint16_t*>(at + lane * 16 + step * 8 + half * 4 + k % 8 / 2) =
        static_cast<std::uint16_t>(low | high << 8);
    if (k % 16 == 0) at[kScales + token % 8 * 8 + step * 4 + half * 2 + pair] = static_cast<std::uint8_t>(scale);
  }

  // The lane's right operands of both steps, and the scales of its token, which they take from lanes with t = 0.
  static __device__ __forceinline__ uint4 codes(const std::uint8_t* eight) {
    return *reinterpret_cast<const uint4*>(eight + lane_index() * 16);
  }
  static __device__ __forceinline__ uint2 scales(const std::uint8_t* eight) {
    return *reinterpret_cast<const uint2*>(eight + kScales + lane_index() / 4 * 8);
  }
};

// The packed weights of two rows of a group as left operands in that order; of one matrix, or of two that are alike. `Memory`:
// how they are asked for.
template <class M, class Memory>
struct Fp4Weights {
  using L = typename M::Layout;
  static constexpr int kBlocks = M::kCols / 32;
  static constexpr int kTileBlocks = L::kTile.cols / 32;
  static_assert(L::kTile.cols % 64 == 0, "four scales are read at once");
  static constexpr int kAhead = 2;  // groups on their way: one takes no longer than memory does
  struct Group {
    uint4 codes[2];           // of the lane's block
    std::uint32_t scales[2];  // of two blocks each, of the row whose scales the tensor cores take from this lane
  };
  const std::uint8_t* planes[2];
  int rows[2];
  Group groups[kAhead];

  __device__ __forceinline__ void begin() {
#pragma unroll
    for (int i = 0; i < kAhead; i++) groups[i] = load(i);
  }
  // Past the last group, and in one that is not whole, the last blocks are there again: their activations are zeros.
  __device__ __forceinline__ Group load(int group) const {
    Group found;
    const int block = min(group * 4 + lane_index() % 4, kBlocks - 1);
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const std::uint8_t* tile = M::tile(planes[r], rows[r], block / kTileBlocks);
      found.codes[r] = L::template load<Memory>(tile, rows[r] % L::kTile.rows, block % kTileBlocks).codes;
    }
    const bool other = lane_index() % 2 == 1;
    const std::uint8_t* plane = other ? planes[1] : planes[0];
    const int row = other ? rows[1] : rows[0];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int first = min(group * 4 + 2 * i, kBlocks - 2);
      const std::uint8_t* tile = M::tile(plane, row, first / kTileBlocks);
      found.scales[i] = L::four_scales(tile, row % L::kTile.rows, first % kTileBlocks);
    }
    return found;
  }
  // The fragments and scales of a group's two steps; the groups must be taken one after the other. A lane has two blocks of
  // 16, and keeps half of each; its neighbour has the other halves, and two blocks more.
  __device__ __forceinline__ void take(int group, std::uint32_t (&a)[2][4], std::uint32_t (&of_rows)[2]) {
    const bool odd = lane_index() % 2 == 1;
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const uint4 own = groups[0].codes[r];
      const std::uint32_t low = shuffle_xor(odd ? own.x : own.y, 1), high = shuffle_xor(odd ? own.z : own.w, 1);
      a[0][r] = odd ? low : own.x;
      a[0][2 + r] = odd ? high : own.z;
      a[1][r] = odd ? own.y : low;
      a[1][2 + r] = odd ? own.w : high;
    }
    of_rows[0] = byte_permute(groups[0].scales[0], groups[0].scales[1], 0x5140);
    of_rows[1] = byte_permute(groups[0].scales[0], groups[0].scales[1], 0x7362);
#pragma unroll
    for (int i = 0; i + 1 < kAhead; i++) groups[i] = groups[i + 1];
    groups[kAhead - 1] = load(group + kAhead);
  }
  // What sums of the row are to be multiplied with.
  __device__ __forceinline__ float factor(int r) const {
    return L::factor(M::tile(planes[r], rows[r], 0), rows[r] % L::kTile.rows);
  }
};

}  // namespace imp
