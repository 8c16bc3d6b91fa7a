// Runs launches: every simulated thread is a fiber, switched only where it waits. Blocks run one after the other on
// each OS thread, and a thread never leaves the OS thread it began on. One that ends without waiting costs no switch:
// the same stack goes on with the next.
#include "engine.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "context.h"

namespace imp::sim {

constinit Observer* observer = nullptr;
constinit thread_local Thread* current __attribute__((tls_model("initial-exec"))) = nullptr;

namespace {

constexpr int max_arguments = 24, max_threads = 1024;
constexpr std::size_t stack_bytes = 128 << 10, page = 4096;

enum class Order { ascending, descending, random };

struct Launch {
  void* entry;
  const std::uint64_t* arguments;
  int n_arguments;
  int grid[3];
  int threads;
  int shared_bytes;
  int blocks;
  Order order;
  std::uint64_t seed;
  std::atomic<int> next_block{0};
  std::atomic<bool> failed{false};
};

}  // namespace

struct Fiber {
  Context context;
  std::uint8_t* stack = nullptr;
};

namespace {

// One OS thread's stacks, shared memory and the block it works on. Kept between launches.
struct Worker {
  Context main;
  Block block;
  Launch* launch = nullptr;
  Thread** current = nullptr;  // the running OS thread's imp::sim::current
  Thread* to_start = nullptr;  // handed to the fiber that is switched to next
  std::uint64_t random = 1;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Fiber*> idle;

  Worker();
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

