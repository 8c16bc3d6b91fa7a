// An OS thread at work: stacks, blocks, whose turn it is. A thread that ends without waiting costs no switch: the same
// stack goes on with the next.
#include "engine_worker.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace imp::sim {

constinit thread_local Thread* current __attribute__((tls_model("initial-exec"))) = nullptr;
constinit thread_local Worker* worker __attribute__((tls_model("initial-exec"))) = nullptr;

namespace {

constexpr std::size_t page = 4096;
constexpr int patience = 1000;  // rounds of polling in which nothing changes

std::uint8_t* map_pages(std::size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : static_cast<std::uint8_t*>(p);
}

// Every thread that polls may look again. False: none does.
bool wake(Worker& w) {
  bool any = false;
  for (int i = 0; i < w.at_once; ++i) {
    Block& block = *w.blocks[i];
    for (; block.paused; block.paused &= block.paused - 1) {
      Warp& warp = block.warp[std::countr_zero(block.paused)];
      make_ready(block, warp, std::exchange(warp.paused, 0));
      any = true;
    }
  }
  return any;
}

bool next_round(Worker& w) {
  if (!wake(w)) return false;
  std::uint64_t changes = 0;
  for (int i = 0; i < w.at_once; ++i) changes += w.blocks[i]->changes;
  const bool late = observer && observer->only_polls();
  const bool quiet = changes == std::exchange(w.changes, changes) && !late;
  w.quiet_rounds = quiet ? w.quiet_rounds + 1 : 0;
  return w.quiet_rounds < patience;
}

int block_at(const Launch& launch, int position) {
  switch (launch.order) {
    case Order::ascending:
      return position;
    case Order::descending:
      return launch.blocks - 1 - position;
    default: {
      // Stepping by a number without a common divisor visits every block once.
      std::uint64_t state = launch.seed;
      const auto n = static_cast<std::uint64_t>(launch.blocks);
      const std::uint64_t first = next_random(state) % n;
      std::uint64_t step = next_random(state) % n | 1;
      const auto common = [](std::uint64_t a, std::uint64_t b) {
        while (b) a = std::exchange(b, a % b);
        return a;
      };
      while (common(step, n) != 1) ++step;
      return static_cast<int>((first + static_cast<std::uint64_t>(position) * step) % n);
    }
  }
}

void begin(Block& block, int linear) {
  block.index[0] = linear % block.grid[0];
  block.index[1] = linear / block.grid[0] % block.grid[1];
  block.index[2] = linear / block.grid[0] / block.grid[1];
  block.live = block.threads;
  block.phase_barriers.clear();
  const int warps = block.threads / 32;
  block.runnable = ~0u >> (32 - warps);
  block.paused = 0;
  for (int i = 0; i < warps; ++i) {
    block.warp[i].ready = ~0u;
    block.warp[i].products.clear();
    block.warp[i].product_groups.clear();
  }
  if (observer) {
    std::memset(block.shared, 0xff, static_cast<std::size_t>(block.shared_bytes));  // NaN wherever nobody wrote
    observer->block_begins(block);
  }
}

// The next block of a launch that runs them one after the other; false without one.
bool begin_next(Worker& w) {
  Launch& launch = *w.launch;
  const int position = launch.next_block.fetch_add(1, std::memory_order_relaxed);
  if (position >= launch.blocks || launch.failed.load(std::memory_order_relaxed)) return false;
  begin(*w.block, block_at(launch, position));
  return true;
}

// Fibers outlive launches, and the next launch may come from another OS thread: nothing here may keep the address of a
// thread-local variable, so they are reached through the worker.
void fiber_main() {
  Worker& w = *worker;
  Fiber& self = *w.to_start->fiber;
  for (Thread* thread = w.to_start;;) {
    thread->fiber = &self;
    thread->polls = 0;
    *w.current = thread;
    w.launch->call(w.launch->entry, w.launch->arguments);
    thread->fiber = nullptr;
    if (!thread->copies.empty() || !thread->groups.empty()) {
      thread->copies.clear();
      thread->groups.clear();
    }
    Block& block = *thread->block;
    ++block.changes;
    bool finished = false;
    if (--block.live == 0) {
      if (observer) observer->block_ends(block);
      finished = (w.launch->resident || !begin_next(w)) && --w.unfinished == 0;
    }
    Context* next_context = &w.main;
    if (!finished) {
      Thread* next = pick(w);
      if (!next) deadlock(w);
      if (!next->fiber) {
        thread = next;
        continue;
      }
      *w.current = next;
      next_context = &next->fiber->context;
    }
    w.idle.push_back(&self);
    switch_context(self.context, *next_context);
    thread = w.to_start;
  }
}

// The block that runs in this slot; null without memory.
Block* prepare_block(Worker& w, int slot) {
  if (slot == static_cast<int>(w.blocks.size())) {
    auto made = std::make_unique<Block>();
    made->slot = slot;
    made->shared = map_pages(max_shared + page);
    if (!made->shared) return nullptr;
    mprotect(made->shared + max_shared, page, PROT_NONE);
    w.blocks.push_back(std::move(made));
  }
  Block& block = *w.blocks[slot];
  const Launch& launch = *w.launch;
  std::memcpy(block.grid, launch.grid, sizeof block.grid);
  block.shared_bytes = launch.shared_bytes;
  if (block.threads == launch.threads) return &block;
  block.threads = launch.threads;
  block.warp.assign(static_cast<std::size_t>(launch.threads / 32), Warp{});
  block.thread.assign(static_cast<std::size_t>(launch.threads), Thread{});
  for (int i = 0; i < launch.threads / 32; ++i) block.warp[i].index = i;
  for (int i = 0; i < launch.threads; ++i) {
    Thread& thread = block.thread[i];
    thread.index = i;
    thread.lane = i % 32;
    thread.block = &block;
    thread.warp = &block.warp[i / 32];
  }
  return &block;
}

// After a failure the stacks hold half-run threads: forget them all.
void reset(Worker& w) {
  for (auto& block : w.blocks) {
    block->threads = 0;
    for (NamedBarrier& barrier : block->named_barriers) barrier = {};
  }
  w.idle.clear();
  for (std::size_t i = 0; i < w.fibers.size(); ++i) {
    Fiber& fiber = *w.fibers[i];
    prepare(fiber.context, fiber.stack, stack_bytes - i % 61 * 64, fiber_main);
    w.idle.push_back(&fiber);
  }
}

bool inside(std::uintptr_t address, const void* begin, std::size_t bytes) {
  return address - reinterpret_cast<std::uintptr_t>(begin) < bytes;
}

}  // namespace

