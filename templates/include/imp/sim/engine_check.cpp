// The check build: kernels compiled with -fsanitize=thread,alignment call __tsan_* for every access to memory (and
// __ubsan_* for a misaligned one); this file, linked instead of the sanitizers' libraries, checks bounds, alignment and
// races. Engine and this file are not instrumented.
//
// Order between accesses. Within a block each has a generation (block barriers passed) and its thread's epoch; it is
// ordered before now if its generation is over, or if this thread has synchronised with that epoch (warp_sync, named
// barriers). Shuffles and other collectives order no memory. Blocks know of each other only through
// fence_gpu + atomic -> atomic + fence_gpu (or load_fresh).
#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>

#include "engine.h"

namespace imp::sim {
namespace {

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
  std::uint16_t bytes : 4 = 0;  // of the word, one bit each
  std::uint16_t strong : 1 = 0;  // atomic, or load_fresh: two such do not race
  std::uint16_t is_location : 1 = 0;
};
static_assert(sizeof(Mark) == 16);

// What is remembered of a 4-byte word.
struct Word {
  Mark write;
  Mark read[2];
};
constexpr std::uintptr_t page_bytes = 4096;
using Page = Word[page_bytes / 4];

// What a thread knows of a block: all generations before `generation`, and of each thread the accesses up to an epoch.
struct BlockView {
  std::uint32_t generation = 0;
  std::vector<std::uint32_t> epochs;
};
using View = std::unordered_map<std::uint32_t, BlockView>;
using SharedView = std::shared_ptr<const View>;

SharedView join(const SharedView& a, const SharedView& b) {
  if (!b || a == b) return a;
  if (!a) return b;
  auto all = std::make_shared<View>(*a);
  for (const auto& [serial, view] : *b) {
    BlockView& mine = (*all)[serial];
    mine.generation = std::max(mine.generation, view.generation);
    mine.epochs.resize(std::max(mine.epochs.size(), view.epochs.size()));
    for (std::size_t i = 0; i < view.epochs.size(); ++i) mine.epochs[i] = std::max(mine.epochs[i], view.epochs[i]);
  }
  return all;
}

struct ThreadState {
  std::uint32_t epoch = 1;
  SharedView known;   // ordered before whatever this thread does next
  SharedView seen;    // published by atomics this thread has read, without a fence yet: good for load_fresh only
  SharedView fenced;  // what the thread's next atomic publishes
};

struct Region {
  std::size_t bytes;
  std::string name;
};

struct Access {
  std::uintptr_t address;
  std::size_t bytes;
  bool writes;
  bool strong;
  Site site;
};

class Checker final : public Observer {
 public:
  Checker();
  void launch_begins() override;
  void block_begins(Block& block) override;
  void warp_synced(Warp& warp, Block& block) override;
  void barrier_passed(Block& block, const std::uint32_t* waited, bool whole) override;
  void fence(Thread& thread) override;
  void atomic(Thread& thread, void* address, int bytes, Location where) override;
  void read(Thread& thread, const void* address, int bytes, Location where) override;
  void read_fresh(Thread& thread, const void* address, int bytes, Location where) override;
  void copy_issued(Thread& thread, const AsyncCopy& copy, Location where) override;
  void copy_landed(Thread& thread, const AsyncCopy& copy, Location where) override;
  void add_region(std::uintptr_t address, std::size_t bytes, const char* name) override;
  void remove_region(std::uintptr_t address) override;
  void explain(char* text, std::size_t capacity) override;

  void access(const void* address, std::size_t bytes, bool writes, std::size_t alignment, const void* return_address);

 private:
  void check(Thread& thread, const Access& access, std::size_t alignment);
  void check_words(Thread& thread, const Access& access, bool shared, const Region* region, std::uintptr_t base);
  bool ordered(const Thread& thread, const Mark& mark, bool fresh) const;
  void synchronise(Block& block, const std::uint32_t* lanes);
  Word& word(std::uintptr_t address, bool shared, std::uintptr_t base);
  const std::pair<const std::uintptr_t, Region>* region_of(std::uintptr_t address);
  bool is_static(std::uintptr_t address) const;
  Site site_of(Location where) const;
  Site site_of(const void* return_address) const;
  std::string name_of(const Site& site) const;

