// Which candidates stay: the tokens of a sequence's scores, how its filters choose among them, and where a histogram or
// a list of them reaches a target.
#pragma once
#include "imp/stage/score.h"

namespace imp {

// What one sequence's draw looks at: its scores, each CTA's best of them, the largest of all.
template <SampleConfig C>
struct Scores {
  const float* values;        // [vocab]
  const float* best_value;    // [parts]
  const std::uint32_t* best;  // [parts]
  const float* adjusted = nullptr;  // of several, all of which have a row of each: [ledgers, vocab]

  // Logits of one end.
  __device__ __forceinline__ Scores of(const StepEnd& end) const {
    const std::size_t place = static_cast<std::size_t>(end.place);
    return {values + place * C.vocab, best_value + place * C.parts, best + place * C.parts};
  }
  // Scores of one end: of several they lie elsewhere if its record makes other numbers of the logits.
  __device__ __forceinline__ Scores of(const StepEnd& end, const Sampling& s) const {
    Scores mine = of(end);
    if constexpr (C.several) {
      if (s.adjusts()) mine.values = adjusted + s.row(C.vocab);
    }
    return mine;
  }

  // Top-k so small that the k-th best of the parts bounds it closely from below: about -n ln(1 - k/n) tokens are above
  // the k-th best of n parts, so at 3/4 of the parts less than twice k.
  static constexpr int kFewest = C.parts - C.parts / 4 + (C.parts > 4 ? 1 : 0);
  __device__ __forceinline__ bool few(const Sampling& s) const { return s.top_k > 0 && s.top_k <= kFewest; }
  // Whether the filters need the coarse histogram, and then which.
  __device__ __forceinline__ bool needs_histogram(const Sampling& s) const {
    return s.temperature > 0.0f && !few(s) && (filters_by_count(s) || s.top_p < 1.0f);
  }
  __device__ __forceinline__ bool filters_by_count(const Sampling& s) const { return s.top_k > 0 && s.top_k < C.vocab; }

  // The k-th largest of the parts' bests: four lanes find the rank of each. `list` holds a float for each part.
  __device__ __forceinline__ float rank_best(int k, std::uint8_t* list, std::uint8_t* result) const {
    auto* bests = reinterpret_cast<float*>(list);
    auto* found = reinterpret_cast<float*>(result);
    for (int i = thread_index(); i < C.parts; i += C.threads) bests[i] = best_value[i];
    block_sync();
    for (int t = thread_index(); t < round_up(C.parts * 4, kWarp); t += C.threads) {
      const int i = min(t / 4, C.parts - 1);
      int rank = 0;
#pragma unroll 4
      for (int j = t % 4; j < C.parts; j += 4) rank += bests[j] > bests[i] || (bests[j] == bests[i] && j < i);
      rank = group_sum<4>(rank);
      if (rank == k - 1 && t % 4 == 0 && t / 4 < C.parts) *found = bests[i];
    }
    block_sync();
    return *found;
  }
};

// The bin of the coarse histogram that a key falls into.
__device__ __forceinline__ std::uint32_t bin_of(std::uint32_t key) {
  const std::uint32_t bin = key >> kBinShift;
  return bin < kBins ? bin : kBins - 1;
}

// Whether all other CTAs have come here before: what they left may then be read by load_fresh. `arrived` counts them.
template <SampleConfig C>
__device__ __forceinline__ bool last_to_arrive(std::uint32_t* arrived, std::uint8_t* shared) {
  auto* flag = reinterpret_cast<std::uint32_t*>(shared);
  block_sync();
  if (thread_index() == 0) {
    fence_gpu();
    *flag = atomic_add(arrived, 1u) == static_cast<std::uint32_t>(C.parts - 1);
  }
  block_sync();
  return *flag != 0;
}

// Where the cumulated entries of a histogram reach the target.
struct Crossing {
  int bin;
  std::uint64_t before;  // cumulated, without that bin
};
inline constexpr int crossing_bytes(int warps) { return round_up(warps * 8, 16) + 16; }

// The first bin with which the sum is at least target(total), or the last bin. The whole CTA calls.
template <int Bins, int Threads, class Target>
__device__ __forceinline__ Crossing find_crossing(const std::uint64_t* histogram, const Target& target,
                                                  std::uint8_t* shared) {
  constexpr int kEach = ceil_div(Bins, Threads);
  constexpr int kWarps = Threads / kWarp;
  auto* sums = reinterpret_cast<std::uint64_t*>(shared);
  auto* found = reinterpret_cast<std::uint64_t*>(shared + round_up(kWarps * 8, 16));
  std::uint64_t entries[kEach];
  std::uint64_t mine = 0;
#pragma unroll
  for (int i = 0; i < kEach; i++) {
    const int bin = thread_index() * kEach + i;
    entries[i] = bin < Bins ? histogram[bin] : 0;
    mine += entries[i];
  }
  std::uint64_t inclusive = mine;
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const std::uint64_t below = shuffle(inclusive, max(lane_index() - distance, 0));
    if (lane_index() >= distance) inclusive += below;
  }
  block_sync();
  if (lane_index() == kWarp - 1) sums[warp_index()] = inclusive;
  block_sync();
  std::uint64_t before = inclusive - mine;
  std::uint64_t total = 0;
  for (int w = 0; w < kWarps; w++) {
    if (w < warp_index()) before += sums[w];
    total += sums[w];
  }
  const std::uint64_t wanted = target(total);
  // One thread finds it: the sum reaches the target in its bins, or it has the last bin and the sum never does.
#pragma unroll
  for (int i = 0; i < kEach; i++) {
    const int bin = thread_index() * kEach + i;
    const bool reached = before < wanted && before + entries[i] >= wanted;
    const bool never = bin == Bins - 1 && before + entries[i] < wanted;
    if (bin < Bins && (reached || never)) {
      found[0] = static_cast<std::uint64_t>(bin);
      found[1] = before;
    }
    before += entries[i];
  }
  block_sync();
  return {static_cast<int>(found[0]), found[1]};
}

