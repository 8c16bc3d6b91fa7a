// Loads, stores, atomics and asynchronous copies.
#pragma once

#include <cstdint>
#include <cstdio>

namespace imp {

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

extern __shared__ __align__(1024) std::uint8_t shared_arena[];
__device__ __forceinline__ std::uint8_t* shared_memory() { return shared_arena; }

// Weights are read once per token: they should push nothing else out of L1 or L2.
// (The L2::evict_first qualifier itself takes no 16-byte loads; a policy operand does the same.)
__device__ __forceinline__ std::uint64_t evict_first_policy() {
  std::uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ uint4 load_stream(const void* pointer) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.b32 {%0, %1, %2, %3}, [%4], %5;"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(pointer), "l"(evict_first_policy()));
  return v;
}
__device__ __forceinline__ uint2 load_stream8(const void* pointer) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v2.b32 {%0, %1}, [%2], %3;"
               : "=r"(v.x), "=r"(v.y)
               : "l"(pointer), "l"(evict_first_policy()));
  return v;
}

// What other blocks of the launch read too, and no kernel writes meanwhile.
__device__ __forceinline__ uint4 load_cached(const void* pointer) {
  uint4 v;
  asm volatile("ld.global.nc.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(pointer));
  return v;
}
__device__ __forceinline__ uint2 load_cached8(const void* pointer) {
  uint2 v;
  asm volatile("ld.global.nc.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(pointer));
  return v;
}

// The same, and the 256 bytes around the address are likely to be in L2 then: for who reads on there.
__device__ __forceinline__ uint4 load_ahead(const void* pointer) {
  uint4 v;
  asm volatile("ld.global.nc.L2::256B.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(pointer));
  return v;
}
__device__ __forceinline__ uint2 load_ahead8(const void* pointer) {
  uint2 v;
  asm volatile("ld.global.nc.L2::256B.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(pointer));
  return v;
}

// An entry of a constant list, each lane its own. Where the compiler knows how the index was made it scales it in there, and
// the address then takes one instruction more.
__device__ __forceinline__ std::uint32_t load_entry(const std::uint32_t* list, std::uint32_t index) {
  asm("" : "+r"(index));
  return list[index];
}

// Makes the 128 bytes around an address likely to be in L2 soon.
__device__ __forceinline__ void prefetch_l2(const void* pointer) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(pointer));
}

// Data that another block of this launch wrote: past L1, never from a register.
template <class T>
__device__ __forceinline__ T load_fresh(const T* pointer) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  if constexpr (sizeof(T) == 4) {
    std::uint32_t bits;
    asm volatile("ld.relaxed.gpu.global.b32 %0, [%1];" : "=r"(bits) : "l"(pointer) : "memory");
    return __builtin_bit_cast(T, bits);
  } else {
    std::uint64_t bits;
    asm volatile("ld.relaxed.gpu.global.b64 %0, [%1];" : "=l"(bits) : "l"(pointer) : "memory");
    return __builtin_bit_cast(T, bits);
  }
}

// Four words at once, 16-byte aligned: each is whole, but they may be of different age.
__device__ __forceinline__ uint4 load_fresh4(const uint4* pointer) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(pointer)
               : "memory");
  return v;
}
// For other blocks of this launch to poll. They order nothing else, neither before nor after.
__device__ __forceinline__ void store_fresh(std::uint32_t* pointer, std::uint32_t value) {
  asm volatile("st.relaxed.gpu.global.b32 [%0], %1;" ::"l"(pointer), "r"(value) : "memory");
}
__device__ __forceinline__ void store_fresh(std::uint64_t* pointer, std::uint64_t value) {
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(pointer), "l"(value) : "memory");
}
__device__ __forceinline__ void add_fresh(std::uint32_t* pointer, std::uint32_t value) {
  asm volatile("red.relaxed.gpu.global.add.u32 [%0], %1;" ::"l"(pointer), "r"(value) : "memory");
}
// Polls before a thread gives up: the check build traps where another would hang. 0: never.
#ifndef IMP_POLL_LIMIT
#define IMP_POLL_LIMIT 0
#endif
constexpr std::uint32_t kPollLimit = IMP_POLL_LIMIT;

