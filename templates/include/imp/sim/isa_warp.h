// Twins of imp/ptx/isa_warp.h.
#pragma once

#include <bit>
#include <cstdint>

#include "engine.h"
#include "types.h"

namespace imp {

__forceinline__ int thread_index() { return sim::current->index; }
__forceinline__ int block_threads() { return sim::current->block->threads; }
__forceinline__ int block_index() { return sim::current->block->index[0]; }
__forceinline__ int block_index_y() { return sim::current->block->index[1]; }
__forceinline__ int grid_size() { return sim::current->block->grid[0]; }
__forceinline__ int lane_index() { return sim::current->lane; }
__forceinline__ int warp_index() { return sim::current->index >> 5; }
__forceinline__ int opaque(int value) { return value; }
__forceinline__ int warp_uniform(int value) { return value; }
__forceinline__ std::uint32_t lane_constant(std::uint32_t value) { return value; }

__forceinline__ void block_sync(sim::Location where = sim::Location::current()) {
  sim::block_arrive("block_sync", 0, 0, where);
}
__forceinline__ void named_sync(int id, int threads, sim::Location where = sim::Location::current()) {
  sim::block_arrive("named_sync", id, threads, where);
}
__forceinline__ void fence_gpu() { sim::fence(); }
inline void warp_sync(sim::Location where = sim::Location::current()) {
  int nothing = 0;
  sim::collective(
      "warp_sync", nothing,
      [](int* const*) {
        if (sim::observer) sim::observer->warp_synced(*sim::current->warp, *sim::current->block);
      },
      where);
}

template <class T>
inline T shuffle(T value, int source_lane, sim::Location where = sim::Location::current()) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  struct Argument {
    T value;
    int source;
    T result;
  } argument{value, source_lane & 31, value};
  sim::collective(
      "shuffle", argument,
      [](Argument* const* lanes) {
        for (int i = 0; i < 32; ++i) lanes[i]->result = lanes[lanes[i]->source]->value;
      },
      where);
  return argument.result;
}
template <class T>
inline T shuffle_xor(T value, int mask, sim::Location where = sim::Location::current()) {
  return shuffle(value, lane_index() ^ mask, where);
}
inline int bits_in(std::uint32_t mask) { return std::popcount(mask); }
inline std::uint32_t ballot(bool predicate, sim::Location where = sim::Location::current()) {
  std::uint32_t word = predicate;
  sim::collective(
      "ballot", word,
      [](std::uint32_t* const* lanes) {
        std::uint32_t votes = 0;
        for (int i = 0; i < 32; ++i) votes |= *lanes[i] << i;
        for (int i = 0; i < 32; ++i) *lanes[i] = votes;
      },
      where);
  return word;
}

namespace sim {

// The halves of a butterfly compute the same commutative sums, so one half gives the bits that every lane would have.
template <int Width, int N, class T, class Combine2>
inline void group_reduce(T (*const* lanes)[N], Combine2 combine) {
  for (int n = 0; n < N; ++n) {
    T v[32];
    for (int i = 0; i < 32; ++i) v[i] = (*lanes[i])[n];
    for (int first = 0; first < 32; first += Width) {
      T* group = v + first;
      for (int half = Width / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) group[i] = combine(group[i], group[i + half]);
      for (int i = 0; i < Width; ++i) (*lanes[first + i])[n] = group[0];
    }
  }
}

}  // namespace sim

template <int Width>
inline float group_sum(float value, sim::Location where = sim::Location::current()) {
  float values[1] = {value};
  sim::collective(
      "group_sum", values,
      [](float (*const* lanes)[1]) { sim::group_reduce<Width>(lanes, [](float a, float b) { return a + b; }); }, where);
  return values[0];
}
template <int Width>
inline int group_sum(int value, sim::Location where = sim::Location::current()) {
  std::uint32_t values[1] = {static_cast<std::uint32_t>(value)};
  sim::collective(
      "group_sum", values,
      [](std::uint32_t (*const* lanes)[1]) {
        sim::group_reduce<Width>(lanes, [](std::uint32_t a, std::uint32_t b) { return a + b; });
      },
      where);
  return static_cast<int>(values[0]);
}
template <int Width>
inline float group_max(float value, sim::Location where = sim::Location::current()) {
  float values[1] = {value};
  sim::collective(
      "group_max", values,
      [](float (*const* lanes)[1]) {
        sim::group_reduce<Width>(lanes, [](float a, float b) { return max_nan(a, b); });
      },
      where);
  return values[0];
}
inline float warp_sum(float value, sim::Location where = sim::Location::current()) {
  return group_sum<32>(value, where);
}
inline int warp_sum(int value, sim::Location where = sim::Location::current()) { return group_sum<32>(value, where); }
inline float warp_max(float value, sim::Location where = sim::Location::current()) {
  return group_max<32>(value, where);
}
inline std::uint32_t warp_max(std::uint32_t value, sim::Location where = sim::Location::current()) {
  std::uint32_t values[1] = {value};
  sim::collective(
      "warp_max", values,
      [](std::uint32_t (*const* lanes)[1]) {
        sim::group_reduce<32>(lanes, [](std::uint32_t a, std::uint32_t b) { return a > b ? a : b; });
      },
      where);
  return values[0];
}
template <int N>
inline void warp_sum(float (&values)[N], sim::Location where = sim::Location::current()) {
  sim::collective(
      "warp_sum", values,
      [](float (*const* lanes)[N]) { sim::group_reduce<32>(lanes, [](float a, float b) { return a + b; }); }, where);
}

}  // namespace imp
