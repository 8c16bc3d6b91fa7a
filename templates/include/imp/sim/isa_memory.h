// Twins of imp/ptx/isa_memory.h. Asynchronous copies land as late as the ISA allows.
#pragma once

#include <atomic>
#include <cstdint>

#include "engine.h"
#include "types.h"

namespace imp {

__forceinline__ std::uint8_t* shared_memory() { return sim::current->block->shared; }

namespace sim {

__forceinline__ void require_aligned(const void* pointer, std::uintptr_t bytes, const char* name, Location where) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % bytes)
    fail(where, "misaligned address in %s: %p is no multiple of %d", name, pointer, static_cast<int>(bytes));
}

}  // namespace sim

__forceinline__ uint4 load_stream(const void* pointer, sim::Location where = sim::Location::current()) {
  sim::require_aligned(pointer, 16, "load_stream", where);
  return *static_cast<const uint4*>(pointer);
}
__forceinline__ uint2 load_stream8(const void* pointer, sim::Location where = sim::Location::current()) {
  sim::require_aligned(pointer, 8, "load_stream8", where);
  return *static_cast<const uint2*>(pointer);
}
__forceinline__ uint4 load_cached(const void* pointer, sim::Location where = sim::Location::current()) {
  sim::require_aligned(pointer, 16, "load_cached", where);
  return *static_cast<const uint4*>(pointer);
}
__forceinline__ uint2 load_cached8(const void* pointer, sim::Location where = sim::Location::current()) {
  sim::require_aligned(pointer, 8, "load_cached8", where);
  return *static_cast<const uint2*>(pointer);
}
__forceinline__ uint4 load_ahead(const void* pointer, sim::Location where = sim::Location::current()) {
  sim::require_aligned(pointer, 16, "load_ahead", where);
  return *static_cast<const uint4*>(pointer);
}
__forceinline__ uint2 load_ahead8(const void* pointer, sim::Location where = sim::Location::current()) {
  sim::require_aligned(pointer, 8, "load_ahead8", where);
  return *static_cast<const uint2*>(pointer);
}
__forceinline__ std::uint32_t load_entry(const std::uint32_t* list, std::uint32_t index) { return list[index]; }
__forceinline__ void prefetch_l2(const void*) {}
template <class T>
__forceinline__ T load_fresh(const T* pointer, sim::Location where = sim::Location::current()) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  sim::require_aligned(pointer, sizeof(T), "load_fresh", where);
  sim::count_poll("load_fresh", where);
  if (sim::observer) sim::observer->read_fresh(*sim::current, pointer, sizeof(T), where);
  T value;
  __atomic_load(pointer, &value, __ATOMIC_RELAXED);
  return value;
}
inline uint4 load_fresh4(const uint4* pointer, sim::Location where = sim::Location::current()) {
  sim::require_aligned(pointer, 16, "load_fresh4", where);
  sim::count_poll("load_fresh4", where);
  if (sim::observer) sim::observer->read_fresh(*sim::current, pointer, 16, where);
  const auto* words = reinterpret_cast<const std::uint32_t*>(pointer);
  const auto load = [words](int i) { return __atomic_load_n(words + i, __ATOMIC_RELAXED); };
  return make_uint4(load(0), load(1), load(2), load(3));
}

namespace sim {

template <class T>
__forceinline__ void publish(T* pointer, T value, bool adds, const char* name, Location where) {
  require_aligned(pointer, sizeof(T), name, where);
  ++current->block->changes;
  if (observer)
    observer->store_fresh(*current, pointer, value, sizeof(T), adds, where);
  else if (adds)
    __atomic_fetch_add(pointer, value, __ATOMIC_RELAXED);
  else
    __atomic_store_n(pointer, value, __ATOMIC_RELAXED);
}
template <class T>
__forceinline__ void before_atomic(T* pointer, const char* name, Location where) {
  require_aligned(pointer, sizeof(T), name, where);
  if (observer) observer->atomic(*current, pointer, sizeof(T), where);
}
template <class T>
__forceinline__ T after_atomic(T before, T after) {
  if (after != before) ++current->block->changes;
  return before;
}

}  // namespace sim

