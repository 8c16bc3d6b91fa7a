// What IQ1_S and IQ1_M share: points of eight weights out of 2048, each -1, 0 or 1, and an eighth more or less.
#pragma once
#include "imp/layout/grid.h"

namespace imp {

__device__ const std::uint32_t iq1_points[2048] = {
#include "imp/layout/points_iq1.inc"
};

// In eighths.
using Iq1Points = PointsOf8<-7, 1, 9, 0, -9, -1, 7, 0>;

// Three words' bits: two codes of eleven bits and ten bits of the third; the fourth, and above it the third's last bit.
__device__ __forceinline__ uint4 iq1_points_of(std::uint32_t codes, std::uint32_t rest) {
  return look_up(iq1_points,
                 {codes & 2047u, codes >> 11 & 2047u, codes >> 22 | (rest >> 1 & 1024u), rest & 2047u});
}

}  // namespace imp
