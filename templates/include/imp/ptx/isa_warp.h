// Who am I, barriers, and the collectives of a warp. All 32 lanes take part in every collective.
#pragma once

#include <cstdint>

namespace imp {

__device__ __forceinline__ int thread_index() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int block_threads() { return static_cast<int>(blockDim.x); }
__device__ __forceinline__ int block_index() { return static_cast<int>(blockIdx.x); }
__device__ __forceinline__ int block_index_y() { return static_cast<int>(blockIdx.y); }
__device__ __forceinline__ int grid_size() { return static_cast<int>(gridDim.x); }
__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x & 31u); }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x >> 5); }

// The same value, of which the compiler knows nothing: what is computed from it is not kept in registers across a loop.
__device__ __forceinline__ int opaque(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

// A value that all lanes of a warp have alike, said to the compiler, which then keeps it in a register of the warp.
__device__ __forceinline__ int warp_uniform(int value) { return __shfl_sync(0xffffffffu, value, 0); }

// A constant in a register of the lane's own. The compiler keeps constants in a warp's, which some instructions cannot read,
// and moves them again and again; that a mask of one bit has no other is nothing that it knows.
__device__ __forceinline__ std::uint32_t lane_constant(std::uint32_t value) {
  std::uint32_t mask;
  asm("mov.u32 %0, %%lanemask_eq;" : "=r"(mask));
  return value ^ (mask & (mask - 1));
}

__device__ __forceinline__ void block_sync() { __syncthreads(); }
__device__ __forceinline__ void warp_sync() { __syncwarp(); }
__device__ __forceinline__ void fence_gpu() { __threadfence(); }
__device__ __forceinline__ void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Values of 4 or 8 bytes; shuffles move bits and order no memory.
template <class T>
__device__ __forceinline__ T shuffle(T value, int source_lane) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  if constexpr (sizeof(T) == 4) {
    const auto bits = __builtin_bit_cast(unsigned, value);
    return __builtin_bit_cast(T, __shfl_sync(0xffffffffu, bits, source_lane));
  } else {
    const auto bits = __builtin_bit_cast(unsigned long long, value);
    return __builtin_bit_cast(T, __shfl_sync(0xffffffffu, bits, source_lane));
  }
}
template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int mask) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  if constexpr (sizeof(T) == 4) {
    const auto bits = __builtin_bit_cast(unsigned, value);
    return __builtin_bit_cast(T, __shfl_xor_sync(0xffffffffu, bits, mask));
  } else {
    const auto bits = __builtin_bit_cast(unsigned long long, value);
    return __builtin_bit_cast(T, __shfl_xor_sync(0xffffffffu, bits, mask));
  }
}
__device__ __forceinline__ std::uint32_t ballot(bool predicate) { return __ballot_sync(0xffffffffu, predicate); }
// How many bits are set.
__device__ __forceinline__ int bits_in(std::uint32_t mask) { return __popc(mask); }

// Reductions over aligned groups of Width lanes, xor Width/2 .. 1: every lane gets the same bits.
template <int Width>
__device__ __forceinline__ float group_sum(float value) {
#pragma unroll
  for (int mask = Width / 2; mask > 0; mask /= 2) value += __shfl_xor_sync(0xffffffffu, value, mask);
  return value;
}
template <int Width>
__device__ __forceinline__ int group_sum(int value) {
#pragma unroll
  for (int mask = Width / 2; mask > 0; mask /= 2) value += __shfl_xor_sync(0xffffffffu, value, mask);
  return value;
}
// NaN if a value is.
template <int Width>
__device__ __forceinline__ float group_max(float value) {
#pragma unroll
  for (int mask = Width / 2; mask > 0; mask /= 2) value = max_nan(value, __shfl_xor_sync(0xffffffffu, value, mask));
  return value;
}
__device__ __forceinline__ float warp_sum(float value) { return group_sum<32>(value); }
__device__ __forceinline__ int warp_sum(int value) { return __reduce_add_sync(0xffffffffu, value); }
__device__ __forceinline__ float warp_max(float value) { return group_max<32>(value); }
__device__ __forceinline__ std::uint32_t warp_max(std::uint32_t value) { return __reduce_max_sync(0xffffffffu, value); }
template <int N>
__device__ __forceinline__ void warp_sum(float (&values)[N]) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2)
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] += __shfl_xor_sync(0xffffffffu, values[i], mask);
}

}  // namespace imp
