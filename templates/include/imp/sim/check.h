// The check build: kernels compiled with -fsanitize=thread,alignment call __tsan_* for every access to memory (and
// __ubsan_* for a misaligned one); the check_*.cpp, linked instead of the sanitizers' libraries, check bounds, alignment
// and races. They and the engine are not instrumented. It runs on one OS thread.
//
// Order between accesses. Within a block each has a generation (block barriers passed) and its thread's epoch; it is
// ordered before now if its generation is over, or if this thread has synchronised with that epoch (warp_sync, named
// barriers, barrier_arrive -> barrier_wait). Shuffles and other collectives order no memory. Blocks know of each other
// only through fence_gpu + atomic -> atomic + fence_gpu (or load_fresh); store_fresh and add_fresh count as atomics here.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <unordered_map>

#include "engine.h"

namespace imp::sim {

// Where an access was made: a return address (the instruction before it) or a Location. Both lie in this library.
struct Site {
  std::uint32_t offset = 0;
  bool is_location = false;
};

struct Mark {
  std::uint32_t block = 0;  // serial number; never used twice
  std::uint32_t epoch = 0;
  std::uint32_t site = 0;
  std::uint16_t generation = 0;
  std::uint16_t thread : 10 = 0;
  std::uint16_t bytes : 4 = 0;   // of the word, one bit each
  std::uint16_t strong : 1 = 0;  // atomic, or load_fresh: two such do not race
  std::uint16_t is_location : 1 = 0;
};
static_assert(sizeof(Mark) == 16);

// What is remembered of a 4-byte word.
struct Word {
  Mark write;
  Mark read[2];
};

// What a thread knows of a block: all generations before `generation`, and of each thread the accesses up to an epoch.
struct BlockView {
  std::uint32_t generation = 0;
  std::vector<std::uint32_t> epochs;
};
using View = std::unordered_map<std::uint32_t, BlockView>;
using SharedView = std::shared_ptr<const View>;

// What a thread knows of other blocks.
struct Horizon {
  SharedView known;   // ordered before whatever it does next
  SharedView seen;    // published by atomics it has read, without a fence yet: good for load_fresh only
  SharedView fenced;  // what its next atomic publishes

  void join(const Horizon& other);
};

struct ThreadState {
  std::uint32_t epoch = 1;
  Horizon horizon;
};

// What an arrival at a barrier publishes within the block.
struct Arrival {
  std::vector<std::uint32_t> epochs;
  Horizon horizon;
};

// A store that other blocks do not see yet.
struct LateStore {
  std::uintptr_t address;
  std::uint64_t value;
  int bytes;
  bool adds;
  SharedView published;
  std::uint64_t number;  // in the order of their issue
};

struct BlockState {
  std::uint32_t serial = 0;
  std::uint32_t generation = 0;
  std::vector<ThreadState> thread;
  std::vector<std::uint32_t> clock;  // [thread][other thread]: the other's last epoch that is ordered before now
  bool clock_used = false, across_warps = false, horizons_used = false;
  std::vector<Word> words;               // of shared memory
  std::vector<std::uint64_t> on_its_way;  // per word, 2 x serial (+ 1: bulk) of the block whose copy has not landed
  std::vector<Arrival> arrivals;         // [barrier][phase % 2]
  std::unordered_map<std::uintptr_t, LateStore> late;  // by address / 4 of the first byte

  std::uint32_t* clock_of(const Thread& t) { return clock.data() + static_cast<std::size_t>(t.index) * thread.size(); }
  ThreadState& of(const Thread& t) { return thread[static_cast<std::size_t>(t.index)]; }
};

struct Region {
  std::size_t bytes;
  std::string name;
};

// An access and where it was made.
struct Touch {
  std::uintptr_t address;
  std::size_t bytes;
  bool writes;
  bool strong;
  Site site;
  bool again = false;  // it has been remembered already
};

class Checker final : public Observer {
 public:
  Checker();
  void launch_begins(int blocks_at_once) override;
  void launch_ends() override;
  void block_begins(Block& block) override;
  void block_ends(Block& block) override;
  bool only_polls() override;
  void warp_synced(Warp& warp, Block& block) override;
  void barrier_passed(Block& block, const std::uint32_t* waited, bool whole) override;
  void phase_begins(Block& block, const PhaseBarrier& barrier) override;
  void phase_arrived(Thread& thread, const PhaseBarrier& barrier) override;
  void phase_waited(Thread& thread, const PhaseBarrier& barrier) override;
  void fence(Thread& thread) override;
  void access(Thread& thread, const Access& access, Location where) override;
  void atomic(Thread& thread, void* address, int bytes, Location where) override;
  void read_fresh(Thread& thread, const void* address, int bytes, Location where) override;
  void store_fresh(Thread& thread, void* address, std::uint64_t value, int bytes, bool adds, Location where) override;
  void copy_issued(Thread& thread, const AsyncCopy& copy, Location where) override;
  void copy_landed(Thread& thread, const AsyncCopy& copy, Location where) override;
  void bulk_issued(const BulkCopy& copy) override;
  void bulk_landed(const BulkCopy& copy) override;
  void add_region(std::uintptr_t address, std::size_t bytes, const char* name) override;
  void remove_region(std::uintptr_t address) override;
  void explain(char* text, std::size_t capacity) override;

  // An access by instrumented code.
  void touched(const void* address, std::size_t bytes, bool writes, std::size_t alignment, const void* return_address);

 private:
  static constexpr std::uintptr_t page_bytes = 4096;
  using Page = Word[page_bytes / 4];

  BlockState& state_of(const Block& block) { return blocks_[static_cast<std::size_t>(block.slot)]; }
  void synchronise(Block& block, const std::uint32_t* lanes);
  bool ordered(const Thread& thread, const Mark& mark, bool fresh);
  void see(ThreadState& state, BlockState& block, std::uintptr_t address, std::size_t bytes);
  void perform(const LateStore& store);
  void settle(BlockState& state, std::uintptr_t address, std::size_t bytes);
  void settle_all(BlockState& state);

  void check(Thread& thread, const Touch& touch, std::size_t alignment);
  void check_words(Thread& thread, const Touch& touch, bool shared, const Region* region, std::uintptr_t base);
  void issue(Thread& thread, const void* shared, const void* global, std::size_t bytes, bool bulk, Location where);
  void mark_landed(const Block& block, const void* shared, std::size_t bytes);
  Word& word(BlockState& state, std::uintptr_t address, bool shared, std::uintptr_t base);
  const std::pair<const std::uintptr_t, Region>* region_of(std::uintptr_t address);
  bool is_static(std::uintptr_t address) const;
  Site site_of(Location where) const;
  Site site_of(const void* return_address) const;
  std::string name_of(const Site& site) const;

  std::uintptr_t library_ = 0;
  std::vector<std::pair<std::uintptr_t, std::uintptr_t>> segments_;
  std::map<std::uintptr_t, Region> regions_;
  const std::pair<const std::uintptr_t, Region>* last_region_ = nullptr;

  std::uint32_t serial_ = 0, first_serial_ = 1;  // of the last block that began, of the launch's first block
  std::vector<BlockState> blocks_;               // by slot
  std::unordered_map<std::uintptr_t, SharedView> published_;  // by atomics, this launch
  std::uint64_t stores_ = 0;

  std::unordered_map<std::uintptr_t, std::unique_ptr<Page>> pages_;
  struct {
    std::uintptr_t number = ~std::uintptr_t{0};
    Word* words = nullptr;
  } recent_[256];
  std::uint32_t coin_ = 0;
};

extern Checker checker;

}  // namespace imp::sim
