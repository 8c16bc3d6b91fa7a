// What the instruction twins see of the engine that runs the threads of a launch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <vector>

namespace imp::sim {

using Location = std::source_location;

struct Block;
struct Fiber;

// Runs one warp instruction: arguments[i] is what lane i deposited.
using Combine = void (*)(void* const* arguments);

// A product of a warpgroup that nobody has waited for: a warp's part of it, with what each lane gave. `between`: bytes from
// one panel to the next where lines are rows of the right operand, 0 where they are its columns.
struct Product {
  float* sums[32];
  const std::uint32_t* fragments[32];
  const std::uint8_t* panel;
  int step;
  int columns;
  int between = 0;
};

struct Warp {
  std::uint32_t ready = 0;    // lanes that may run now
  std::uint32_t arrived = 0;  // lanes that wait in the collective below
  std::uint32_t paused = 0;   // lanes that poll: they run again when no other thread can
  int index = 0;
  Combine combine = nullptr;
  Location where;
  void* arguments[32];
  std::vector<Product> products;            // not made yet, oldest first
  std::vector<std::size_t> product_groups;  // where among them each committed group ends
};

struct AsyncCopy {
  void* shared;
  const void* global;
};

struct Thread {
  int index = 0;
  int lane = 0;
  Block* block = nullptr;
  Warp* warp = nullptr;
  Fiber* fiber = nullptr;          // set while the thread has begun and not finished
  const char* waits_in = nullptr;  // null: running, ready or finished
  Location where;
  int polls = 0;                  // since it last let others go on
  std::vector<AsyncCopy> copies;  // not landed yet, oldest first
  std::vector<int> groups;        // sizes of the committed groups among them, oldest first
};

struct BulkCopy {
  std::uint8_t* shared = nullptr;
  const std::uint8_t* global = nullptr;
  int bytes = 0;
  Thread* issuer = nullptr;
  Location where;
};

// One of the sixteen barriers of the hardware: block_sync and named_sync.
struct NamedBarrier {
  int expected = 0;
  int arrived = 0;
  Location where;
  std::uint32_t waiting[32] = {};
};

// A barrier that lies in shared memory, of one arrival a phase. The word there holds no more than this one's index.
struct PhaseBarrier {
  const std::uint64_t* address = nullptr;
  int index = 0;
  std::uint32_t phases = 0;       // complete
  bool waited_for = true;         // somebody has waited for the last of them
  bool in_flight = false;         // the phase after them has its arrival, and `copy` has not landed
  int denials = 0;                // how often barrier_done says no before it lands
  BulkCopy copy;
  std::vector<Thread*> waiting;
};

struct Block {
  int slot = 0;  // among the blocks that this OS thread runs at once
  int index[3] = {};
  int grid[3] = {};
  int threads = 0;
  int live = 0;
  std::uint32_t runnable = 0;  // warps with a ready lane
  std::uint32_t paused = 0;    // warps with a paused lane
  std::uint64_t changes = 0;   // what a polling thread, of any block, may be waiting for
  bool combining = false;      // a collective's function runs
  std::uint8_t* shared = nullptr;
  int shared_bytes = 0;
  std::vector<Thread> thread;
  std::vector<Warp> warp;
  std::vector<PhaseBarrier> phase_barriers;
  NamedBarrier named_barriers[16];
};

struct Access {
  const void* address;
  int bytes;
  bool writes;
  bool strong;  // atomic: two such do not race
};

// Sees what happens between threads; the check build installs one (check.cpp), the plain build has none.
class Observer {
 public:
  virtual void launch_begins(int blocks_at_once) = 0;
  virtual void launch_ends() = 0;
  virtual void block_begins(Block& block) = 0;
  virtual void block_ends(Block& block) = 0;
  // No thread can go on but those that poll. Says whether they may find something new now.
  virtual bool only_polls() = 0;
  virtual void warp_synced(Warp& warp, Block& block) = 0;
  // `waited` holds the lanes of each warp that a barrier let go; `whole` says that they are the whole block.
  virtual void barrier_passed(Block& block, const std::uint32_t* waited, bool whole) = 0;
  virtual void phase_begins(Block& block, const PhaseBarrier& barrier) = 0;
  virtual void phase_arrived(Thread& thread, const PhaseBarrier& barrier) = 0;
  virtual void phase_waited(Thread& thread, const PhaseBarrier& barrier) = 0;
  virtual void fence(Thread& thread) = 0;
  virtual void access(Thread& thread, const Access& access, Location where) = 0;
  virtual void atomic(Thread& thread, void* address, int bytes, Location where) = 0;
  virtual void read_fresh(Thread& thread, const void* address, int bytes, Location where) = 0;
  // Does the store, or the addition, at once or later: other blocks may see it late and in any order.
  virtual void store_fresh(Thread& thread, void* address, std::uint64_t value, int bytes, bool adds, Location where) = 0;
  virtual void copy_issued(Thread& thread, const AsyncCopy& copy, Location where) = 0;
  virtual void copy_landed(Thread& thread, const AsyncCopy& copy, Location where) = 0;
  virtual void bulk_issued(const BulkCopy& copy) = 0;
  virtual void bulk_landed(const BulkCopy& copy) = 0;
  virtual void add_region(std::uintptr_t address, std::size_t bytes, const char* name) = 0;
  virtual void remove_region(std::uintptr_t address) = 0;
  // Completes the text of a failure, outside any simulated thread.
  virtual void explain(char* text, std::size_t capacity) = 0;

