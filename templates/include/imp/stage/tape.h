// The tiles that one CTA needs in a step, in order, through a ring in shared memory: some lanes of one warp fetch, the
// others take. Fetching never stops where one phase of the step ends and the next begins; but only a few tiles are in
// flight at a time, since whatever else the CTA loads would queue behind them.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

template <int Slots, int SlotBytes, int InFlight>
struct Tape {
  static constexpr int kBarriers = Slots * SlotBytes;
  static constexpr int kSharedBytes = kBarriers + 2 * round_up(Slots * 8, 16);
  static_assert(SlotBytes % 16 == 0, "bulk copies move multiples of 16 bytes");
  static_assert(InFlight <= Slots, "tiles in flight lie in the ring");

  // Phases of a slot's barriers are told apart by one bit: nobody may wait for a tile before the one that had its slot a
  // turn earlier has landed. Tiles are fetched in order, at most InFlight before they have landed, and a warp that takes
  // one has taken another at most `lead` tiles before.
  static constexpr bool safe(int lead) { return lead + InFlight <= Slots; }

  std::uint8_t* slots;
  std::uint64_t* full;   // a tile has landed
  std::uint64_t* empty;  // its warp has taken it

  // Every thread of the CTA makes its own; a barrier of the whole CTA must follow.
  __device__ __forceinline__ explicit Tape(std::uint8_t* shared)
      : slots(shared),
        full(reinterpret_cast<std::uint64_t*>(shared + kBarriers)),
        empty(reinterpret_cast<std::uint64_t*>(shared + kBarriers + round_up(Slots * 8, 16))) {
    if (thread_index() != 0) return;
    for (int s = 0; s < Slots; s++) {
      barrier_init(full + s);
      barrier_init(empty + s);
    }
    barrier_init_fence();
  }

  // Whether tile `index` may be fetched: its slot is empty, and not too many are in flight.
  __device__ __forceinline__ bool may_fetch(std::uint32_t index) const {
    if (index >= InFlight && !barrier_done(full + (index - InFlight) % Slots, (index - InFlight) / Slots & 1)) return false;
    return index < Slots || barrier_done(empty + index % Slots, (index / Slots - 1) & 1);
  }
  __device__ __forceinline__ void fetch(std::uint32_t index, const std::uint8_t* tile, int bytes) {
    bulk_load(slot(index), tile, bytes, full + index % Slots);
  }
  __device__ __forceinline__ std::uint8_t* slot(std::uint32_t index) const { return slots + index % Slots * SlotBytes; }
  // The whole warp that tile `index` belongs to.
  __device__ __forceinline__ std::uint8_t* take(std::uint32_t index) {
    bulk_wait(full + index % Slots, static_cast<int>(index / Slots & 1));
    return slot(index);
  }
  __device__ __forceinline__ void release(std::uint32_t index) {
    warp_sync();
    if (lane_index() == 0) barrier_arrive(empty + index % Slots);
  }
};

// A CTA's tiles of one phase: units of `Tiles` tiles each, a round of one unit a warp at a time, and of a round the first
// tiles of all its units, then the second ones. So no warp is ever more than a round ahead of another.
template <int Warps, int Tiles>
struct TapeRounds {
  std::uint32_t first;  // tile
  int units;

  __device__ __forceinline__ int tiles() const { return units * Tiles; }
  __device__ __forceinline__ int width(int round) const {
    const int left = units - round * Warps;
    return left < Warps ? left : Warps;
  }
  // Where tile `k` of unit `unit` comes in the order.
  __device__ __forceinline__ std::uint32_t index(int unit, int k) const {
    const int round = unit / Warps;
    return first + static_cast<std::uint32_t>(round * Warps * Tiles + k * width(round) + unit % Warps);
  }
  // The unit and its tile that come i-th.
  struct Place {
    int unit;
    int k;
  };
  __device__ __forceinline__ Place place(int i) const {
    const int round = i / (Warps * Tiles);
    const int rest = i - round * Warps * Tiles;
    const int across = width(round);
    const int k = Tiles == 1 ? 0 : across == Warps ? rest / Warps : rest / across;
    return {round * Warps + rest - k * across, k};
  }
};

// The same with the first tiles of all units, then the second ones, and so on: each stretch of the vector is done with
// before the next.
template <int Warps, int Tiles>
struct TapeSweeps {
  std::uint32_t first;
  int units;

  // A warp that takes a tile has taken another at most so many tiles before: more than in rounds, from the last unit of
  // one sweep to its first one of the next.
  static constexpr int lead(int units) {
    const int last = (units - 1) % Warps;
    return units <= Warps ? units : last == Warps - 1 ? Warps : Warps + 1 + last;
  }
  __device__ __forceinline__ int tiles() const { return units * Tiles; }
  __device__ __forceinline__ std::uint32_t index(int unit, int k) const {
    return first + static_cast<std::uint32_t>(k * units + unit);
  }
  using Place = typename TapeRounds<Warps, Tiles>::Place;
  __device__ __forceinline__ Place place(int i) const {
    const int k = Tiles == 1 ? 0 : i / units;
    return {i - k * units, k};
  }
};

// One warp's tiles of a unit, one after the other.
template <class T>
struct TapeCursor {
  T& tape;
  std::uint32_t index;
  int stride;
  template <int Warps, int Tiles>
  __device__ __forceinline__ TapeCursor(T& t, const TapeRounds<Warps, Tiles>& rounds, int unit)
      : tape(t), index(rounds.index(unit, 0)), stride(rounds.width(unit / Warps)) {}
  __device__ __forceinline__ std::uint8_t* take() { return tape.take(index); }
  __device__ __forceinline__ void release() {
    tape.release(index);
    index += static_cast<std::uint32_t>(stride);
  }
};

// What a CTA does of a phase: units first, first + grid, ...; the j-th of them belongs to warp (warp + j) % warps.
struct TapeShare {
  int first;
  int units;
  std::uint32_t tile;
  int warp;
};

// Where the step is: those who fetch and those who take count alike. Phases go on where the one before ended, among the
// SMs as among the warps of one, so that remainders do not always fall to the first.
template <int Grid, int Warps>
struct TapeCount {
  std::uint32_t tile = 0;
  int warp = 0;
  int shift = 0;

  template <int Units, int Tiles>
  __device__ __forceinline__ TapeShare next() {
    const int at = block_index() - shift;
    const int first = at < 0 ? at + Grid : at;
    const TapeShare share{first, first < Units ? (Units - first + Grid - 1) / Grid : 0, tile, warp};
    tile += static_cast<std::uint32_t>(share.units * Tiles);
    warp = (warp + share.units) % Warps;
    shift = (shift + Units) % Grid;
    return share;
  }
};

}  // namespace imp