Worker::~Worker() {
  for (auto& block : blocks) munmap(block->shared, max_shared + page);
  for (auto& fiber : fibers) munmap(fiber->stack, stack_bytes);
}

std::uint64_t next_random(std::uint64_t& state) {
  state += 0x9e3779b97f4a7c15;
  std::uint64_t x = state;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

bool next_turn(Worker& w) {
  const int n = w.at_once;
  int slot = w.block->slot;
  if (w.mixes) {
    // Who polls may also see something before everybody else is stuck: about once in a round of all threads, since all
    // must be able to get stuck.
    const std::uint64_t number = next_random(w.random);
    if (number % static_cast<unsigned>(n * w.block->threads) == 0) wake(w);
    if ((number >> 32) % 64 == 0) slot = static_cast<int>(next_random(w.random) % static_cast<unsigned>(n));
  }
  for (;;) {
    for (int i = 0; i < n; ++i) {
      if (w.blocks[slot]->runnable) {
        w.block = w.blocks[slot].get();
        return true;
      }
      slot = w.launch->order == Order::descending ? (slot ? slot : n) - 1 : slot + 1 == n ? 0 : slot + 1;
    }
    if (!next_round(w)) return false;
  }
}

Fiber* take_fiber(Worker& w) {
  if (!w.idle.empty()) {
    Fiber* fiber = w.idle.back();
    w.idle.pop_back();
    return fiber;
  }
  auto fiber = std::make_unique<Fiber>();
  fiber->stack = map_pages(stack_bytes);
  if (!fiber->stack) return nullptr;
  mprotect(fiber->stack, page, PROT_NONE);
  // Equal stack tops would fall into the same cache sets: shift each by another number of lines.
  prepare(fiber->context, fiber->stack, stack_bytes - w.fibers.size() % 61 * 64, fiber_main);
  w.fibers.push_back(std::move(fiber));
  return w.fibers.back().get();
}

void run_blocks(Worker& w, Launch& launch, int index) {
  worker = &w;
  w.current = &current;
  w.launch = &launch;
  w.random = launch.seed + static_cast<std::uint64_t>(index);
  w.mixes = launch.resident && launch.order == Order::random;
  w.at_once = launch.resident ? launch.blocks : 1;
  w.unfinished = w.at_once;
  w.quiet_rounds = 0;
  Fiber* fiber = take_fiber(w);
  bool ready = fiber != nullptr;
  for (int slot = 0; ready && slot < w.at_once; ++slot) ready = prepare_block(w, slot) != nullptr;
  if (!ready) {
    set_error("no memory for %d simulated blocks at once", w.at_once);
    launch.failed = true;
    return;
  }
  w.block = w.blocks[launch.order == Order::descending ? w.at_once - 1 : 0].get();
  if (launch.resident) {
    for (int slot = 0; slot < w.at_once; ++slot) begin(*w.blocks[slot], slot);
  } else if (!begin_next(w)) {
    w.idle.push_back(fiber);
    return;
  }
  Thread* thread = pick(w);
  thread->fiber = fiber;
  w.to_start = thread;
  current = thread;
  switch_context(w.main, fiber->context);
  current = nullptr;
  if (launch.failed) reset(w);
}

bool is_private(const Thread& thread, std::uintptr_t address) {
  const Block& block = *thread.block;
  return (thread.fiber && inside(address, thread.fiber->stack, stack_bytes)) || inside(address, &current, sizeof current) ||
         inside(address, &block, sizeof block) ||
         inside(address, block.thread.data(), block.thread.size() * sizeof(Thread)) ||
         inside(address, block.warp.data(), block.warp.size() * sizeof(Warp)) || inside(address, worker, sizeof(Worker));
}
bool is_on_a_stack(std::uintptr_t address) {
  return std::any_of(worker->fibers.begin(), worker->fibers.end(),
                     [=](const auto& fiber) { return inside(address, fiber->stack, stack_bytes); });
}

}  // namespace imp::sim
