// The barrier of those who compute: all threads of the CTA, or its first warps only.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

struct WholeCta {
  static __device__ __forceinline__ void sync() { block_sync(); }
};
template <int Warps>
struct FirstWarps {
  static __device__ __forceinline__ void sync() { named_sync(1, Warps * kWarp); }
};

}  // namespace imp