// The decision about `n` candidates by one CTA: all tokens, or a list of them.
template <SampleConfig C>
struct Candidates {
  static constexpr int kDigitBits = 8;
  static constexpr int kDigits = 1 << kDigitBits;
  static constexpr int kFew = 256;  // at most so many are each compared with all others
  static constexpr int kHistogram = 0;
  static constexpr int kKeys = kHistogram + (kDigits > kFew ? kDigits : kFew) * 8;
  static constexpr int kTotal = kKeys + kFew * 4;
  static constexpr int kCrossing = kTotal + 16;
  static constexpr int kSharedBytes = kCrossing + crossing_bytes(C.threads / kWarp);
  static_assert(C.threads % kWarp == 0, "warps are whole");

  const float* scores;
  const std::uint32_t* ids;  // null: a candidate's place is its token
  int n;
  float peak;
  std::uint8_t* shared;

  // What is known of the keys: they equal `prefix` but for their last `bits` bits. `target`: the mass that top-p keeps of
  // these candidates, 0 where that is its share of what top-k leaves.
  struct Known {
    std::uint32_t prefix = 0;
    int bits = 32;
    std::uint64_t target = 0;
  };

  // Lets those race that pass top-k, top-p and min-p, which is `nearest`.
  __device__ __forceinline__ void decide(const Sampling& s, std::uint32_t nearest, const Known& known, const Race& race,
                                         Best& winner) const {
    if (n <= kFew) {
      decide_few(s, nearest, known.target, race, winner);
      return;
    }
    std::uint32_t limit = ~0u;
    if (s.top_k > 0 && s.top_k < C.vocab) limit = select<false>(known, limit, static_cast<std::uint64_t>(s.top_k));
    if (s.top_p < 1.0f) {
      limit = select<true>(known, limit, known.target > 0 ? known.target : kept_mass(s.top_p, mass(limit)));
    }
    limit = nearest < limit ? nearest : limit;
    for (int i = thread_index(); i < n; i += C.threads) {
      if (score_key(scores[i], peak) <= limit) enter(race, i, winner);
    }
  }

  // The smallest key up to which there are at least `count` candidates.
  __device__ __forceinline__ std::uint32_t nearest(int count) const {
    return select<false>({}, ~0u, static_cast<std::uint64_t>(count));
  }

 private:
  __device__ __forceinline__ std::uint32_t token(int i) const {
    return ids != nullptr ? ids[i] : static_cast<std::uint32_t>(i);
  }

  __device__ __forceinline__ void enter(const Race& race, int i, Best& winner) const {
    if (scores[i] == -INFINITY) return;
    const std::uint32_t id = token(i);
    winner.offer(race(scores[i], peak, id), id);
  }

