// The order in which activations lie for products of warpgroups: panels of 64 columns, a line of 128 bytes a token.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

// Two panels hold a group of 128 columns, four blocks of 32. A step of a product takes 16 columns, in which lane t of four
// has 2 t, 2 t + 1, 2 t + 8 and 2 t + 9: there lie values 4 i, 4 i + 2, 4 i + 1 and 4 i + 3 of block t for the group's i-th
// step, which is where HalfPairs has the weights. So lane t needs weights of block t only. 16-byte chunks of a line change
// places by the token, as the tensor cores' 128-byte swizzle wants it.
struct PanelOrder {
  static constexpr int kGroup = 128;
  static constexpr int kPanels = 2;  // of a group
  static constexpr int kLine = 128;

  // Bytes of a chunk's panels.
  static constexpr std::size_t bytes(int tokens, int cols) {
    return static_cast<std::size_t>(ceil_div(cols, kGroup)) * 2 * static_cast<std::size_t>(tokens) * kLine;
  }

  // Four values from column k on, a multiple of four, of a token.
  static __device__ __forceinline__ void store(std::uint8_t* panels, int tokens, int token, int k, float4 v) {
    const int step = k % 32 / 4;
    const int panel = k / kGroup * 2 + step / 4;
    std::uint8_t* line = panels + (static_cast<std::size_t>(panel) * static_cast<std::size_t>(tokens) +
                                   static_cast<std::size_t>(token)) * kLine;
    const int chunk = step % 4 * 2 ^ (token & 7);
    const int at = k % kGroup / 32 * 4;
    *reinterpret_cast<std::uint32_t*>(line + chunk * 16 + at) = floats_to_half2(v.x, v.z);
    *reinterpret_cast<std::uint32_t*>(line + (chunk ^ 1) * 16 + at) = floats_to_half2(v.y, v.w);
  }
  // One of them.
  static __device__ __forceinline__ void store(std::uint8_t* panels, int tokens, int token, int k, float v) {
    const int step = k % 32 / 4;
    const int panel = k / kGroup * 2 + step / 4;
    std::uint8_t* line = panels + (static_cast<std::size_t>(panel) * static_cast<std::size_t>(tokens) +
                                   static_cast<std::size_t>(token)) * kLine;
    const int chunk = (step % 4 * 2 ^ (token & 7)) ^ k % 2;
    *reinterpret_cast<std::uint16_t*>(line + chunk * 16 + k % kGroup / 32 * 4 + k % 4 / 2 * 2) =
        static_cast<std::uint16_t>(floats_to_half2(v, v));
  }
};

}  // namespace imp
