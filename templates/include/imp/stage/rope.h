// Rotary position embedding with an exact angle: the frequency of a pair is a 64-bit fraction of a turn per position,
// so that position * frequency wraps without rounding, at any position.
#pragma once
#include "isa.h"

namespace imp {

struct RopeConfig {
  int head_dim;
  bool interleaved;  // pairs (2p, 2p + 1) instead of (p, p + head_dim / 2)
};

// Cosine and sine.
__device__ __forceinline__ float2 rope_angle(const std::uint64_t* turns, int pair, int position) {
  const std::uint64_t fraction = turns[pair] * static_cast<std::uint64_t>(position);
  const auto signed_turn = static_cast<std::int32_t>(fraction >> 32);
  float s = 0;
  float c = 0;
  sincospi(static_cast<float>(signed_turn) * 0x1p-31f, s, c);
  return make_float2(c, s);
}
__device__ __forceinline__ float2 rotate_pair(float2 x, float2 angle) {
  return make_float2(x.x * angle.x - x.y * angle.y, x.y * angle.x + x.x * angle.y);
}

template <RopeConfig C>
struct Rope {
  static constexpr int kPairs = C.head_dim / 2;
  static_assert(C.head_dim % 2 == 0, "a head consists of pairs");
  static __device__ __forceinline__ int first(int pair) { return C.interleaved ? 2 * pair : pair; }
  static __device__ __forceinline__ int second(int pair) { return C.interleaved ? 2 * pair + 1 : pair + kPairs; }
};

}  // namespace imp
