// The places of a step's pairs (expert_tile.h), expert after expert and in each in ascending order, so that no bit of what
// becomes of them depends on when who ran. One CTA counts, adds up and writes.
#pragma once
#include "imp/stage/expert_tile.h"
#include "imp/stage/rows.h"

namespace imp {

struct PlacesConfig {
  int rows;        // of the step, at most
  int experts;
  int used;        // by a row
  int places;      // that there may be
  int tile_pairs;  // of a tile, at most
};

template <PlacesConfig C>
struct ExpertPlaces {
  static constexpr int kThreads = 1024;
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kRounds = ceil_div(C.rows * C.used, kThreads);  // of pairs, a lane one
  static constexpr int kBefore = kWarps * C.experts;  // numbers ahead of the following: of each warp and expert, pairs of others
  static constexpr int kCounts = round_up(kBefore * 2, 16);
  static constexpr int kPlaces = kCounts + C.experts * 4;       // where each expert's pairs begin, and the end
  static constexpr int kTiles = kPlaces + (C.experts + 1) * 4;  // and its tiles
  static constexpr int kSharedBytes = round_up(kTiles + (C.experts + 1) * 4, 16);
  static_assert(C.rows * C.used <= 65535, "a number of pairs has 16 bits");
  static_assert(C.places % 8 == 0 && C.tile_pairs % 8 == 0, "a panel's swizzle repeats after eight lines");

  struct Args {
    const float* route;  // [rows][2 used]: the numbers of a row's experts, and behind them their shares
    ExpertTile* tiles;
    std::int32_t* pairs;  // [places]
    const StepHeader* step;
  };

  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    auto* const before = reinterpret_cast<std::uint16_t*>(shared_memory());
    auto* const counts = reinterpret_cast<std::int32_t*>(shared_memory() + kCounts);
    auto* const places = reinterpret_cast<std::int32_t*>(shared_memory() + kPlaces);
    auto* const tiles = reinterpret_cast<std::int32_t*>(shared_memory() + kTiles);
    for (int i = thread_index(); i < kBefore; i += kThreads) before[i] = 0;
    block_sync();
    grid_wait();
    const int pairs = a.step->rows * C.used;
    int experts[kRounds];  // of the pairs that this lane has
    int ranks[kRounds];    // of them among the warp's of the same expert
#pragma unroll
    for (int r = 0; r < kRounds; r++) {
      const int pair = pair_of(r);
      experts[r] = pair < pairs ? static_cast<int>(a.route[pair / C.used * 2 * C.used + pair % C.used]) : -1;
    }
#pragma unroll
    for (int r = 0; r < kRounds; r++) {
      const std::uint32_t same = same_as(experts[r]);
      const int earlier = bits_in(same & ((1u << lane_index()) - 1));
      std::uint16_t* count = before + warp_index() * C.experts + max(experts[r], 0);
      ranks[r] = *count + earlier;
      warp_sync();
      if (experts[r] >= 0 && earlier == 0) *count = static_cast<std::uint16_t>(ranks[r] + bits_in(same));
      warp_sync();
    }
    block_sync();
    for (int expert = thread_index(); expert < C.experts; expert += kThreads) {
      int sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; w++) {
        const int own = before[w * C.experts + expert];
        before[w * C.experts + expert] = static_cast<std::uint16_t>(sum);
        sum += own;
      }
      counts[expert] = sum;
    }
    block_sync();
    if (warp_index() == 0) add_up(counts, places, tiles);
    block_sync();
#pragma unroll
    for (int r = 0; r < kRounds; r++) {
      if (experts[r] < 0) continue;
      a.pairs[places[experts[r]] + before[warp_index() * C.experts + experts[r]] + ranks[r]] = pair_of(r);
    }
    for (int expert = thread_index(); expert < C.experts; expert += kThreads) {
      const int first = places[expert];
      const int end = first + counts[expert];
      for (int i = end; i < places[expert + 1]; i++) a.pairs[i] = kNoPair;
      for (int i = 0; i < tiles[expert + 1] - tiles[expert]; i++) {
        const int begin = first + i * C.tile_pairs;
        a.tiles[1 + tiles[expert] + i] = {expert, begin, min(end, begin + C.tile_pairs), 0};
      }
    }
    for (int i = places[C.experts] + thread_index(); i < C.places; i += kThreads) a.pairs[i] = kNoPair;
    if (thread_index() == 0) a.tiles[0] = {0, 0, tiles[C.experts], 0};
  }

 private:
  // A warp's pairs are neighbours.
  static __device__ __forceinline__ int pair_of(int round) { return (warp_index() * kRounds + round) * kWarp + lane_index(); }
  // The lanes whose expert is this one's.
  static __device__ __forceinline__ std::uint32_t same_as(int expert) {
    std::uint32_t same = ballot(expert >= 0);
#pragma unroll
    for (int bit = 0; (C.experts - 1) >> bit > 0; bit++) {
      const bool set = (expert >> bit & 1) != 0;
      const std::uint32_t those = ballot(set);
      same &= set ? those : ~those;
    }
    return same;
  }
  // One warp: where the places and tiles of every expert begin.
  static __device__ __forceinline__ void add_up(const std::int32_t* counts, std::int32_t* places, std::int32_t* tiles) {
    int place = 0;
    int tile = 0;
    for (int first = 0; first <= C.experts; first += kWarp) {
      const int expert = first + lane_index();
      const int count = expert < C.experts ? counts[expert] : 0;
      const int own_places = round_up(count, 8);
      const int own_tiles = ceil_div(count, C.tile_pairs);
      const int places_end = place + sum_up_to(own_places);
      const int tiles_end = tile + sum_up_to(own_tiles);
      if (expert <= C.experts) {
        places[expert] = places_end - own_places;
        tiles[expert] = tiles_end - own_tiles;
      }
      place = shuffle(places_end, kWarp - 1);
      tile = shuffle(tiles_end, kWarp - 1);
    }
  }
  // Of the lanes up to this one.
  static __device__ __forceinline__ int sum_up_to(int value) {
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const int before = shuffle(value, max(lane_index() - step, 0));
      if (lane_index() >= step) value += before;
    }
    return value;
  }
};

}  // namespace imp