 protected:
  ~Observer() = default;
};
extern constinit Observer* observer;

// Whether an address is the thread's own business (its stack, what the engine keeps about it), or any other thread's.
bool is_private(const Thread& thread, std::uintptr_t address);
bool is_on_a_stack(std::uintptr_t address);
// Bytes of shared memory that are mapped, whatever a launch asks for.
constexpr int max_shared = 256 << 10;

// The simulated thread that runs now on this OS thread.
extern constinit thread_local Thread* current __attribute__((tls_model("initial-exec")));

// Abandons the launch; printf-style text, the block and thread are added.
[[noreturn]] void fail(Location where, const char* format, ...) __attribute__((format(printf, 2, 3)));

void warp_arrive(const char* name, void* argument, Combine combine, Location where);
void block_arrive(const char* name, int id, int threads, Location where);
inline constexpr char poll_pause[] = "Poll::pause";  // what a polling thread waits in
void pause(Location where);
void fence();

void phase_init(std::uint64_t* barrier, Location where);
void phase_arrive(std::uint64_t* barrier, Location where);
bool phase_done(std::uint64_t* barrier, int parity, Location where);
void phase_wait(const char* name, std::uint64_t* barrier, int parity, bool for_copy, Location where);
void bulk_issue(void* shared, const void* global, int bytes, std::uint64_t* barrier, Location where);

void async_copy(void* shared, const void* global, Location where);
void async_commit();
void async_wait(int groups_in_flight, Location where);

// A lane gives its sums and fragments as the first.
void product_issue(const Product& product, Location where);
void product_commit(Location where);
void product_wait(int groups_left, Location where);

// A poll that never lets others go on would never end.
constexpr int max_polls = 1 << 22;
inline __attribute__((always_inline)) void count_poll(const char* name, Location where) {
  if (++current->polls > max_polls) fail(where, "%s %d times without %s", name, max_polls, poll_pause);
}

// The one primitive of the warp: every lane deposits its argument and waits; when the last has come, `function` (which
// captures nothing) runs once over all 32, then everybody goes on.
template <class Argument, class Function>
inline __attribute__((always_inline)) void collective(const char* name, Argument& argument, Function, Location where) {
  warp_arrive(
      name, &argument, [](void* const* arguments) { Function{}(reinterpret_cast<Argument* const*>(arguments)); }, where);
}

}  // namespace imp::sim
