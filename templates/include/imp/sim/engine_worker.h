// What the engine's files share: a launch, the OS threads that work on it, and the step from one simulated thread to the
// next. Every simulated thread is a fiber, switched only where it waits, and never leaves the OS thread it began on.
#pragma once

#include <atomic>
#include <bit>
#include <memory>

#include "context.h"
#include "engine.h"

namespace imp::sim {

constexpr std::size_t stack_bytes = 128 << 10;

enum class Order { ascending, descending, random };

// The blocks of a resident launch run in turns, all of them on one OS thread; otherwise one after the other.
struct Launch {
  void* entry;
  void (*call)(void* entry, const std::uint64_t* arguments);
  const std::uint64_t* arguments;
  int grid[3];
  int threads;
  int shared_bytes;
  int blocks;
  bool resident;
  Order order;
  std::uint64_t seed;
  std::atomic<int> next_block{0};
  std::atomic<bool> failed{false};
};

struct Fiber {
  Context context;
  std::uint8_t* stack = nullptr;
};

// One OS thread's stacks and the blocks it works on, each with its shared memory. Kept between launches.
struct Worker {
  Context main;
  Launch* launch = nullptr;
  Thread** current = nullptr;  // the running OS thread's imp::sim::current
  Thread* to_start = nullptr;  // handed to the fiber that is switched to next
  Block* block = nullptr;      // whose threads run
  bool mixes = false;          // any block's turn may come at any time
  int favourite = 0;           // warp, in random order
  int at_once = 0;             // so many of `blocks` belong to the launch
  int unfinished = 0;          // and so many of these still run
  int quiet_rounds = 0;        // since anything changed that a polling thread can wait for
  std::uint64_t changes = 0;
  std::uint64_t random = 1;
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Fiber*> idle;

  Worker() = default;
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
};

extern constinit thread_local Worker* worker __attribute__((tls_model("initial-exec")));

std::uint64_t next_random(std::uint64_t& state);
// Lets the next block that can have its turn, and at last the threads that poll. False: nothing will ever happen again.
bool next_turn(Worker& w);
// A stack for a thread that begins; null without memory.
Fiber* take_fiber(Worker& w);
// Works on blocks of the launch until there are none left or it has failed. `index` numbers the OS threads.
void run_blocks(Worker& w, Launch& launch, int index);

[[noreturn]] void abandon();
[[noreturn]] void deadlock(Worker& w);
void clear_error();
void set_error(const char* format, ...) __attribute__((format(printf, 1, 2)));

inline int choose(std::uint32_t mask, Worker& w) {
  switch (w.launch->order) {
    case Order::ascending:
      return std::countr_zero(mask);
    case Order::descending:
      return 31 - std::countl_zero(mask);
    default:
      for (auto skip = next_random(w.random) % static_cast<unsigned>(std::popcount(mask)); skip; --skip)
        mask &= mask - 1;
      return std::countr_zero(mask);
  }
}

// In random order one warp after the other is ahead of the rest for a while.
inline int choose_warp(std::uint32_t mask, Worker& w) {
  if (w.launch->order != Order::random) return choose(mask, w);
  if (next_random(w.random) % 128 == 0) w.favourite = static_cast<int>(next_random(w.random) % 32);
  return (std::countr_zero(std::rotr(mask, w.favourite)) + w.favourite) % 32;
}

// The thread that runs next, or null if all wait.
inline Thread* pick(Worker& w) {
  if ((!w.block->runnable || w.mixes) && !next_turn(w)) return nullptr;
  Block& block = *w.block;
  const int index = choose_warp(block.runnable, w);
  Warp& warp = block.warp[index];
  const int lane = choose(warp.ready, w);
  warp.ready &= ~(1u << lane);
  if (!warp.ready) block.runnable &= ~(1u << index);
  return &block.thread[32 * index + lane];
}

inline void make_ready(Block& block, Warp& warp, std::uint32_t lanes) {
  warp.ready |= lanes;
  block.runnable |= 1u << warp.index;
}

// The calling thread has registered what it waits for (or is ready again): run another one.
inline __attribute__((always_inline)) void suspend(Thread& self) {
  Worker& w = *worker;
  Thread* next = pick(w);
  if (!next) deadlock(w);
  if (next == &self) return;
  current = next;
  Fiber* fiber = next->fiber;
  if (!fiber) {
    fiber = take_fiber(w);
    if (!fiber) fail(self.where, "no memory for another stack");
    next->fiber = fiber;
    w.to_start = next;
  }
  switch_context(self.fiber->context, fiber->context);
}

}  // namespace imp::sim
