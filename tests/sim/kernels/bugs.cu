// Pairs of kernels: one with a bug, and its correct twin.
#include "isa.h"

namespace imp {

__device__ __forceinline__ float* arena() { return reinterpret_cast<float*>(shared_memory()); }

template <bool fixed>
__device__ __forceinline__ void block_race(float* y) {
  arena()[thread_index()] = static_cast<float>(thread_index());
  if (fixed) block_sync();
  y[thread_index()] = arena()[block_threads() - 1 - thread_index()];
}
extern "C" __global__ void missing_block_sync(float* y) { block_race<false>(y); }
extern "C" __global__ void missing_block_sync_fixed(float* y) { block_race<true>(y); }

// Everybody has read; then one thread writes.
template <bool fixed>
__device__ __forceinline__ void late_write(float* y) {
  arena()[thread_index()] = 1.0f;
  block_sync();
  const float v = arena()[0];
  if (fixed) block_sync();
  if (thread_index() == 0) arena()[0] = 2.0f;
  y[thread_index()] = v;
}
extern "C" __global__ void write_after_read(float* y) { late_write<false>(y); }
extern "C" __global__ void write_after_read_fixed(float* y) { late_write<true>(y); }

// A shuffle orders no memory, warp_sync does.
template <bool fixed>
__device__ __forceinline__ void warp_race(float* y) {
  arena()[thread_index()] = static_cast<float>(thread_index());
  const float v = shuffle_xor(1.0f, 1);
  if (fixed) warp_sync();
  y[thread_index()] = v + arena()[thread_index() ^ 1];
}
extern "C" __global__ void missing_warp_sync(float* y) { warp_race<false>(y); }
extern "C" __global__ void missing_warp_sync_fixed(float* y) { warp_race<true>(y); }

// One warp_sync orders what came before it, not what comes after.
template <bool fixed>
__device__ __forceinline__ void warp_late_write(float* y) {
  arena()[thread_index()] = 1.0f;
  warp_sync();
  const float v = arena()[thread_index() ^ 1];
  if (fixed) warp_sync();
  arena()[thread_index()] = 2.0f;
  y[thread_index()] = v;
}
extern "C" __global__ void write_after_warp_sync(float* y) { warp_late_write<false>(y); }
extern "C" __global__ void write_after_warp_sync_fixed(float* y) { warp_late_write<true>(y); }

// warp_sync is too little between two warps.
template <bool fixed>
__device__ __forceinline__ void across_warps(float* y) {
  arena()[thread_index()] = static_cast<float>(thread_index());
  if (fixed)
    named_sync(1, 64);
  else
    warp_sync();
  y[thread_index()] = arena()[thread_index() ^ 32];
}
extern "C" __global__ void warp_sync_between_warps(float* y) { across_warps<false>(y); }
extern "C" __global__ void warp_sync_between_warps_fixed(float* y) { across_warps<true>(y); }

extern "C" __global__ void global_out_of_bounds(float* y) { y[thread_index() + 1] = 1.0f; }
extern "C" __global__ void global_out_of_bounds_fixed(float* y) { y[thread_index()] = 1.0f; }

template <int shift>
__device__ __forceinline__ void shared_shifted(float* y) {
  arena()[thread_index() + shift] = 1.0f;
  block_sync();
  y[thread_index()] = arena()[thread_index() + shift];
}
extern "C" __global__ void shared_out_of_bounds(float* y) { shared_shifted<1>(y); }
extern "C" __global__ void shared_out_of_bounds_fixed(float* y) { shared_shifted<0>(y); }

template <int shift>
__device__ __forceinline__ void vector_load(float* y) {
  const float4 v = *reinterpret_cast<const float4*>(y + shift);
  block_sync();
  y[thread_index()] = v.x + v.w;
}
extern "C" __global__ void misaligned_vector(float* y) { vector_load<2>(y); }
extern "C" __global__ void misaligned_vector_fixed(float* y) { vector_load<4>(y); }

extern "C" __global__ void misaligned_stream(float* y) {
  const uint4 v = load_stream(y + 1);
  block_sync();
  y[thread_index()] = bits_to_float(v.x);
}
extern "C" __global__ void misaligned_stream_fixed(float* y) {
  const uint4 v = load_stream(y + 4);
  block_sync();
  y[thread_index()] = bits_to_float(v.x);
}

extern "C" __global__ void divergent_barrier(float* y) {
  if (thread_index() < 32) {
    block_sync();
    y[thread_index()] = 1.0f;
  } else {
    block_sync();
    y[thread_index()] = 2.0f;
  }
}
extern "C" __global__ void divergent_barrier_fixed(float* y) {
  block_sync();
  y[thread_index()] = thread_index() < 32 ? 1.0f : 2.0f;
}

template <bool fixed>
__device__ __forceinline__ void half_warp(float* y) {
  float v = 1.0f;
  if (fixed || lane_index() < 16) v = warp_sum(v);
  y[thread_index()] = v;
}
extern "C" __global__ void deadlock(float* y) { half_warp<false>(y); }
extern "C" __global__ void deadlock_fixed(float* y) { half_warp<true>(y); }

template <bool fixed>
__device__ __forceinline__ void leave_early(float* y) {
  if (!fixed && thread_index() == 7) return;
  block_sync();
  y[thread_index()] = 1.0f;
}
extern "C" __global__ void early_exit(float* y) { leave_early<false>(y); }
extern "C" __global__ void early_exit_fixed(float* y) { leave_early<true>(y); }

template <bool commit, bool wait_first, bool wait>
__device__ __forceinline__ void copy(float* y) {
  if (thread_index() < 16) cp_async16(arena() + 4 * thread_index(), y + 4 * thread_index());
  if (commit) cp_async_commit();
  if (wait && wait_first) cp_async_wait<0>();
  block_sync();
  if (wait && !wait_first) cp_async_wait<0>();
  const float v = arena()[63 - thread_index()];
  block_sync();
  y[thread_index()] = v;
}
extern "C" __global__ void missing_async_wait(float* y) { copy<true, true, false>(y); }
extern "C" __global__ void missing_async_wait_fixed(float* y) { copy<true, true, true>(y); }
extern "C" __global__ void missing_async_commit(float* y) { copy<false, true, true>(y); }
extern "C" __global__ void async_wait_after_barrier(float* y) { copy<true, false, true>(y); }

// Blocks that meet through global memory. y [blocks], counter in the word behind them.
template <bool publish, bool fresh, bool counted>
__device__ __forceinline__ void meet(float* y) {
  auto* counter = reinterpret_cast<std::uint32_t*>(y + 32);
  const auto blocks = static_cast<std::uint32_t>(grid_size());
  if (thread_index() == 0) {
    y[block_index()] = 1.0f;
    if (publish) fence_gpu();
    if (!counted || atomic_add(counter, 1u) + 1 == blocks) {
      float sum = 0.0f;
      for (int i = 0; i < grid_size(); ++i) sum += fresh ? load_fresh(y + i) : y[i];
      if (counted || block_index() == 0) y[40] = sum;
    }
  }
}
extern "C" __global__ void blocks_without_counter(float* y) { meet<true, false, false>(y); }
extern "C" __global__ void blocks_without_fence(float* y) { meet<false, false, true>(y); }
extern "C" __global__ void blocks_with_stale_reads(float* y) { meet<true, false, true>(y); }
extern "C" __global__ void blocks_fixed(float* y) { meet<true, true, true>(y); }

extern "C" __global__ void uninitialised_shared(float* y) { y[thread_index()] = arena()[thread_index()]; }

}  // namespace imp