  std::uintptr_t library_ = 0;
  std::vector<std::pair<std::uintptr_t, std::uintptr_t>> segments_;
  std::map<std::uintptr_t, Region> regions_;
  const std::pair<const std::uintptr_t, Region>* last_region_ = nullptr;

  std::uint32_t serial_ = 0, first_serial_ = 1;  // of the block that runs, of the launch's first block
  std::uint32_t generation_ = 0;
  std::vector<ThreadState> state_;
  std::vector<std::uint32_t> clock_;  // [thread][other thread]: the other's last epoch that is ordered before now
  bool clock_used_ = false, across_warps_ = false, views_used_ = false;
  std::unordered_map<std::uintptr_t, SharedView> published_;  // by atomics, this launch

  std::vector<Word> shared_words_;
  std::vector<std::uint32_t> pending_;  // serial of the block that has an asynchronous copy on its way to this word
  std::unordered_map<std::uintptr_t, std::unique_ptr<Page>> pages_;
  struct {
    std::uintptr_t number = ~std::uintptr_t{0};
    Word* words = nullptr;
  } recent_[256];
  std::uint32_t coin_ = 0;
};

Checker checker;

const char* verb(bool writes) { return writes ? "write" : "read"; }

Checker::Checker() : shared_words_(max_shared / 4), pending_(max_shared / 4) {
  Dl_info info;
  if (dladdr(&checker, &info)) library_ = reinterpret_cast<std::uintptr_t>(info.dli_fbase);
  dl_iterate_phdr(
      [](dl_phdr_info* object, std::size_t, void* self) {
        auto& me = *static_cast<Checker*>(self);
        std::vector<std::pair<std::uintptr_t, std::uintptr_t>> segments;
        bool mine = false;
        for (int i = 0; i < object->dlpi_phnum; ++i) {
          const auto& header = object->dlpi_phdr[i];
          if (header.p_type != PT_LOAD) continue;
          segments.emplace_back(object->dlpi_addr + header.p_vaddr, object->dlpi_addr + header.p_vaddr + header.p_memsz);
          mine |= segments.back().first <= me.library_ && me.library_ < segments.back().second;
        }
        if (mine) me.segments_ = segments;
        return mine ? 1 : 0;
      },
      this);
  observer = this;
}

void Checker::launch_begins() {
  first_serial_ = serial_ + 1;
  published_.clear();
}

void Checker::block_begins(Block& block) {
  ++serial_;
  generation_ = 0;
  const auto n = static_cast<std::size_t>(block.threads);
  state_.assign(n, {});
  if (clock_used_ || clock_.size() != n * n) clock_.assign(n * n, 0);
  clock_used_ = across_warps_ = views_used_ = false;
}

// Everything the given lanes did so far is ordered before everything they do from now on.
void Checker::synchronise(Block& block, const std::uint32_t* lanes) {
  const auto n = static_cast<std::size_t>(block.threads);
  std::vector<std::size_t> members;
  for (std::size_t i = 0; i < n; ++i)
    if (lanes[i / 32] >> i % 32 & 1) members.push_back(i);
  // Unless warps have met outside block barriers, nobody's clock says anything about another warp.
  std::size_t begin = 0, end = n;
  if (!across_warps_) begin = members.front() / 32 * 32, end = members.back() / 32 * 32 + 32;
  std::vector<std::uint32_t> all(n);
  for (std::size_t m : members) {
    clock_[m * n + m] = state_[m].epoch;
    for (std::size_t i = begin; i < end; ++i) all[i] = std::max(all[i], clock_[m * n + i]);
  }
  for (std::size_t m : members) {
    std::copy(all.begin() + static_cast<std::ptrdiff_t>(begin), all.begin() + static_cast<std::ptrdiff_t>(end),
              clock_.begin() + static_cast<std::ptrdiff_t>(m * n + begin));
    ++state_[m].epoch;
  }
  clock_used_ = true;
  if (!views_used_) return;
  ThreadState together;
  for (std::size_t m : members) {
    together.known = join(together.known, state_[m].known);
    together.seen = join(together.seen, state_[m].seen);
    together.fenced = join(together.fenced, state_[m].fenced);
  }
  for (std::size_t m : members) {
    state_[m].known = together.known;
    state_[m].seen = together.seen;
    state_[m].fenced = together.fenced;
  }
}

void Checker::warp_synced(Warp& warp, Block& block) {
  std::uint32_t lanes[32] = {};
  lanes[warp.index] = ~0u;
  synchronise(block, lanes);
}

void Checker::barrier_passed(Block& block, const std::uint32_t* waited, bool whole) {
  if (!whole) across_warps_ = true;
  if (!whole || views_used_) synchronise(block, waited);
  if (whole) ++generation_;
}

void Checker::fence(Thread& thread) {
  const auto n = static_cast<std::size_t>(thread.block->threads), i = static_cast<std::size_t>(thread.index);
  ThreadState& state = state_[i];
  state.known = join(state.known, state.seen);
  auto view = std::make_shared<View>();
  BlockView& mine = (*view)[serial_];
  mine.generation = generation_;
  mine.epochs.assign(clock_.begin() + static_cast<std::ptrdiff_t>(i * n),
                     clock_.begin() + static_cast<std::ptrdiff_t>((i + 1) * n));
  mine.epochs[i] = state.epoch++;
  state.fenced = join(join(state.fenced, state.known), view);
  views_used_ = true;
}

void Checker::atomic(Thread& thread, void* address, int bytes, Location where) {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  check(thread, {at, static_cast<std::size_t>(bytes), true, true, site_of(where)}, static_cast<std::size_t>(bytes));
  ThreadState& state = state_[static_cast<std::size_t>(thread.index)];
  SharedView& published = published_[at];
  if (published) views_used_ = true;
  state.seen = join(state.seen, published);
  published = join(published, state.fenced);
}

void Checker::read(Thread& thread, const void* address, int bytes, Location where) {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  check(thread, {at, static_cast<std::size_t>(bytes), false, false, site_of(where)}, 1);
}

void Checker::read_fresh(Thread& thread, const void* address, int bytes, Location where) {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  check(thread, {at, static_cast<std::size_t>(bytes), false, true, site_of(where)}, 1);
}

// The copy may write at any time between issue and wait, so it is an access at both ends.
void Checker::copy_issued(Thread& thread, const AsyncCopy& copy, Location where) {
  const auto shared = reinterpret_cast<std::uintptr_t>(copy.shared);
  const auto base = reinterpret_cast<std::uintptr_t>(thread.block->shared);
  if (shared - base >= static_cast<std::uintptr_t>(thread.block->shared_bytes))
    fail(where, "out of bounds: cp_async16 to %p, which is not in the %d bytes of shared memory", copy.shared,
         thread.block->shared_bytes);
  check(thread, {reinterpret_cast<std::uintptr_t>(copy.global), 16, false, false, site_of(where)}, 1);
  check(thread, {shared, 16, true, false, site_of(where)}, 1);
  for (int i = 0; i < 4; ++i) pending_[(shared - base) / 4 + static_cast<std::uintptr_t>(i)] = serial_;
}

void Checker::copy_landed(Thread& thread, const AsyncCopy& copy, Location where) {
  const auto shared = reinterpret_cast<std::uintptr_t>(copy.shared);
  const auto base = reinterpret_cast<std::uintptr_t>(thread.block->shared);
  for (int i = 0; i < 4; ++i) pending_[(shared - base) / 4 + static_cast<std::uintptr_t>(i)] = 0;
  check(thread, {reinterpret_cast<std::uintptr_t>(copy.global), 16, false, false, site_of(where)}, 1);
  check(thread, {shared, 16, true, false, site_of(where)}, 1);
}

void Checker::add_region(std::uintptr_t address, std::size_t bytes, const char* name) {
  regions_[address] = {bytes, name ? name : "?"};
  last_region_ = nullptr;
}
void Checker::remove_region(std::uintptr_t address) {
  regions_.erase(address);
  last_region_ = nullptr;
}

// The last region that begins at or before the address, whether it reaches it or not.
const std::pair<const std::uintptr_t, Region>* Checker::region_of(std::uintptr_t address) {
  if (last_region_ && address - last_region_->first < last_region_->second.bytes) return last_region_;
  auto next = regions_.upper_bound(address);
  if (next == regions_.begin()) return nullptr;
  return last_region_ = &*std::prev(next);
}

bool Checker::is_static(std::uintptr_t address) const {
  return std::any_of(segments_.begin(), segments_.end(),
                     [address](const auto& s) { return s.first <= address && address < s.second; });
}

Site Checker::site_of(Location where) const {
  std::uintptr_t address;
  static_assert(sizeof where == sizeof address);
  std::memcpy(&address, &where, sizeof address);
  return {static_cast<std::uint32_t>(address - library_), true};
}
Site Checker::site_of(const void* return_address) const {
  return {static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(return_address) - library_ - 1), false};
}
std::string Checker::name_of(const Site& site) const {
  if (!site.is_location) {
    char text[32];
    std::snprintf(text, sizeof text, "<pc 0x%x>", site.offset);  // explain() finds the line
    return text;
  }
  const std::uintptr_t address = library_ + site.offset;
  Location where;
  std::memcpy(static_cast<void*>(&where), &address, sizeof where);
  return std::string(where.file_name()) + ":" + std::to_string(where.line());
}

