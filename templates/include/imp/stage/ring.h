// A warp's own ring of slots in shared memory through which it streams tiles of weights: bulk copies announce themselves
// on a barrier a slot, the whole warp waits for a tile, takes it into registers, and the slot is filled again. Warps that
// share a ring meet once before they take, and before a slot is filled again.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

template <int Rings, int Slots, int SlotBytes, int Sharers = 1>
struct WarpRing {
  static constexpr int kBarriers = Rings * Slots * SlotBytes;
  static constexpr int kSharedBytes = kBarriers + round_up(Rings * Slots * 8, 16);
  static_assert(SlotBytes % 16 == 0, "bulk copies move multiples of 16 bytes");

  std::uint8_t* slots;
  std::uint64_t* barriers;
  int filling = 0;  // slot of the next copy
  int taking = 0;   // slot of the next tile
  int parity = 0;

  __device__ __forceinline__ explicit WarpRing(std::uint8_t* shared)
      : slots(shared + warp_index() / Sharers * Slots * SlotBytes),
        barriers(reinterpret_cast<std::uint64_t*>(shared + kBarriers) + warp_index() / Sharers * Slots) {
    if (issues()) {
      for (int s = 0; s < Slots; s++) barrier_init(barriers + s);
      barrier_init_fence();
    }
    warp_sync();
  }

  // The whole warp calls it; one lane issues. The slot must be free: at first, and after release().
  __device__ __forceinline__ void fill(const std::uint8_t* tile, int bytes) {
    if (issues()) bulk_load(slots + filling * SlotBytes, tile, bytes, barriers + filling);
    filling = filling + 1 == Slots ? 0 : filling + 1;
  }
  __device__ __forceinline__ const std::uint8_t* take() {
    bulk_wait(barriers + taking, parity);
    return slots + taking * SlotBytes;
  }
  // Every lane has taken what it needs, of one warp.
  __device__ __forceinline__ void release() {
    if constexpr (Sharers == 1) warp_sync();
    taking = taking + 1 == Slots ? 0 : taking + 1;
    parity ^= taking == 0 ? 1 : 0;
  }

 private:
  static __device__ __forceinline__ bool issues() { return lane_index() == 0 && warp_index() % Sharers == 0; }
};

}  // namespace imp
