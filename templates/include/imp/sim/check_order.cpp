// Which accesses are ordered before which, and when the stores of a block reach the others.
#include <algorithm>
#include <cstring>

#include "check.h"

namespace imp::sim {

namespace {

SharedView joined(const SharedView& a, const SharedView& b) {
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

}  // namespace

void Horizon::join(const Horizon& other) {
  known = joined(known, other.known);
  seen = joined(seen, other.seen);
  fenced = joined(fenced, other.fenced);
}

void Checker::launch_begins(int blocks_at_once) {
  first_serial_ = serial_ + 1;
  published_.clear();
  if (blocks_.size() < static_cast<std::size_t>(blocks_at_once)) blocks_.resize(static_cast<std::size_t>(blocks_at_once));
  for (BlockState& state : blocks_) state.late.clear();
}

void Checker::launch_ends() {
  for (BlockState& state : blocks_) settle_all(state);
}

void Checker::block_begins(Block& block) {
  BlockState& state = state_of(block);
  state.serial = ++serial_;
  state.generation = 0;
  const auto n = static_cast<std::size_t>(block.threads), words = static_cast<std::size_t>(block.shared_bytes + 3) / 4;
  state.thread.assign(n, {});
  if (state.clock_used || state.clock.size() != n * n) state.clock.assign(n * n, 0);
  state.clock_used = state.across_warps = state.horizons_used = false;
  if (state.words.size() < words) state.words.resize(words), state.on_its_way.resize(words);
  state.arrivals.clear();
}

void Checker::block_ends(Block& block) {
  for (const PhaseBarrier& barrier : block.phase_barriers)
    if (barrier.in_flight) fail(barrier.copy.where, "the block ends before its bulk copy has landed: nobody waits for it");
}

// Everything the given lanes did so far is ordered before everything they do from now on.
void Checker::synchronise(Block& block, const std::uint32_t* lanes) {
  BlockState& state = state_of(block);
  const auto n = static_cast<std::size_t>(block.threads);
  std::vector<std::size_t> members;
  for (std::size_t i = 0; i < n; ++i)
    if (lanes[i / 32] >> i % 32 & 1) members.push_back(i);
  // Unless warps have met outside block barriers, nobody's clock says anything about another warp.
  std::size_t begin = 0, end = n;
  if (!state.across_warps) begin = members.front() / 32 * 32, end = members.back() / 32 * 32 + 32;
  std::vector<std::uint32_t> all(n);
  for (std::size_t m : members) {
    state.clock[m * n + m] = state.thread[m].epoch;
    for (std::size_t i = begin; i < end; ++i) all[i] = std::max(all[i], state.clock[m * n + i]);
  }
  for (std::size_t m : members) {
    std::copy(all.begin() + static_cast<std::ptrdiff_t>(begin), all.begin() + static_cast<std::ptrdiff_t>(end),
              state.clock.begin() + static_cast<std::ptrdiff_t>(m * n + begin));
    ++state.thread[m].epoch;
  }
  state.clock_used = true;
  if (!state.horizons_used) return;
  Horizon together;
  for (std::size_t m : members) together.join(state.thread[m].horizon);
  for (std::size_t m : members) state.thread[m].horizon = together;
}

void Checker::warp_synced(Warp& warp, Block& block) {
  std::uint32_t lanes[32] = {};
  lanes[warp.index] = ~0u;
  synchronise(block, lanes);
}

void Checker::barrier_passed(Block& block, const std::uint32_t* waited, bool whole) {
  BlockState& state = state_of(block);
  if (!whole) state.across_warps = true;
  if (!whole || state.horizons_used) synchronise(block, waited);
  if (whole) ++state.generation;
}

void Checker::phase_begins(Block& block, const PhaseBarrier& barrier) {
  std::vector<Arrival>& arrivals = state_of(block).arrivals;
  const auto first = 2 * static_cast<std::size_t>(barrier.index);
  arrivals.resize(std::max(arrivals.size(), first + 2));
  arrivals[first] = arrivals[first + 1] = {};
}

void Checker::phase_arrived(Thread& thread, const PhaseBarrier& barrier) {
  BlockState& state = state_of(*thread.block);
  ThreadState& mine = state.of(thread);
  const std::uint32_t* clock = state.clock_of(thread);
  Arrival& arrival = state.arrivals[2 * static_cast<std::size_t>(barrier.index) + barrier.phases % 2];
  arrival.epochs.assign(clock, clock + state.thread.size());
  arrival.epochs[static_cast<std::size_t>(thread.index)] = mine.epoch++;
  arrival.horizon = mine.horizon;
}

void Checker::phase_waited(Thread& thread, const PhaseBarrier& barrier) {
  if (barrier.phases == 0) return;
  BlockState& state = state_of(*thread.block);
  const Arrival& arrival = state.arrivals[2 * static_cast<std::size_t>(barrier.index) + (barrier.phases - 1) % 2];
  std::uint32_t* clock = state.clock_of(thread);
  for (std::size_t i = 0; i < arrival.epochs.size(); ++i) clock[i] = std::max(clock[i], arrival.epochs[i]);
  state.of(thread).horizon.join(arrival.horizon);
  state.clock_used = state.across_warps = true;
}

void Checker::fence(Thread& thread) {
  BlockState& state = state_of(*thread.block);
  settle_all(state);
  ThreadState& mine = state.of(thread);
  const std::uint32_t* clock = state.clock_of(thread);
  Horizon& horizon = mine.horizon;
  horizon.known = joined(horizon.known, horizon.seen);
  auto view = std::make_shared<View>();
  BlockView& own = (*view)[state.serial];
  own.generation = state.generation;
  own.epochs.assign(clock, clock + state.thread.size());
  own.epochs[static_cast<std::size_t>(thread.index)] = mine.epoch++;
  horizon.fenced = joined(joined(horizon.fenced, horizon.known), view);
  state.horizons_used = true;
}

// The thread reads what atomics left at these addresses.
void Checker::see(ThreadState& mine, BlockState& state, std::uintptr_t address, std::size_t bytes) {
  if (published_.empty()) return;
  for (std::uintptr_t at = address; at < address + bytes; at += 4) {
    const auto found = published_.find(at);
    if (found == published_.end() || !found->second) continue;
    state.horizons_used = true;
    mine.horizon.seen = joined(mine.horizon.seen, found->second);
  }
}

void Checker::atomic(Thread& thread, void* address, int bytes, Location where) {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  const auto n = static_cast<std::size_t>(bytes);
  check(thread, {at, n, true, true, site_of(where)}, n);
  BlockState& state = state_of(*thread.block);
  ThreadState& mine = state.of(thread);
  see(mine, state, at, 4);
  if (mine.horizon.fenced) published_[at] = joined(published_[at], mine.horizon.fenced);
}

void Checker::read_fresh(Thread& thread, const void* address, int bytes, Location where) {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  const auto n = static_cast<std::size_t>(bytes);
  BlockState& state = state_of(*thread.block);
  see(state.of(thread), state, at, n);
  check(thread, {at, n, false, true, site_of(where)}, 1);
}

void Checker::store_fresh(Thread& thread, void* address, std::uint64_t value, int bytes, bool adds, Location where) {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  check(thread, {at, static_cast<std::size_t>(bytes), true, true, site_of(where)}, static_cast<std::size_t>(bytes));
  BlockState& state = state_of(*thread.block);
  state.late[at / 4] = {at, value, bytes, adds, state.of(thread).horizon.fenced, stores_++};
}

void Checker::perform(const LateStore& store) {
  if (store.bytes == 4) {
    auto* word = reinterpret_cast<std::uint32_t*>(store.address);
    *word = static_cast<std::uint32_t>(store.value) + (store.adds ? *word : 0);
  } else {
    auto* word = reinterpret_cast<std::uint64_t*>(store.address);
    *word = store.value + (store.adds ? *word : 0);
  }
  if (store.published) published_[store.address] = joined(published_[store.address], store.published);
}

// A block always sees its own stores.
void Checker::settle(BlockState& state, std::uintptr_t address, std::size_t bytes) {
  if (state.late.empty()) return;
  // The word before may have begun an 8-byte store.
  for (std::uintptr_t at = address / 4 - 1; at <= (address + bytes - 1) / 4; ++at) {
    const auto found = state.late.find(at);
    if (found == state.late.end() || found->second.address + static_cast<std::size_t>(found->second.bytes) <= address)
      continue;
    perform(found->second);
    state.late.erase(found);
  }
}

void Checker::settle_all(BlockState& state) {
  for (const auto& [at, store] : state.late) perform(store);
  state.late.clear();
}

// Of every block's stores the newer half arrives: what is not fenced may overtake what came before it.
bool Checker::only_polls() {
  bool any = false;
  for (BlockState& state : blocks_) {
    if (state.late.empty()) continue;
    any = true;
    std::vector<LateStore> stores;
    for (const auto& [at, store] : state.late) stores.push_back(store);
    const auto half = stores.begin() + static_cast<std::ptrdiff_t>(stores.size() + 1) / 2;
    std::nth_element(stores.begin(), half - 1, stores.end(),
                     [](const LateStore& a, const LateStore& b) { return a.number > b.number; });
    for (auto store = stores.begin(); store != half; ++store) {
      perform(*store);
      state.late.erase(store->address / 4);
    }
  }
  return any;
}

bool Checker::ordered(const Thread& thread, const Mark& mark, bool fresh) {
  BlockState& state = state_of(*thread.block);
  if (mark.block == state.serial) {
    if (mark.thread == thread.index || mark.generation != static_cast<std::uint16_t>(state.generation)) return true;
    if (state.clock_of(thread)[mark.thread] >= mark.epoch) return true;
  }
  const auto covers = [&mark](const SharedView& all) {
    if (!all) return false;
    const auto found = all->find(mark.block);
    if (found == all->end()) return false;
    const BlockView& view = found->second;
    return mark.generation < view.generation ||
           (mark.thread < view.epochs.size() && view.epochs[mark.thread] >= mark.epoch);
  };
  const Horizon& horizon = state.of(thread).horizon;
  return covers(horizon.known) || (fresh && covers(horizon.seen));
}

}  // namespace imp::sim
