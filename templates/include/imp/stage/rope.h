// Rotary position embedding with an exact angle: the frequency of a pair is a 64-bit fraction of a turn per position,
// so that position * frequency wraps without rounding, at any position.
#pragma once
#include "isa.h"

namespace imp {

struct RopeConfig {
  int head_dim;
  int dim;           // elements of a head that turn, the first ones; 0: none
  bool interleaved;  // pairs (2p, 2p + 1) instead of (p, p + dim / 2)
  float magnitude;   // of cosines and sines: 1 unless long contexts want another (YaRN, longrope)
};

__device__ __forceinline__ float2 rotate_pair(float2 x, float2 angle) {
  return make_float2(fma(x.x, angle.x, -(x.y * angle.y)), fma(x.y, angle.x, x.x * angle.y));
}

// Cosine and sine of a pair that turns, times the magnitude.
__device__ __forceinline__ float2 rope_angle(const std::uint64_t* turns, int pair, int position, float magnitude) {
  const std::uint64_t fraction = turns[pair] * static_cast<std::uint64_t>(position);
  const auto signed_turn = static_cast<std::int32_t>(fraction >> 32);
  float s = 0;
  float c = 0;
  sincospi(static_cast<float>(signed_turn) * 0x1p-31f, s, c);
  if (magnitude != 1) {
    s *= magnitude;
    c *= magnitude;
  }
  return make_float2(c, s);
}

// A head as pairs: those that turn, then neighbours that stay as they are.
template <RopeConfig C>
struct Rope {
  static constexpr int kPairs = C.head_dim / 2;
  static constexpr int kTurned = C.dim / 2;
  static constexpr bool kAllTurn = kTurned == kPairs;
  static constexpr bool kAdjacent = C.interleaved || kTurned == 0;  // all pairs consist of neighbours
  static_assert(C.head_dim % 2 == 0 && C.dim % 2 == 0, "a head consists of pairs");
  static_assert(C.dim <= C.head_dim, "no more turns than the head has");

  static __device__ __forceinline__ bool turns(int pair) { return kAllTurn || pair < kTurned; }
  // Whether the pair consists of neighbours.
  static __device__ __forceinline__ bool adjacent(int pair) { return C.interleaved || !turns(pair); }
  static __device__ __forceinline__ int first(int pair) { return adjacent(pair) ? 2 * pair : pair; }
  static __device__ __forceinline__ int second(int pair) { return adjacent(pair) ? 2 * pair + 1 : pair + kTurned; }

  static __device__ __forceinline__ float2 angle(const std::uint64_t* turns, int pair, int position) {
    return rope_angle(turns, pair, position, C.magnitude);
  }
};

}  // namespace imp