Word& Checker::word(std::uintptr_t address, bool shared, std::uintptr_t base) {
  if (shared) return shared_words_[(address - base) / 4];
  const std::uintptr_t number = address / page_bytes;
  auto& recent = recent_[number % 256];
  if (recent.number != number) {
    auto& page = pages_[number];
    if (!page) page.reset(reinterpret_cast<Page*>(new Page{}));
    recent = {number, *page};
  }
  return recent.words[address % page_bytes / 4];
}

bool Checker::ordered(const Thread& thread, const Mark& mark, bool fresh) const {
  const auto i = static_cast<std::size_t>(thread.index);
  if (mark.block == serial_) {
    if (mark.thread == thread.index || mark.generation != static_cast<std::uint16_t>(generation_)) return true;
    if (clock_[i * static_cast<std::size_t>(thread.block->threads) + mark.thread] >= mark.epoch) return true;
  }
  const auto covers = [&mark](const SharedView& all) {
    if (!all) return false;
    const auto found = all->find(mark.block);
    if (found == all->end()) return false;
    const BlockView& view = found->second;
    return mark.generation < view.generation ||
           (mark.thread < view.epochs.size() && view.epochs[mark.thread] >= mark.epoch);
  };
  return covers(state_[i].known) || (fresh && covers(state_[i].seen));
}

