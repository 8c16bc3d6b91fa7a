// How products by experts find what to multiply. A pair is a row of the step and one of its experts, number row * used + which;
// pairs of one expert lie side by side in panels, each at a place.
#pragma once
#include <cstdint>

namespace imp {

// The places `first`, a multiple of eight, to `end` of one expert. The first of all tiles is none: its `end` counts the others.
struct ExpertTile {
  std::int32_t expert;
  std::int32_t first;
  std::int32_t end;
  std::int32_t unused;
};
inline constexpr int kNoPair = -1;  // at a place between those of two experts, and behind all

}  // namespace imp
