// Accesses: whether they stay inside what was given to the launch, are aligned, and do not race.
#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "check.h"

namespace imp::sim {

Checker checker;

namespace {
const char* verb(bool writes) { return writes ? "write" : "read"; }
}  // namespace

Checker::Checker() {
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

Word& Checker::word(BlockState& state, std::uintptr_t address, bool shared, std::uintptr_t base) {
  if (shared) return state.words[(address - base) / 4];
  const std::uintptr_t number = address / page_bytes;
  auto& recent = recent_[number % 256];
  if (recent.number != number) {
    auto& page = pages_[number];
    if (!page) page.reset(reinterpret_cast<Page*>(new Page{}));
    recent = {number, *page};
  }
  return recent.words[address % page_bytes / 4];
}

void Checker::check_words(Thread& thread, const Touch& touch, bool shared, const Region* region, std::uintptr_t base) {
  BlockState& state = state_of(*thread.block);
  const std::uintptr_t end = touch.address + touch.bytes;
  Mark mine;
  mine.block = state.serial;
  mine.epoch = state.of(thread).epoch;
  mine.site = touch.site.offset;
  mine.generation = static_cast<std::uint16_t>(state.generation);
  mine.thread = static_cast<std::uint16_t>(thread.index) & 1023;
  mine.strong = touch.strong;
  mine.is_location = touch.site.is_location;
  const std::uint32_t oldest = shared ? state.serial : first_serial_;
  for (std::uintptr_t at = touch.address & ~std::uintptr_t{3}; at < end; at += 4) {
    const auto from = std::max(at, touch.address) - at, to = std::min(at + 4, end) - at;
    const auto bytes = static_cast<std::uint16_t>(((1u << (to - from)) - 1) << from);
    mine.bytes = bytes & 15;
    if (shared && state.on_its_way[(at - base) / 4] / 2 == state.serial) {
      const bool bulk = state.on_its_way[(at - base) / 4] % 2;
      fail({}, "%s of shared memory (offset %zu) that a %s; at %s", verb(touch.writes),
           static_cast<std::size_t>(touch.address - base),
           bulk ? "bulk_load has not filled yet: the wait for its barrier is missing"
                : "cp_async16 has not filled yet: cp_async_wait (or the commit) is missing",
           name_of(touch.site).c_str());
    }
    Word& w = word(state, at, shared, base);
    const auto conflicts = [&](const Mark& mark) {
      return mark.block >= oldest && (mark.bytes & bytes) && !(mark.strong && touch.strong) &&
             !ordered(thread, mark, touch.strong);
    };
    const auto report = [&](const Mark& mark, bool wrote) {
      char place[160];
      if (shared)
        std::snprintf(place, sizeof place, "shared memory, offset %zu", static_cast<std::size_t>(at - base));
      else
        std::snprintf(place, sizeof place, "'%s', byte %zu", region->name.c_str(), static_cast<std::size_t>(at - base));
      const std::string earlier = name_of({mark.site, mark.is_location != 0}), now = name_of(touch.site);
      const bool same_block = mark.block == state.serial;
      const char* hint = same_block ? "no block_sync or warp_sync or other barrier between them"
                                    : "fence_gpu + atomic, then atomic + fence_gpu or load_fresh, would order them";
      fail({}, "data race on %s: %s by thread %d%s at %s, then %s by thread %d at %s (%s)", place, verb(wrote),
           mark.thread, same_block ? "" : " of another block", earlier.c_str(), verb(touch.writes), thread.index,
           now.c_str(), hint);
    };
    if (conflicts(w.write)) report(w.write, true);
    if (touch.again) continue;
    if (touch.writes) {
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
      if (mark.block == state.serial && mark.thread == mine.thread) slot = &mark;
    if (slot) {
      if (slot->generation == mine.generation && slot->epoch == mine.epoch && slot->strong == mine.strong)
        mine.bytes = (mine.bytes | slot->bytes) & 15;
    } else {
      for (Mark& mark : w.read)
        if (mark.block < oldest || (mark.block == state.serial && mark.generation != mine.generation)) slot = &mark;
    }
    if (!slot) slot = &w.read[coin_++ & 1];
    *slot = mine;
  }
}

void Checker::check(Thread& thread, const Touch& touch, std::size_t alignment) {
  if (is_private(thread, touch.address)) return;
  settle(state_of(*thread.block), touch.address, touch.bytes);
  const auto base = reinterpret_cast<std::uintptr_t>(thread.block->shared);
  const auto bytes = static_cast<std::uintptr_t>(thread.block->shared_bytes);
  const bool shared = touch.address - base < static_cast<std::uintptr_t>(max_shared);
  const std::pair<const std::uintptr_t, Region>* region = nullptr;
  if (shared) {
    if (touch.address - base + touch.bytes > bytes)
      fail({}, "out of bounds: shared %s of %zu bytes at offset %zu, the launch has %zu; at %s", verb(touch.writes),
           touch.bytes, static_cast<std::size_t>(touch.address - base), static_cast<std::size_t>(bytes),
           name_of(touch.site).c_str());
  } else {
    region = region_of(touch.address);
    if (!region || touch.address - region->first + touch.bytes > region->second.bytes) {
      if (is_static(touch.address) || is_on_a_stack(touch.address)) return;
      if (region)
        fail({}, "out of bounds: %s of %zu bytes at byte %zu of '%s', which has %zu; at %s", verb(touch.writes),
             touch.bytes, static_cast<std::size_t>(touch.address - region->first), region->second.name.c_str(),
             region->second.bytes, name_of(touch.site).c_str());
      fail({}, "out of bounds: %s of %zu bytes at %p, which is in no known buffer; at %s", verb(touch.writes),
           touch.bytes, reinterpret_cast<const void*>(touch.address), name_of(touch.site).c_str());
    }
  }
  if (touch.address % alignment)
    fail({}, "misaligned %s of %zu bytes: the address ends in 0x%zx; at %s", verb(touch.writes), touch.bytes,
         static_cast<std::size_t>(touch.address % 256), name_of(touch.site).c_str());
  check_words(thread, touch, shared, region ? &region->second : nullptr, shared ? base : region->first);
}

void Checker::access(Thread& thread, const Access& access, Location where) {
  const auto at = reinterpret_cast<std::uintptr_t>(access.address);
  check(thread, {at, static_cast<std::size_t>(access.bytes), access.writes, access.strong, site_of(where)}, 1);
}

void Checker::touched(const void* address, std::size_t bytes, bool writes, std::size_t alignment,
                      const void* return_address) {
  Thread* thread = current;
  if (!thread || thread->block->combining) return;
  check(*thread, {reinterpret_cast<std::uintptr_t>(address), bytes, writes, false, site_of(return_address)}, alignment);
}

// A copy may read and write at any time between issue and wait, so it is an access at both ends. To shared memory a bulk
// copy is one of its issuer's at the issue: who waits for the barrier is ordered after that.
void Checker::issue(Thread& thread, const void* shared, const void* global, std::size_t bytes, bool bulk, Location where) {
  const Block& block = *thread.block;
  BlockState& state = state_of(block);
  const auto to = reinterpret_cast<std::uintptr_t>(shared), base = reinterpret_cast<std::uintptr_t>(block.shared);
  if (to - base >= static_cast<std::uintptr_t>(block.shared_bytes))
    fail(where, "out of bounds: %s to %p, which is not in the %d bytes of shared memory", bulk ? "bulk_load" : "cp_async16",
         shared, block.shared_bytes);
  check(thread, {reinterpret_cast<std::uintptr_t>(global), bytes, false, false, site_of(where)}, 1);
  check(thread, {to, bytes, true, false, site_of(where)}, 1);
  for (std::uintptr_t at = to; at < to + bytes; at += 4) state.on_its_way[(at - base) / 4] = 2ull * state.serial + bulk;
}
void Checker::mark_landed(const Block& block, const void* shared, std::size_t bytes) {
  const auto first = (reinterpret_cast<std::uintptr_t>(shared) - reinterpret_cast<std::uintptr_t>(block.shared)) / 4;
  std::fill_n(state_of(block).on_its_way.begin() + static_cast<std::ptrdiff_t>(first), bytes / 4, 0);
}
void Checker::copy_issued(Thread& thread, const AsyncCopy& copy, Location where) {
  issue(thread, copy.shared, copy.global, 16, false, where);
}
void Checker::copy_landed(Thread& thread, const AsyncCopy& copy, Location where) {
  mark_landed(*thread.block, copy.shared, 16);
  check(thread, {reinterpret_cast<std::uintptr_t>(copy.global), 16, false, false, site_of(where)}, 1);
  check(thread, {reinterpret_cast<std::uintptr_t>(copy.shared), 16, true, false, site_of(where)}, 1);
}
void Checker::bulk_issued(const BulkCopy& copy) {
  issue(*copy.issuer, copy.shared, copy.global, static_cast<std::size_t>(copy.bytes), true, copy.where);
}
void Checker::bulk_landed(const BulkCopy& copy) {
  const auto bytes = static_cast<std::size_t>(copy.bytes);
  mark_landed(*copy.issuer->block, copy.shared, bytes);
  check(*copy.issuer, {reinterpret_cast<std::uintptr_t>(copy.global), bytes, false, false, site_of(copy.where), true}, 1);
}

}  // namespace imp::sim