void Checker::check_words(Thread& thread, const Access& access, bool shared, const Region* region, std::uintptr_t base) {
  const std::uintptr_t end = access.address + access.bytes;
  Mark mine;
  mine.block = serial_;
  mine.epoch = state_[static_cast<std::size_t>(thread.index)].epoch;
  mine.site = access.site.offset;
  mine.generation = static_cast<std::uint16_t>(generation_);
  mine.thread = static_cast<std::uint16_t>(thread.index) & 1023;
  mine.strong = access.strong;
  mine.is_location = access.site.is_location;
  const std::uint32_t oldest = shared ? serial_ : first_serial_;
  for (std::uintptr_t at = access.address & ~std::uintptr_t{3}; at < end; at += 4) {
    const auto from = std::max(at, access.address) - at, to = std::min(at + 4, end) - at;
    const auto bytes = static_cast<std::uint16_t>(((1u << (to - from)) - 1) << from);
    mine.bytes = bytes & 15;
    if (shared && pending_[(at - base) / 4] == serial_)
      fail({},
           "%s of shared memory (offset %zu) that a cp_async16 has not filled yet: cp_async_wait (or the commit) is "
           "missing; at %s",
           verb(access.writes), static_cast<std::size_t>(access.address - base), name_of(access.site).c_str());
    Word& w = word(at, shared, base);
    const auto conflicts = [&](const Mark& mark) {
      return mark.block >= oldest && (mark.bytes & bytes) && !(mark.strong && access.strong) &&
             !ordered(thread, mark, access.strong);
    };
    const auto report = [&](const Mark& mark, bool wrote) {
      char place[160];
      if (shared)
        std::snprintf(place, sizeof place, "shared memory, offset %zu", static_cast<std::size_t>(at - base));
      else
        std::snprintf(place, sizeof place, "'%s', byte %zu", region->name.c_str(), static_cast<std::size_t>(at - base));
      const std::string earlier = name_of({mark.site, mark.is_location != 0}), now = name_of(access.site);
      const bool same_block = mark.block == serial_;
      const char* hint = same_block ? "no block_sync or warp_sync between them"
                                    : "fence_gpu + atomic, then atomic + fence_gpu or load_fresh, would order them";
      fail({}, "data race on %s: %s by thread %d%s at %s, then %s by thread %d at %s (%s)", place, verb(wrote),
           mark.thread, same_block ? "" : " of another block", earlier.c_str(), verb(access.writes), thread.index,
           now.c_str(), hint);
    };
    if (conflicts(w.write)) report(w.write, true);
    if (access.writes) {
      for (const Mark& mark : w.read)
        if (conflicts(mark)) report(mark, false);
      const bool again = w.write.block == mine.block && w.write.thread == mine.thread &&
                         w.write.generation == mine.generation && w.write.epoch == mine.epoch &&
                         w.write.strong == mine.strong;
      if (again) mine.bytes = (mine.bytes | w.write.bytes) & 15;
      w.write = mine;
      continue;
    }
    // Two readers are remembered; of different threads where possible, so that one of them is not the next writer.
    Mark* slot = nullptr;
    for (Mark& mark : w.read)
      if (mark.block == serial_ && mark.thread == mine.thread) slot = &mark;
    if (slot) {
      if (slot->generation == mine.generation && slot->epoch == mine.epoch && slot->strong == mine.strong)
        mine.bytes = (mine.bytes | slot->bytes) & 15;
    } else {
      for (Mark& mark : w.read)
        if (mark.block < oldest || (mark.block == serial_ && mark.generation != mine.generation)) slot = &mark;
    }
    if (!slot) slot = &w.read[coin_++ & 1];
    *slot = mine;
  }
}

