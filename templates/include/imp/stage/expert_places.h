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
  static constexpr int kCounts = round_up(C.rows * C.used * 2, 16);  // bytes before them: each pair's expert
  static constexpr int kPlaces = kCounts + C.experts * 4;            // likewise: where each expert's pairs begin, and the end
  static constexpr int kTiles = kPlaces + (C.experts + 1) * 4;       // and its tiles
  static constexpr int kSharedBytes = round_up(kTiles + (C.experts + 1) * 4, 16);
  static_assert(C.experts <= 65535, "an expert's number has 16 bits");
  static_assert(C.places % 8 == 0 && C.tile_pairs % 8 == 0, "a panel's swizzle repeats after eight lines");

  struct Args {
    const float* route;  // [rows][2 used]: the numbers of a row's experts, and behind them their shares
    ExpertTile* tiles;
    std::int32_t* pairs;  // [places]
    const StepHeader* step;
  };

  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    grid_wait();
    auto* const experts = reinterpret_cast<std::uint16_t*>(shared_memory());
    auto* const counts = reinterpret_cast<std::int32_t*>(shared_memory() + kCounts);
    auto* const places = reinterpret_cast<std::int32_t*>(shared_memory() + kPlaces);
    auto* const tiles = reinterpret_cast<std::int32_t*>(shared_memory() + kTiles);
    const int pairs = a.step->rows * C.used;
    for (int i = thread_index(); i < pairs; i += kThreads) {
      experts[i] = static_cast<std::uint16_t>(a.route[i / C.used * 2 * C.used + i % C.used]);
    }
    block_sync();
    for (int expert = warp_index(); expert < C.experts; expert += kWarps) {
      int count = 0;
      each_of(expert, experts, pairs, [&](int, bool, std::uint32_t those) { count += bits_in(those); });
      if (lane_index() == 0) counts[expert] = count;
    }
    block_sync();
    if (warp_index() == 0) add_up(counts, places, tiles);
    block_sync();
    for (int expert = warp_index(); expert < C.experts; expert += kWarps) {
      const int first = places[expert];
      int place = first;
      each_of(expert, experts, pairs, [&](int pair, bool own, std::uint32_t those) {
        if (own) a.pairs[place + bits_in(those & ((1u << lane_index()) - 1))] = pair;
        place += bits_in(those);
      });
      for (int i = place + lane_index(); i < places[expert + 1]; i += kWarp) a.pairs[i] = kNoPair;
      for (int i = lane_index(); i < tiles[expert + 1] - tiles[expert]; i += kWarp) {
        const int begin = first + i * C.tile_pairs;
        a.tiles[1 + tiles[expert] + i] = {expert, begin, min(place, begin + C.tile_pairs), 0};
      }
    }
    for (int i = places[C.experts] + thread_index(); i < C.places; i += kThreads) a.pairs[i] = kNoPair;
    if (thread_index() == 0) a.tiles[0] = {0, 0, tiles[C.experts], 0};
  }

 private:
  // see(pair, whether it is this expert's, which of the warp's are) for all pairs, a lane each.
  template <class See>
  static __device__ __forceinline__ void each_of(int expert, const std::uint16_t* experts, int pairs, const See& see) {
    for (int first = 0; first < pairs; first += kWarp) {
      const int pair = first + lane_index();
      const bool own = pair < pairs && experts[pair] == expert;
      see(pair, own, ballot(own));
    }
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