 private:
  std::uint8_t* shared_ = nullptr;
};

constinit thread_local Worker* worker __attribute__((tls_model("initial-exec"))) = nullptr;

std::mutex launch_mutex, error_mutex;
char error_text[8192];
int configured_threads = 1;
Order configured_order = Order::ascending;
std::uint64_t configured_seed = 1;

std::uint8_t* map_pages(std::size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : static_cast<std::uint8_t*>(p);
}

Worker::Worker() {
  shared_ = map_pages(max_shared + page);
  if (shared_) mprotect(shared_ + max_shared, page, PROT_NONE);
  block.shared = shared_;
}
Worker::~Worker() {
  if (shared_) munmap(shared_, max_shared + page);
  for (auto& fiber : fibers) munmap(fiber->stack, stack_bytes);
}

std::uint64_t next_random(std::uint64_t& state) {
  state += 0x9e3779b97f4a7c15;
  std::uint64_t x = state;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

int choose(std::uint32_t mask, Worker& w) {
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

// The thread that runs next, or null if all wait.
inline Thread* pick(Worker& w) {
  Block& block = w.block;
  if (!block.runnable) return nullptr;
  const int index = choose(block.runnable, w);
  Warp& warp = block.warp[index];
  const int lane = choose(warp.ready, w);
  warp.ready &= ~(1u << lane);
  if (!warp.ready) block.runnable &= ~(1u << index);
  return &block.thread[32 * index + lane];
}

void make_ready(Block& block, Warp& warp, std::uint32_t lanes) {
  warp.ready |= lanes;
  block.runnable |= 1u << warp.index;
}

[[noreturn]] void abandon() {
  worker->launch->failed = true;
  Context nowhere;
  switch_context(nowhere, worker->main);
  __builtin_unreachable();
}

void write_error(const char* format, va_list arguments, const Thread* thread, const Location* where) {
  const std::lock_guard lock(error_mutex);
  if (error_text[0]) return;  // the first failure is the one to tell
  int n = std::vsnprintf(error_text, sizeof error_text, format, arguments);
  const auto add = [&](const char* f, auto... values) {
    if (n >= 0 && n < static_cast<int>(sizeof error_text))
      n += std::snprintf(error_text + n, sizeof error_text - static_cast<std::size_t>(n), f, values...);
  };
  if (thread) {
    const Block& b = *thread->block;
    add("; block %d", b.index[0]);
    if (b.grid[1] * b.grid[2] > 1) add(",%d,%d", b.index[1], b.index[2]);
    add(", thread %d", thread->index);
  }
  if (where && where->line()) add(", at %s:%u", where->file_name(), where->line());
}

void set_error(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  write_error(format, arguments, nullptr, nullptr);
  va_end(arguments);
}

[[noreturn]] void deadlock(Worker& w) {
  Block& block = w.block;
  const Thread* first = nullptr;
  const Thread* ended = nullptr;
  int waiting = 0;
  for (const Thread& thread : block.thread) {
    if (thread.waits_in) {
      if (!first) first = &thread;
      ++waiting;
    } else if (!ended) {
      ended = &thread;
    }
  }
  current = const_cast<Thread*>(first);
  if (ended)
    fail(first->where, "deadlock: %d threads wait and nobody will wake them (thread %d has ended); first in %s", waiting,
         ended->index, first->waits_in);
  for (const Thread& thread : block.thread)
    if (thread.waits_in &&
        (std::strcmp(thread.waits_in, first->waits_in) || thread.where.line() != first->where.line()))
      fail(first->where, "deadlock: all %d threads wait; thread %d in %s at %s:%u, first in %s", waiting, thread.index,
           thread.waits_in, thread.where.file_name(), thread.where.line(), first->waits_in);
  fail(first->where, "deadlock: all %d threads wait in %s", waiting, first->waits_in);
}

void fiber_main();

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

template <std::size_t... I>
void call(void* entry, const std::uint64_t* a, std::index_sequence<I...>) {
  reinterpret_cast<void (*)(decltype(static_cast<void>(I), std::uint64_t{})...)>(entry)(a[I]...);
}
template <std::size_t N>
void call_n(void* entry, const std::uint64_t* a) {
  call(entry, a, std::make_index_sequence<N>{});
}
using Call = void (*)(void*, const std::uint64_t*);
template <std::size_t... N>
constexpr auto call_table(std::index_sequence<N...>) {
  struct Table {
    Call call[sizeof...(N)];
  };
  return Table{{call_n<N>...}};
}
constexpr auto calls = call_table(std::make_index_sequence<max_arguments + 1>{});

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

bool begin_block(Worker& w) {
  Launch& launch = *w.launch;
  const int position = launch.next_block.fetch_add(1, std::memory_order_relaxed);
  if (position >= launch.blocks || launch.failed.load(std::memory_order_relaxed)) return false;
  Block& block = w.block;
  const int linear = block_at(launch, position);
  block.linear = linear;
  block.index[0] = linear % launch.grid[0];
  block.index[1] = linear / launch.grid[0] % launch.grid[1];
  block.index[2] = linear / launch.grid[0] / launch.grid[1];
  block.live = block.threads;
  block.bulk.clear();
  const int warps = block.threads / 32;
  block.runnable = ~0u >> (32 - warps);
  for (int i = 0; i < warps; ++i) block.warp[i].ready = ~0u;
  if (observer) {
    std::memset(block.shared, 0xff, static_cast<std::size_t>(block.shared_bytes));  // NaN wherever nobody wrote
    observer->block_begins(block);
  }
  return true;
}

// Fibers outlive launches, and the next launch may come from another OS thread: nothing here may keep the address of a
// thread-local variable, so they are reached through the worker.
void fiber_main() {
  Worker& w = *worker;
  Fiber& self = *w.to_start->fiber;
  for (Thread* thread = w.to_start;;) {
    thread->fiber = &self;
    *w.current = thread;
    calls.call[w.launch->n_arguments](w.launch->entry, w.launch->arguments);
    thread->fiber = nullptr;
    if (!thread->copies.empty() || !thread->groups.empty()) {
      thread->copies.clear();
      thread->groups.clear();
    }
    Context* next_context = &w.main;
    if (--w.block.live == 0) {
      if (begin_block(w)) {
        thread = pick(w);
        continue;
      }
    } else {
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

void size_block(Worker& w) {
  Block& block = w.block;
  const Launch& launch = *w.launch;
  std::memcpy(block.grid, launch.grid, sizeof block.grid);
  block.shared_bytes = launch.shared_bytes;
  if (block.threads == launch.threads) return;
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
}

// After a failure the stacks hold half-run threads: forget them all.
void reset(Worker& w) {
  w.block.threads = 0;
  for (Barrier& barrier : w.block.barrier) barrier = {};
  w.idle.clear();
  for (std::size_t i = 0; i < w.fibers.size(); ++i) {
    Fiber& fiber = *w.fibers[i];
    prepare(fiber.context, fiber.stack, stack_bytes - i % 61 * 64, fiber_main);
    w.idle.push_back(&fiber);
  }
}

void run_blocks(Worker& w, Launch& launch, int index) {
  worker = &w;
  w.current = &current;
  w.launch = &launch;
  w.random = launch.seed + static_cast<std::uint64_t>(index);
  size_block(w);
  Fiber* fiber = take_fiber(w);
  if (!fiber || !w.block.shared) {
    set_error("no memory for a simulated block");
    launch.failed = true;
    return;
  }
  if (!begin_block(w)) {
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

bool same(const Location& a, const Location& b) {
  return std::bit_cast<const void*>(a) == std::bit_cast<const void*>(b) ||
         (a.line() == b.line() && a.column() == b.column() && !std::strcmp(a.file_name(), b.file_name()));
}

}  // namespace

void fail(Location where, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  write_error(format, arguments, current, &where);
  va_end(arguments);
  abandon();
}

namespace {
inline bool inside(std::uintptr_t address, const void* begin, std::size_t bytes) {
  return address - reinterpret_cast<std::uintptr_t>(begin) < bytes;
}
}  // namespace

bool is_private(const Thread& thread, std::uintptr_t address) {
  const Block& block = *thread.block;
  return inside(address, thread.fiber->stack, stack_bytes) || inside(address, &current, sizeof current) ||
         inside(address, block.thread.data(), block.thread.size() * sizeof(Thread)) ||
         inside(address, block.warp.data(), block.warp.size() * sizeof(Warp)) || inside(address, worker, sizeof(Worker));
}
bool is_on_a_stack(std::uintptr_t address) {
  return std::any_of(worker->fibers.begin(), worker->fibers.end(),
                     [=](const auto& fiber) { return inside(address, fiber->stack, stack_bytes); });
}

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

void barrier_arrive(const char* name, int id, int threads, Location where) {
  Thread& self = *current;
  Block& block = *self.block;
  if (id < 0 || id > 15) fail(where, "%s: barrier %d does not exist, there are 0 to 15", name, id);
  if (threads % 32 || threads < 0 || threads > block.threads)
    fail(where, "%s: %d threads, but it takes whole warps of a block of %d", name, threads, block.threads);
  const int expected = threads ? threads : block.threads;
  Barrier& barrier = block.barrier[id];
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

void fence() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (observer) observer->fence(*current);
}

void async_copy(void* shared, const void* global, Location where) {
  Thread& self = *current;
  self.copies.push_back({shared, global});
  if (observer) observer->copy_issued(self, self.copies.back(), where);
}

void bulk_issue(void* shared, const void* global, int bytes, const void* barrier, Location where) {
  Thread& self = *current;
  const BulkCopy copy{static_cast<std::uint8_t*>(shared), static_cast<const std::uint8_t*>(global), bytes, barrier};
  self.block->bulk.push_back(copy);
  if (!observer) return;
  for (int at = 0; at < bytes; at += 16) observer->copy_issued(self, {copy.shared + at, copy.global + at}, where);
}

// Runs once for the whole warp.
void bulk_land(const void* barrier, Location where) {
  Thread& self = *current;
  std::vector<BulkCopy>& bulk = self.block->bulk;
  auto copy = bulk.begin();
  while (copy != bulk.end() && copy->barrier != barrier) ++copy;
  if (copy == bulk.end()) fail(where, "bulk_wait for a copy that nobody issued");
  if (observer) {
    for (int at = 0; at < copy->bytes; at += 16) observer->copy_landed(self, {copy->shared + at, copy->global + at}, where);
    observer->warp_synced(*self.warp, *self.block);
  }
  std::memcpy(copy->shared, copy->global, static_cast<std::size_t>(copy->bytes));
  bulk.erase(copy);
}

void async_commit() {
  Thread& self = *current;
  int committed = 0;
  for (int group : self.groups) committed += group;
  self.groups.push_back(static_cast<int>(self.copies.size()) - committed);
}

void async_wait(int groups_in_flight, Location where) {
  Thread& self = *current;
  const auto in_flight = static_cast<std::size_t>(groups_in_flight);
  if (self.groups.size() <= in_flight) return;
  const auto last_group = self.groups.end() - groups_in_flight;
  int landing = 0;
  for (auto group = self.groups.begin(); group != last_group; ++group) landing += *group;
  self.groups.erase(self.groups.begin(), last_group);
  const auto last_copy = self.copies.begin() + landing;
  for (auto copy = self.copies.begin(); copy != last_copy; ++copy) {
    if (observer) observer->copy_landed(self, *copy, where);
    std::memcpy(copy->shared, copy->global, 16);
  }
  self.copies.erase(self.copies.begin(), last_copy);
}

}  // namespace imp::sim

using namespace imp::sim;

extern "C" {

// 0: done. Otherwise imp_sim_error says what happened; the launch was given up part way.
int imp_sim_launch(void* entry, const std::uint64_t* arguments, int n_arguments, const int* grid, int threads,
                   int shared_bytes) {
  const std::lock_guard lock(launch_mutex);
  error_text[0] = 0;
  if (!entry || n_arguments < 0 || n_arguments > max_arguments || threads < 32 || threads > max_threads || threads % 32 ||
      shared_bytes < 0 || shared_bytes > max_shared || grid[0] < 1 || grid[1] < 1 || grid[2] < 1 ||
      static_cast<long long>(grid[0]) * grid[1] > (1 << 30) / grid[2]) {
    set_error("bad launch: grid %d x %d x %d, %d threads (whole warps, up to %d), %d bytes shared (up to %d), %d arguments "
              "(up to %d)",
              grid[0], grid[1], grid[2], threads, max_threads, shared_bytes, max_shared, n_arguments, max_arguments);
    return 1;
  }
  Launch launch{entry, arguments, n_arguments, {grid[0], grid[1], grid[2]}, threads, shared_bytes,
                grid[0] * grid[1] * grid[2], configured_order, configured_seed};
  static std::vector<std::unique_ptr<Worker>> workers;
  const int n = observer ? 1 : std::min(configured_threads, launch.blocks);
  while (static_cast<int>(workers.size()) < n) workers.push_back(std::make_unique<Worker>());
  if (observer) observer->launch_begins();
  std::vector<std::thread> others;
  for (int i = 1; i < n; ++i) others.emplace_back([&, i] { run_blocks(*workers[i], launch, i); });
  run_blocks(*workers[0], launch, 0);
  for (std::thread& other : others) other.join();
  if (!launch.failed) return 0;
  if (observer) observer->explain(error_text, sizeof error_text);
  Dl_info info;
  if (dladdr(entry, &info) && info.dli_sname) {
    const std::string text = error_text;
    std::snprintf(error_text, sizeof error_text, "kernel %s: %s", info.dli_sname, text.c_str());
  }
  return 1;
}

const char* imp_sim_error() { return error_text; }

// order: 0 ascending, 1 descending, 2 random (from the seed), of the blocks and of the threads that may run.
void imp_sim_configure(int threads, int order, std::uint64_t seed) {
  const std::lock_guard lock(launch_mutex);
  configured_threads = threads < 1 ? 1 : threads > 64 ? 64 : threads;
  configured_order = order == 1 ? Order::descending : order == 2 ? Order::random : Order::ascending;
  configured_seed = seed;
}

// Global memory that kernels may touch; only the check build looks.
void imp_sim_register(std::uint64_t address, std::uint64_t bytes, const char* name) {
  const std::lock_guard lock(launch_mutex);
  if (observer) observer->add_region(address, bytes, name);
}
void imp_sim_unregister(std::uint64_t address) {
  const std::lock_guard lock(launch_mutex);
  if (observer) observer->remove_region(address);
}

}  // extern "C"