void Checker::check(Thread& thread, const Access& access, std::size_t alignment) {
  if (is_private(thread, access.address)) return;
  const auto base = reinterpret_cast<std::uintptr_t>(thread.block->shared);
  const auto bytes = static_cast<std::uintptr_t>(thread.block->shared_bytes);
  const bool shared = access.address - base < static_cast<std::uintptr_t>(max_shared);
  const std::pair<const std::uintptr_t, Region>* region = nullptr;
  if (shared) {
    if (access.address - base + access.bytes > bytes)
      fail({}, "out of bounds: shared %s of %zu bytes at offset %zu, the launch has %zu; at %s", verb(access.writes),
           access.bytes, static_cast<std::size_t>(access.address - base), static_cast<std::size_t>(bytes),
           name_of(access.site).c_str());
  } else {
    region = region_of(access.address);
    if (!region || access.address - region->first + access.bytes > region->second.bytes) {
      if (is_static(access.address) || is_on_a_stack(access.address)) return;
      if (region)
        fail({}, "out of bounds: %s of %zu bytes at byte %zu of '%s', which has %zu; at %s", verb(access.writes),
             access.bytes, static_cast<std::size_t>(access.address - region->first), region->second.name.c_str(),
             region->second.bytes, name_of(access.site).c_str());
      fail({}, "out of bounds: %s of %zu bytes at %p, which is in no known buffer; at %s", verb(access.writes),
           access.bytes, reinterpret_cast<const void*>(access.address), name_of(access.site).c_str());
    }
  }
  if (access.address % alignment)
    fail({}, "misaligned %s of %zu bytes: the address ends in 0x%zx; at %s", verb(access.writes), access.bytes,
         static_cast<std::size_t>(access.address % 256), name_of(access.site).c_str());
  check_words(thread, access, shared, region ? &region->second : nullptr, shared ? base : region->first);
}

void Checker::access(const void* address, std::size_t bytes, bool writes, std::size_t alignment,
                     const void* return_address) {
  Thread* thread = current;
  if (!thread || thread->block->combining) return;
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  check(*thread, {at, bytes, writes, false, site_of(return_address)}, alignment);
}