__forceinline__ void store_fresh(std::uint32_t* pointer, std::uint32_t value,
                                 sim::Location where = sim::Location::current()) {
  sim::publish(pointer, value, false, "store_fresh", where);
}
__forceinline__ void store_fresh(std::uint64_t* pointer, std::uint64_t value,
                                 sim::Location where = sim::Location::current()) {
  sim::publish(pointer, value, false, "store_fresh", where);
}
__forceinline__ void add_fresh(std::uint32_t* pointer, std::uint32_t value,
                               sim::Location where = sim::Location::current()) {
  sim::publish(pointer, value, true, "add_fresh", where);
}
// The engine itself finds out when all wait in vain.
struct Poll {
  __forceinline__ explicit Poll(const char*, std::uint32_t = 0) {}
  __forceinline__ void pause(sim::Location where = sim::Location::current()) { sim::pause(where); }
};

__forceinline__ std::uint32_t atomic_add(std::uint32_t* pointer, std::uint32_t value,
                                         sim::Location where = sim::Location::current()) {
  sim::before_atomic(pointer, "atomic_add", where);
  const std::uint32_t old = __atomic_fetch_add(pointer, value, __ATOMIC_ACQ_REL);
  return sim::after_atomic(old, old + value);
}
__forceinline__ std::uint64_t atomic_add(std::uint64_t* pointer, std::uint64_t value,
                                         sim::Location where = sim::Location::current()) {
  sim::before_atomic(pointer, "atomic_add", where);
  const std::uint64_t old = __atomic_fetch_add(pointer, value, __ATOMIC_ACQ_REL);
  return sim::after_atomic(old, old + value);
}
__forceinline__ std::uint32_t atomic_max(std::uint32_t* pointer, std::uint32_t value,
                                         sim::Location where = sim::Location::current()) {
  sim::before_atomic(pointer, "atomic_max", where);
  std::uint32_t old = __atomic_load_n(pointer, __ATOMIC_RELAXED);
  while (old < value && !__atomic_compare_exchange_n(pointer, &old, value, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
  }
  return sim::after_atomic(old, old < value ? value : old);
}
__forceinline__ void store_system(std::uint64_t* pointer, std::uint64_t value,
                                  sim::Location where = sim::Location::current()) {
  sim::before_atomic(pointer, "store_system", where);
  ++sim::current->block->changes;
  __atomic_store_n(pointer, value, __ATOMIC_RELEASE);
}

// A bulk copy lands when somebody waits for it, or has asked a few times whether it has.
inline void barrier_init(std::uint64_t* barrier, sim::Location where = sim::Location::current()) {
  sim::phase_init(barrier, where);
}
__forceinline__ void barrier_init_fence() {}
__forceinline__ void bulk_fence() {}
inline void bulk_load(void* shared, const void* global, int bytes, std::uint64_t* barrier,
                      sim::Location where = sim::Location::current()) {
  sim::require_aligned(shared, 16, "bulk_load (shared side)", where);
  sim::require_aligned(global, 16, "bulk_load (global side)", where);
  if (bytes <= 0 || bytes % 16) sim::fail(where, "bulk_load of %d bytes, which is no multiple of 16", bytes);
  sim::bulk_issue(shared, global, bytes, barrier, where);
}
inline void bulk_load_cached(void* shared, const void* global, int bytes, std::uint64_t* barrier,
                             sim::Location where = sim::Location::current()) {
  bulk_load(shared, global, bytes, barrier, where);
}
inline void barrier_arrive(std::uint64_t* barrier, sim::Location where = sim::Location::current()) {
  sim::phase_arrive(barrier, where);
}
inline bool barrier_done(std::uint64_t* barrier, int parity, sim::Location where = sim::Location::current()) {
  sim::count_poll("barrier_done", where);
  return sim::phase_done(barrier, parity, where);
}
inline void barrier_wait(std::uint64_t* barrier, int parity, sim::Location where = sim::Location::current()) {
  sim::phase_wait("barrier_wait", barrier, parity, false, where);
}
// Every lane for itself: it is no warp_sync.
inline void bulk_wait(std::uint64_t* barrier, int parity, sim::Location where = sim::Location::current()) {
  sim::phase_wait("bulk_wait", barrier, parity, true, where);
}

// Kernels run one after the other here.
__forceinline__ void grid_wait() {}
__forceinline__ void grid_launch_next() {}

__forceinline__ void cp_async16(void* shared, const void* global, sim::Location where = sim::Location::current()) {
  sim::require_aligned(shared, 16, "cp_async16 (shared side)", where);
  sim::require_aligned(global, 16, "cp_async16 (global side)", where);
  sim::async_copy(shared, global, where);
}
__forceinline__ void cp_async_commit() { sim::async_commit(); }
template <int N>
__forceinline__ void cp_async_wait(sim::Location where = sim::Location::current()) {
  sim::async_wait(N, where);
}

}  // namespace imp
