// Kernels whose blocks wait for one another, and rings between the warps of one: each entry takes one struct of pointers.
// tests/isa_cases.py holds what the correct ones compute; the others have a bug that the simulator must find.
#include "isa.h"

namespace imp {

// Every block publishes 64 words a round, tagged with it; all add up what all have published and publish that again.
// x [grid][64], words [2][grid][64], counter [1] -> out [grid][64]
struct ExchangeArgs {
  const std::uint32_t* x;
  std::uint32_t* words;
  std::uint32_t* counter;
  std::uint32_t* out;
};
__device__ __forceinline__ std::uint32_t word_of(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}
template <bool arrives>
__device__ __forceinline__ void exchange_rounds(const ExchangeArgs& args) {
  const int i = thread_index(), blocks = grid_size(), mine = 64 * block_index() + i;
  std::uint32_t value = args.x[mine];
  for (std::uint32_t round = 1; round <= 12; ++round) {
    std::uint32_t* words = args.words + round % 2 * static_cast<std::uint32_t>(64 * blocks);
    store_fresh(words + mine, value << 4 | round);
    block_sync();
    if (i == 0) {
      if (arrives || block_index() != 1 || round != 5) add_fresh(args.counter, 1);
      const std::uint32_t all = round * static_cast<std::uint32_t>(blocks);
      Poll poll("arrivals of round", round);
      while (load_fresh(args.counter) < all) poll.pause();  // how the others are doing: no more than a hint
    }
    block_sync();
    std::uint32_t sum = 0;
    for (int b = 0; b < blocks; ++b) {
      Poll poll("words of block", static_cast<std::uint32_t>(b));
      uint4 v = load_fresh4(reinterpret_cast<const uint4*>(words + 64 * b + i / 4 * 4));
      while ((word_of(v, i % 4) & 15) != round) {
        poll.pause();
        v = load_fresh4(reinterpret_cast<const uint4*>(words + 64 * b + i / 4 * 4));
      }
      sum += (word_of(v, i % 4) >> 4) * static_cast<std::uint32_t>(b + 1);
    }
    value = sum & 0xfffffffu;
  }
  args.out[mine] = value;
}
extern "C" __global__ void exchange(const __grid_constant__ ExchangeArgs args) { exchange_rounds<true>(args); }
extern "C" __global__ void exchange_without_arrival(const __grid_constant__ ExchangeArgs args) {
  exchange_rounds<false>(args);
}

// The last warp fetches 29 tiles of 512 bytes into the slots, at most 3 in flight; the first three take turns with them.
// With 6 slots each belongs to one of the takers. With 4 one of them may come to a slot a whole turn too early, when the
// parity of the barrier does not tell the two turns apart.
// x [grid][29][32] 16-byte vectors -> out [grid][3][32]: the sum of a lane's vectors, and its number of them
struct RingArgs {
  const uint4* x;
  uint4* out;
};
enum class Refill { when_empty, when_landed, at_once };
template <Refill refill, int slots>
__device__ __forceinline__ void ring_of_tiles(const RingArgs& args) {
  constexpr int tiles = 29, in_flight = 3, takers = 3;
  auto* slot = reinterpret_cast<uint4*>(shared_memory());
  auto* full = reinterpret_cast<std::uint64_t*>(shared_memory() + slots * 512);
  std::uint64_t* empty = full + slots;
  if (thread_index() == 0) {
    for (int s = 0; s < 2 * slots; ++s) barrier_init(full + s);
    barrier_init_fence();
  }
  block_sync();
  const uint4* x = args.x + block_index() * tiles * 32;
  const auto landed = [&](int tile) { return barrier_done(full + tile % slots, tile / slots % 2); };
  if (warp_index() == takers) {
    if (lane_index() != 0) return;
    for (int tile = 0; tile < tiles; ++tile) {
      Poll poll("room for tile", static_cast<std::uint32_t>(tile));
      if (refill != Refill::at_once && tile >= in_flight)
        while (!landed(tile - in_flight)) poll.pause();
      if (refill == Refill::when_empty && tile >= slots) barrier_wait(empty + tile % slots, (tile / slots - 1) % 2);
      if (refill == Refill::when_landed && tile >= slots) barrier_wait(full + tile % slots, (tile / slots - 1) % 2);
      bulk_load(slot + tile % slots * 32, x + tile * 32, 512, full + tile % slots);
    }
  } else {
    uint4 sum = make_uint4(0, 0, 0, 0);
    for (int tile = warp_index(); tile < tiles; tile += takers) {
      bulk_wait(full + tile % slots, tile / slots % 2);
      const uint4 v = slot[tile % slots * 32 + (lane_index() ^ 1)];
      sum = make_uint4(sum.x + v.x, sum.y ^ v.y, sum.z + 3 * v.z, sum.w + 1);
      warp_sync();
      if (lane_index() == 0) barrier_arrive(empty + tile % slots);
    }
    args.out[(block_index() * takers + warp_index()) * 32 + lane_index()] = sum;
  }
}
extern "C" __global__ void ring(const __grid_constant__ RingArgs args) { ring_of_tiles<Refill::when_empty, 6>(args); }
extern "C" __global__ void ring_of_too_few_slots(const __grid_constant__ RingArgs args) {
  ring_of_tiles<Refill::when_empty, 4>(args);
}
extern "C" __global__ void ring_refilled_when_landed(const __grid_constant__ RingArgs args) {
  ring_of_tiles<Refill::when_landed, 6>(args);
}
extern "C" __global__ void ring_refilled_at_once(const __grid_constant__ RingArgs args) {
  ring_of_tiles<Refill::at_once, 6>(args);
}

// More pointers than an entry can have parameters. from [n] -> to [n]
constexpr int n_pointers = 600;
struct PointersArgs {
  const std::uint32_t* from[n_pointers];
  std::uint32_t* to;
};
extern "C" __global__ void pointers(const __grid_constant__ PointersArgs args) {
  for (int i = thread_index(); i < n_pointers; i += block_threads()) args.to[i] = *args.from[i];
}

// Block 0 leaves a word in `data` for the others, who copy it to out [grid].
struct PassArgs {
  std::uint32_t* data;
  std::uint32_t* flag;
  std::uint32_t* out;
};
template <bool fresh, bool fences>
__device__ __forceinline__ void pass(const PassArgs& args) {
  if (thread_index() != 0) return;
  if (block_index() == 0) {
    for (int i = 0; i < 8; ++i) {
      if (fresh)
        store_fresh(args.data + i, 7);
      else
        args.data[i] = 7;
    }
    if (fences) fence_gpu();
    store_fresh(args.flag, 1);
    args.out[0] = 56;
  } else {
    Poll poll("flag");
    while (load_fresh(args.flag) == 0) poll.pause();
    if (fences) fence_gpu();
    std::uint32_t sum = 0;
    for (int i = 0; i < 8; ++i) sum += fresh ? load_fresh(args.data + i) : args.data[i];
    args.out[block_index()] = sum;
  }
}
extern "C" __global__ void plain_data(const __grid_constant__ PassArgs args) { pass<false, false>(args); }
extern "C" __global__ void plain_data_fixed(const __grid_constant__ PassArgs args) { pass<false, true>(args); }
extern "C" __global__ void relaxed_data(const __grid_constant__ PassArgs args) { pass<true, false>(args); }
extern "C" __global__ void relaxed_data_fixed(const __grid_constant__ PassArgs args) { pass<true, true>(args); }

// Two of three warps hand their thirds to each other. y [96]
template <bool fixed, bool all>
__device__ __forceinline__ void hand_over(float* y) {
  auto* arena = reinterpret_cast<float*>(shared_memory());
  const int i = thread_index();
  arena[i] = static_cast<float>(i);
  if (warp_index() == 2) return;
  if (fixed && (all || warp_index() == 0)) named_sync(3, 64);
  y[i] = arena[i ^ 32];
}
struct HandOverArgs {
  float* y;
};
extern "C" __global__ void hand_over_unsynchronised(const __grid_constant__ HandOverArgs args) {
  hand_over<false, false>(args.y);
}
extern "C" __global__ void hand_over_half_synchronised(const __grid_constant__ HandOverArgs args) {
  hand_over<true, false>(args.y);
}
extern "C" __global__ void hand_over_fixed(const __grid_constant__ HandOverArgs args) { hand_over<true, true>(args.y); }

// One barrier of one arrival, misused: y = x backwards, x = 0.
enum class Misuse { none, no_init, no_init_sync, no_arrival, arrives_twice, leaves_early, polls_for_ever, source_reused };
template <Misuse misuse>
__device__ __forceinline__ void one_barrier(uint4* x, uint4* y) {
  auto* barrier = reinterpret_cast<std::uint64_t*>(shared_memory() + 512);
  const auto* tile = reinterpret_cast<const uint4*>(shared_memory());
  const int i = thread_index();
  if (i == 0 && misuse != Misuse::no_init) barrier_init(barrier);
  if (misuse == Misuse::no_init_sync)
    shuffle(1, 0);  // brings the lanes together, but orders nothing
  else
    block_sync();
  if (misuse == Misuse::arrives_twice && i == 0) {
    barrier_arrive(barrier);
    barrier_arrive(barrier);
  }
  if (i == 0 && misuse != Misuse::arrives_twice && misuse != Misuse::no_arrival) bulk_load(shared_memory(), x, 512, barrier);
  if (misuse == Misuse::leaves_early) return;
  if (misuse == Misuse::polls_for_ever) {
    Poll poll("barrier");
    while (!barrier_done(barrier, 0)) poll.pause();
    while (!barrier_done(barrier, 1)) {
    }
  }
  if (misuse == Misuse::source_reused) x[i] = make_uint4(0, 0, 0, 0);
  barrier_wait(barrier, 0);
  y[i] = tile[31 - i];
  if (misuse == Misuse::none) x[i] = make_uint4(0, 0, 0, 0);
}
struct OneBarrierArgs {
  uint4* x;
  uint4* y;
};
#define IMP_MISUSE(name)                                                                   \
  extern "C" __global__ void barrier_##name(const __grid_constant__ OneBarrierArgs args) { \
    one_barrier<Misuse::name>(args.x, args.y);                                             \
  }
IMP_MISUSE(none)
IMP_MISUSE(no_init)
IMP_MISUSE(no_init_sync)
IMP_MISUSE(no_arrival)
IMP_MISUSE(arrives_twice)
IMP_MISUSE(leaves_early)
IMP_MISUSE(polls_for_ever)
IMP_MISUSE(source_reused)

}  // namespace imp