// Turns <pc 0x...> into file:line where addr2line exists, else into library+offset.
void Checker::explain(char* text, std::size_t capacity) {
  Dl_info info;
  if (!dladdr(&checker, &info) || !info.dli_fname) return;
  std::string library = info.dli_fname;
  // A library that lives in memory is known by this process's descriptor; addr2line is another process.
  if (library.starts_with("/proc/self/")) library = "/proc/" + std::to_string(getpid()) + library.substr(10);
  std::string out = text;
  for (std::size_t begin; (begin = out.find("<pc ")) != std::string::npos;) {
    const std::size_t end = out.find('>', begin);
    if (end == std::string::npos) break;
    const std::string offset = out.substr(begin + 4, end - begin - 4);
    std::string place = library + "+" + offset;
    if (library.find('\'') == std::string::npos) {
      const std::string command = "addr2line -i -e '" + library + "' " + offset + " 2>/dev/null";
      if (FILE* pipe = popen(command.c_str(), "r")) {
        // Innermost inlined function first: the first line outside the instruction layer is what the author wrote.
        char line[1024];
        std::string found;
        while (std::fgets(line, sizeof line, pipe)) {
          std::string one(line, std::strcspn(line, "\n"));
          one = one.substr(0, one.find(" (discriminator"));
          if (one.empty() || one[0] == '?') continue;
          if (found.empty() || found.find("/imp/sim/") != std::string::npos) found = one;
        }
        pclose(pipe);
        if (!found.empty()) place = found;
      }
    }
    out.replace(begin, end - begin + 1, place);
  }
  std::snprintf(text, capacity, "%s", out.c_str());
}

}  // namespace
}  // namespace imp::sim

using imp::sim::checker;

#define HERE __builtin_return_address(0)
extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* p, unsigned long n) { checker.access(p, n, false, 1, HERE); }
void __tsan_write_range(void* p, unsigned long n) { checker.access(p, n, true, 1, HERE); }

#define IMP_ACCESS(N)                                                               \
  void __tsan_read##N(void* p) { checker.access(p, N, false, N, HERE); }            \
  void __tsan_write##N(void* p) { checker.access(p, N, true, N, HERE); }            \
  void __tsan_unaligned_read##N(void* p) { checker.access(p, N, false, 1, HERE); }  \
  void __tsan_unaligned_write##N(void* p) { checker.access(p, N, true, 1, HERE); }  \
  void __tsan_volatile_read##N(void* p) { checker.access(p, N, false, N, HERE); }   \
  void __tsan_volatile_write##N(void* p) { checker.access(p, N, true, N, HERE); }
IMP_ACCESS(1)
IMP_ACCESS(2)
IMP_ACCESS(4)
IMP_ACCESS(8)
IMP_ACCESS(16)

// What GCC says about a misaligned access: the place, and the type whose alignment it breaks.
struct MisalignedAccess {
  const char* file;
  unsigned line, column;
  struct {
    unsigned short kind, info;
    char name[1];
  } * type;
  unsigned char log_alignment, kind;
};
void __ubsan_handle_type_mismatch_v1(MisalignedAccess* at, unsigned long address) {
  if (!imp::sim::current) return;
  imp::sim::fail({}, "misaligned access: the address ends in 0x%lx, %s needs a multiple of %d; at %s:%u", address % 256,
                 at->type->name, 1 << at->log_alignment, at->file, at->line);
}

// The instruction layer announces its atomics itself; here they only have to happen. The check build runs one OS thread.
#define IMP_ATOMIC(BITS, T)                                                                                   \
  T __tsan_atomic##BITS##_load(const volatile T* p, int) { return *p; }                                       \
  void __tsan_atomic##BITS##_store(volatile T* p, T v, int) { *p = v; }                                       \
  T __tsan_atomic##BITS##_fetch_add(volatile T* p, T v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##BITS##_fetch_or(volatile T* p, T v, int) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }   \
  int __tsan_atomic##BITS##_compare_exchange_strong(volatile T* p, T* e, T v, int, int) {                     \
    return __atomic_compare_exchange_n(p, e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                   \
  }                                                                                                           \
  int __tsan_atomic##BITS##_compare_exchange_weak(volatile T* p, T* e, T v, int, int) {                       \
    return __atomic_compare_exchange_n(p, e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                   \
  }
IMP_ATOMIC(32, unsigned int)
IMP_ATOMIC(64, unsigned long)

}  // extern "C"