// One for every loop that polls memory or barrier_done, which pauses between two looks. The hardware sees to it that the
// other threads go on; `what` and `detail` say what a thread waited for when it gives up.
struct Poll {
  const char* what;
  std::uint32_t detail;
  std::uint32_t rounds = 0;
  __device__ __forceinline__ explicit Poll(const char* name, std::uint32_t number = 0) : what(name), detail(number) {}
  __device__ __forceinline__ void pause() {
    if constexpr (kPollLimit > 0) {
      if (++rounds != kPollLimit) return;
      printf("block %d, thread %d waits in vain: %s %u\n", blockIdx.x, threadIdx.x, what, detail);
      __trap();
    }
  }
};

// Relaxed, gpu scope, global or shared memory; the old value comes back.
__device__ __forceinline__ std::uint32_t atomic_add(std::uint32_t* pointer, std::uint32_t value) {
  return atomicAdd(pointer, value);
}
__device__ __forceinline__ std::uint64_t atomic_add(std::uint64_t* pointer, std::uint64_t value) {
  return atomicAdd(reinterpret_cast<unsigned long long*>(pointer), static_cast<unsigned long long>(value));
}
__device__ __forceinline__ std::uint32_t atomic_max(std::uint32_t* pointer, std::uint32_t value) {
  return atomicMax(pointer, value);
}
// To pinned host memory: whoever on the host sees the value sees everything this thread wrote before it.
__device__ __forceinline__ void store_system(std::uint64_t* pointer, std::uint64_t value) {
  asm volatile("st.release.sys.global.b64 [%0], %1;" ::"l"(pointer), "l"(value) : "memory");
}

// A barrier in shared memory, 8 bytes, of one arrival a phase: the n-th arrival completes phase n, from 0 on, once the
// bytes that it announced have landed; the wait for phase n is by its parity, n % 2. Who has waited for a phase sees what
// the arriving thread did before it. One barrier says that a slot is full (bulk_load arrives and announces), another
// that it is empty again (barrier_arrive). One thread initialises.
__device__ __forceinline__ void barrier_init(std::uint64_t* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
}
// After the last barrier_init, before the first bulk_load: makes them known to the copy engine.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// This thread's own writes to shared memory come before later bulk copies over them.
__device__ __forceinline__ void bulk_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Weights, global to shared: a multiple of 16 bytes, both ends 16-byte aligned, read once and first to leave L2.
__device__ __forceinline__ void bulk_load(void* shared, const void* global, int bytes, std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
  asm volatile(
      "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
          shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier)), "l"(evict_first_policy())
      : "memory");
}
// The same of what other blocks read too.
__device__ __forceinline__ void bulk_load_cached(void* shared, const void* global, int bytes, std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
  asm volatile("cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(shared)),
               "l"(global), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}
__device__ __forceinline__ void barrier_arrive(std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Whether the phase of that parity is complete; does not wait.
__device__ __forceinline__ bool barrier_done(std::uint64_t* barrier, int parity) {
  std::uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.u32 %0, 1, 0, done;\n"
      "}\n"
      : "=r"(done)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return done != 0;
}
// One thread waits until the phase of that parity is complete.
__device__ __forceinline__ void barrier_wait(std::uint64_t* barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// The whole warp waits.
__device__ __forceinline__ void bulk_wait(std::uint64_t* barrier, int parity) {
  if constexpr (kPollLimit > 0) {
    Poll poll("tile at", shared_address(barrier));
    while (!barrier_done(barrier, parity)) poll.pause();
  } else {
    barrier_wait(barrier, parity);
  }
}

// Programmatic dependent launch. grid_wait: every kernel before this one is complete and its writes are visible; before
// it a kernel may only read what no kernel of the program writes, or guess by load_fresh. grid_launch_next: the next
// kernel's CTAs may start where there is room, once every CTA of this one has said so.
__device__ __forceinline__ void grid_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ __forceinline__ void grid_launch_next() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// 16 bytes, global to shared, through L2 only. Both ends are 16-byte aligned.
__device__ __forceinline__ void cp_async16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N of this thread's committed groups are still in flight.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

}  // namespace imp
