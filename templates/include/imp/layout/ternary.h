// Codes less one times an f16 scale for 256: TQ1_0's and TQ2_0's. `Blocks` of 32 codes say how those lie, all d behind them:
// Loaded, kBytes, load(tile, row, block), their words, and of a dot product of those kFactor times, with codes and a start.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

template <TileShape T, class Blocks>
struct TernaryTile {
  static constexpr TileShape kTile = T;
  static constexpr bool kInteger = true;
  static constexpr int kVector = 32;
  static constexpr int kD = Blocks::kBytes;
  static constexpr int kTileBytes = kD + round_up(T.rows * (T.cols / 256) * 2, 16);
  static_assert(T.cols % 256 == 0, "there are superblocks of 256 weights");
  static_assert(kD % 16 == 0, "sections begin at multiples of 16");

  struct Lane {
    typename Blocks::Loaded block;
    std::uint16_t d;
  };
  struct Input {
    uint4 low;
    uint4 high;
    float d;   // scale / kFactor
    int bias;  // -kFactor times the sum of the activations
  };

  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    const auto* d = reinterpret_cast<const std::uint16_t*>(tile + kD) + row * (T.cols / 256);
    return {Blocks::template load<Memory>(tile, row, vector), d[group_of<8>(vector)]};
  }
  static __device__ __forceinline__ Input input(const Q8Activations& x, int vector) {
    const uint2 scale = x.scales[vector];
    return {x.chunk(vector * 2), x.chunk(vector * 2 + 1), bits_to_float(scale.x) * (1.0f / Blocks::kFactor),
            -Blocks::kFactor * (low_sum(scale.y) + high_sum(scale.y))};
  }
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int, float before) {
    const int sum = Blocks::dot(w.block, in.low, in.high, in.bias);
    return fma(static_cast<float>(sum), half_to_float(w.d) * in.d, before);
  }
  // Half `half` of a block: exact.
  static __device__ __forceinline__ HalfPairs halfs(const Lane (&w)[1], int, int half) {
    const std::uint32_t d = byte_permute(w[0].d, 0, 0x1010);
    return Blocks::words(w[0].block).template halfs<1>(half, [&](std::uint32_t pair) { return half2_multiply(pair, d); });
  }
  static __device__ __forceinline__ float value(const std::uint8_t* tile, int row, int col) {
    const Lane lane = load(tile, row, col / 32);
    return half_to_float(lane.d) * static_cast<float>(Blocks::words(lane.block).code(col % 32) - 1);
  }
};

}  // namespace imp
