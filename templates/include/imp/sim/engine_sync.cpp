// Where simulated threads meet: the collectives of a warp, the barriers of a block, polling.
#include <cstring>
#include <utility>

#include "engine_worker.h"

namespace imp::sim {

namespace {

bool same(const Location& a, const Location& b) {
  return std::bit_cast<const void*>(a) == std::bit_cast<const void*>(b) ||
         (a.line() == b.line() && a.column() == b.column() && !std::strcmp(a.file_name(), b.file_name()));
}

}  // namespace

void warp_arrive(const char* name, void* argument, Combine combine, Location where) {
  Thread& self = *current;
  Warp& warp = *self.warp;
  Block& block = *self.block;
  if (warp.arrived == 0) {
    warp.combine = combine;
    warp.where = where;
  } else if (warp.combine != combine || !same(warp.where, where)) {
    const Thread& other = block.thread[32 * warp.index + std::countr_zero(warp.arrived)];
    fail(where, "divergent warp: this lane is in %s, lane %d waits in %s at %s:%u", name, other.lane, other.waits_in,
         other.where.file_name(), other.where.line());
  }
  warp.arguments[self.lane] = argument;
  warp.arrived |= 1u << self.lane;
  if (warp.arrived == ~0u) {
    block.combining = true;
    combine(warp.arguments);
    block.combining = false;
    warp.arrived = 0;
    make_ready(block, warp, ~0u);
  } else {
    self.waits_in = name;
    self.where = where;
  }
  suspend(self);
  self.waits_in = nullptr;
}

void block_arrive(const char* name, int id, int threads, Location where) {
  Thread& self = *current;
  Block& block = *self.block;
  if (id < 0 || id > 15) fail(where, "%s: barrier %d does not exist, there are 0 to 15", name, id);
  if (threads % 32 || threads < 0 || threads > block.threads)
    fail(where, "%s: %d threads, but it takes whole warps of a block of %d", name, threads, block.threads);
  const int expected = threads ? threads : block.threads;
  NamedBarrier& barrier = block.named_barriers[id];
  if (barrier.arrived == 0) {
    barrier.expected = expected;
    barrier.where = where;
  } else if (barrier.expected != expected) {
    fail(where, "%s: barrier %d with %d threads, while others wait at it with %d, at %s:%u", name, id, expected,
         barrier.expected, barrier.where.file_name(), barrier.where.line());
  } else if (id == 0 && !same(barrier.where, where)) {
    fail(where, "divergent block_sync: other threads wait at %s:%u", barrier.where.file_name(), barrier.where.line());
  }
  barrier.waiting[self.warp->index] |= 1u << self.lane;
  if (++barrier.arrived == expected) {
    if (observer) observer->barrier_passed(block, barrier.waiting, expected == block.threads);
    barrier.arrived = 0;
    for (Warp& warp : block.warp)
      if (barrier.waiting[warp.index]) make_ready(block, warp, std::exchange(barrier.waiting[warp.index], 0));
  } else {
    self.waits_in = name;
    self.where = where;
  }
  suspend(self);
  self.waits_in = nullptr;
}

void pause(Location where) {
  Thread& self = *current;
  Block& block = *self.block;
  self.polls = 0;
  self.waits_in = poll_pause;
  self.where = where;
  self.warp->paused |= 1u << self.lane;
  block.paused |= 1u << self.warp->index;
  suspend(self);
  self.waits_in = nullptr;
}

void fence() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (observer) observer->fence(*current);
}

}  // namespace imp::sim
