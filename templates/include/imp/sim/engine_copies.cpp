// Asynchronous copies and the barriers that say when they are there. A copy lands as late as the ISA allows: when
// somebody waits for it, or has asked a few times.
#include <cstring>

#include "engine_worker.h"

namespace imp::sim {

namespace {

// The word of an initialised barrier: this and the index in Block::phase_barriers.
constexpr std::uint64_t barrier_tag = std::uint64_t{0x626172} << 32;
constexpr int most_denials = 3;

PhaseBarrier& barrier_at(const char* name, const std::uint64_t* barrier, Location where) {
  Thread& self = *current;
  Block& block = *self.block;
  const auto offset = reinterpret_cast<std::uintptr_t>(barrier) - reinterpret_cast<std::uintptr_t>(block.shared);
  if (offset % 8 || offset + 8 > static_cast<std::uintptr_t>(block.shared_bytes))
    fail(where, "%s: no barrier can lie at %p: shared memory has %d bytes, a barrier is 8 and aligned", name,
         static_cast<const void*>(barrier), block.shared_bytes);
  const std::uint64_t index = *barrier ^ barrier_tag;
  if (index >= block.phase_barriers.size() || block.phase_barriers[index].address != barrier)
    fail(where, "%s: the barrier at shared memory, offset %zu, was not initialised, or is overwritten", name,
         static_cast<std::size_t>(offset));
  if (observer) observer->access(self, {barrier, 8, false, true}, where);
  return block.phase_barriers[index];
}

void complete(Block& block, PhaseBarrier& barrier) {
  ++barrier.phases;
  barrier.waited_for = false;
  ++block.changes;
}

void wake(Block& block, PhaseBarrier& barrier) {
  for (Thread* thread : barrier.waiting) make_ready(block, *thread->warp, 1u << thread->lane);
  barrier.waiting.clear();
}

void land(Block& block, PhaseBarrier& barrier) {
  const BulkCopy& copy = barrier.copy;
  if (observer) observer->bulk_landed(copy);
  std::memcpy(copy.shared, copy.global, static_cast<std::size_t>(copy.bytes));
  barrier.in_flight = false;
  complete(block, barrier);
  wake(block, barrier);
}

// The arrival of the next phase. The one before must be complete, and somebody must know that: a barrier tells only the
// last two phases apart.
void arrive(const char* name, const PhaseBarrier& barrier, Location where) {
  if (barrier.in_flight)
    fail(where, "%s while the bulk copy of phase %u, issued at %s:%u, is in flight: nobody has waited for it", name,
         barrier.phases, barrier.copy.where.file_name(), barrier.copy.where.line());
  if (observer && !barrier.waited_for)
    fail(where, "%s begins phase %u, but nobody has waited for phase %u", name, barrier.phases, barrier.phases - 1);
  if (observer) observer->phase_arrived(*current, barrier);
}

// Whether the phase of that parity is complete: it is the last one, and not the one that goes on.
bool is_complete(const PhaseBarrier& barrier, int parity) { return (barrier.phases & 1) != static_cast<unsigned>(parity); }

void waited(PhaseBarrier& barrier) {
  barrier.waited_for = true;
  if (observer) observer->phase_waited(*current, barrier);
}

void check_parity(const char* name, int parity, Location where) {
  if (parity != 0 && parity != 1) fail(where, "%s: the parity is %d, not 0 or 1", name, parity);
}

}  // namespace

void phase_init(std::uint64_t* word, Location where) {
  Thread& self = *current;
  Block& block = *self.block;
  if (observer) observer->access(self, {word, 8, true, false}, where);
  auto& all = block.phase_barriers;
  int index = 0;
  while (index < static_cast<int>(all.size()) && all[index].address != word) ++index;
  if (index == static_cast<int>(all.size())) all.emplace_back();
  if (all[index].in_flight || !all[index].waiting.empty())
    fail(where, "barrier_init of a barrier that is in use: a copy is in flight or a thread waits");
  all[index] = PhaseBarrier{};
  all[index].address = word;
  all[index].index = index;
  *word = barrier_tag | static_cast<std::uint64_t>(index);
  if (observer) observer->phase_begins(block, all[index]);
}

void phase_arrive(std::uint64_t* word, Location where) {
  PhaseBarrier& barrier = barrier_at("barrier_arrive", word, where);
  arrive("barrier_arrive", barrier, where);
  complete(*current->block, barrier);
  wake(*current->block, barrier);
}

bool phase_done(std::uint64_t* word, int parity, Location where) {
  check_parity("barrier_done", parity, where);
  PhaseBarrier& barrier = barrier_at("barrier_done", word, where);
  if (!is_complete(barrier, parity)) {
    if (!barrier.in_flight) return false;
    Block& block = *current->block;
    if (barrier.denials > 0) {
      --barrier.denials;
      ++block.changes;
      return false;
    }
    land(block, barrier);
  }
  waited(barrier);
  return true;
}

void phase_wait(const char* name, std::uint64_t* word, int parity, bool for_copy, Location where) {
  check_parity(name, parity, where);
  Thread& self = *current;
  Block& block = *self.block;
  while (true) {
    PhaseBarrier& barrier = barrier_at(name, word, where);
    if (!is_complete(barrier, parity) && barrier.in_flight) land(block, barrier);
    if (is_complete(barrier, parity)) {
      // Hardware says so, too: it takes parity 1 for the phase before the first.
      if (for_copy && barrier.phases == 0) fail(where, "%s of parity 1, but phase 0 is not complete", name);
      return waited(barrier);
    }
    self.waits_in = name;
    self.where = where;
    barrier.waiting.push_back(&self);
    suspend(self);
    self.waits_in = nullptr;
  }
}

void bulk_issue(void* shared, const void* global, int bytes, std::uint64_t* word, Location where) {
  Thread& self = *current;
  PhaseBarrier& barrier = barrier_at("bulk_load", word, where);
  // The copy belongs to what the arrival publishes, so it is issued first.
  const BulkCopy copy{static_cast<std::uint8_t*>(shared), static_cast<const std::uint8_t*>(global), bytes, &self, where};
  if (observer && !barrier.in_flight) observer->bulk_issued(copy);
  arrive("bulk_load", barrier, where);
  barrier.copy = copy;
  barrier.in_flight = true;
  barrier.denials = worker->launch->order == Order::random
                        ? static_cast<int>(next_random(worker->random) % (most_denials + 1))
                        : most_denials;
  ++self.block->changes;
  wake(*self.block, barrier);
}

void async_copy(void* shared, const void* global, Location where) {
  Thread& self = *current;
  self.copies.push_back({shared, global});
  if (observer) observer->copy_issued(self, self.copies.back(), where);
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