  // A candidate passes top-k if fewer than k are nearer to the best, and top-p if those together have less than the mass.
  __device__ __forceinline__ void decide_few(const Sampling& s, std::uint32_t nearest, std::uint64_t target,
                                             const Race& race, Best& winner) const {
    auto* masses = reinterpret_cast<std::uint64_t*>(shared + kHistogram);
    auto* keys = reinterpret_cast<std::uint32_t*>(shared + kKeys);
    auto* total = reinterpret_cast<std::uint64_t*>(shared + kTotal);
    block_sync();
    if (thread_index() == 0) *total = 0;
    for (int i = thread_index(); i < n; i += C.threads) {
      keys[i] = score_key(scores[i], peak);
      masses[i] = score_mass(scores[i], peak);
    }
    block_sync();
    constexpr int kEach = ceil_div(kFew, C.threads);
    std::uint64_t below[kEach];
    bool stays[kEach];
#pragma unroll
    for (int e = 0; e < kEach; e++) {
      const int i = e * C.threads + thread_index();
      int nearer = 0;
      below[e] = 0;
      stays[e] = false;
      if (i >= n) continue;
#pragma unroll 4
      for (int j = 0; j < n; j++) {
        if (keys[j] >= keys[i]) continue;
        nearer++;
        below[e] += masses[j];
      }
      stays[e] = s.top_k <= 0 || nearer < s.top_k;
    }
    if (target == 0) {
      std::uint64_t kept = 0;
#pragma unroll
      for (int e = 0; e < kEach; e++) kept += stays[e] ? masses[e * C.threads + thread_index()] : 0;
#pragma unroll
      for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) kept += shuffle_xor(kept, lanes);
      if (lane_index() == 0 && kept > 0) atomic_add(total, kept);
      block_sync();
    }
    const std::uint64_t wanted = target > 0 ? target : kept_mass(s.top_p, *total);
#pragma unroll
    for (int e = 0; e < kEach; e++) {
      const int i = e * C.threads + thread_index();
      if (i >= n || !stays[e] || keys[i] > nearest || (s.top_p < 1.0f && below[e] >= wanted)) continue;
      enter(race, i, winner);
    }
  }

  __device__ __forceinline__ std::uint64_t mass(std::uint32_t limit) const {
    auto* total = reinterpret_cast<std::uint64_t*>(shared + kTotal);
    block_sync();
    if (thread_index() == 0) *total = 0;
    block_sync();
    std::uint64_t sum = 0;
    for (int i = thread_index(); i < n; i += C.threads) {
      if (score_key(scores[i], peak) <= limit) sum += score_mass(scores[i], peak);
    }
    if (sum > 0) atomic_add(total, sum);
    block_sync();
    return *total;
  }

  // The smallest key such that candidates up to it (of those within `limit`) number, or weigh, at least `target`: digit by
  // digit.
  template <bool ByMass>
  __device__ __forceinline__ std::uint32_t select(const Known& known, std::uint32_t limit, std::uint64_t target) const {
    auto* histogram = reinterpret_cast<std::uint64_t*>(shared + kHistogram);
    std::uint64_t prefix = known.prefix;  // of the key's bits from `bits` on
    for (int bits = known.bits; bits > 0;) {
      const int width = min(bits, kDigitBits);
      const std::uint32_t digits = (1u << width) - 1;
      bits -= width;
      block_sync();
      for (int i = thread_index(); i < kDigits; i += C.threads) histogram[i] = 0;
      block_sync();
      for (int i = thread_index(); i < n; i += C.threads) {
        const std::uint32_t k = score_key(scores[i], peak);
        if (k > limit || static_cast<std::uint64_t>(k) >> bits >> width != prefix) continue;
        atomic_add(histogram + (k >> bits & digits), ByMass ? score_mass(scores[i], peak) : std::uint64_t{1});
      }
      block_sync();
      const Crossing found = find_crossing<kDigits, C.threads>(
          histogram, [&](std::uint64_t) { return target; }, shared + kCrossing);
      // Where the target is never reached the last digit is meant.
      prefix = prefix << width | (static_cast<std::uint32_t>(found.bin) & digits);
      target -= found.before;
    }
    return static_cast<std::uint32_t>(prefix);
  }
};

}  // namespace imp
