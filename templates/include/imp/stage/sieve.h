// The end of a step whose filters look at all candidates together: bias, penalties, DRY, mask, then top-k, locally typical,
// top-p, min-p and XTC, or Mirostat, one after the other as they are defined, and the draw. One kernel, whose CTAs wait for
// one another: each keeps the scores of its slice, and what all need to know of all goes through memory, a round for each
// answer. All sums are of integers, so that nothing depends on the number of CTAs or on who comes first.
#pragma once
#include "imp/stage/candidates.h"

namespace imp {

// Scores that are there already, of several ends.
template <SampleConfig C>
struct Scored {
  static constexpr int kSharedBytes = 0;

  struct Args {
    const StepHeader* step;
    const Sampling* sampling;
    const StepSequence* sequences;
    Scores<C> scores;
  };

  const Sampling& s;
  const float* values;

  __device__ __forceinline__ Scored(const Args& a, const StepEnd& end, std::uint8_t*)
      : s(a.sampling[end.slot]), values(a.scores.of(end, s).values) {}
  __device__ __forceinline__ float operator()(int i) const { return values[i]; }
};

template <SampleConfig C>
struct Sieve {
  static constexpr int kThreads = C.threads;
  static constexpr int kWarps = C.threads / kWarp;
  // What a CTA tells the others in a round.
  struct Share {
    std::uint64_t mass = 0;    // or a number of tokens
    std::uint64_t moment = 0;  // of the keys: mass * key, in units of 2^16
    Best best;
  };
  static constexpr int kShareWords = 3;

  using Source = std::conditional_t<C.several, Scored<C>, Adjust<C>>;
  struct Args {
    typename Source::Args source;
    float* surprise_limits;  // [slots]: Mirostat's, in bits
    float* scores;           // [vocab]; null of several ends
    std::uint64_t* shares;   // [2, parts, 3] of each end
    std::uint64_t* histograms;  // [3, kBins] of each end
    std::uint32_t* arrived;  // of each end; zero between steps
    float* surprises;        // [ring]: each token's surprise limit, for the host
    Memory<C> memory;
    Delivery<C> delivery;
  };

  static constexpr int kAdjust = kBins * 8;
  static constexpr int kBest = kAdjust + Source::kSharedBytes;
  static constexpr int kSums = kBest + best_bytes(kWarps);
  static constexpr int kCrossing = kSums + 16;
  static constexpr int kScores = kCrossing + crossing_bytes(kWarps);
  // A slice's scores are read again and again: from shared memory, unless it is too long, as it may be on the simulator, and
  // as it is where an end has one CTA.
  static constexpr bool kNear = !C.several && Slice<C>::kTokens <= 8192;
  static constexpr int kAhead = C.several ? 4 : 1;  // scores that a thread loads at once
  static constexpr int kSharedBytes = kScores + (kNear ? Slice<C>::kTokens * 4 : 0);

  static __device__ __forceinline__ void run(const Args& a) {
    const StepEnd end = step_end<C.several>(a.delivery.step, a.delivery.sequences);
    if constexpr (C.several) {
      if (end.place < 0 || !a.source.sampling[end.slot].sieves()) {
        grid_wait();
        return;
      }
    }
    Sieve sieve(a, end);
    sieve.choose(end);
  }

 private:
  const Args& a;
  std::uint8_t* shared = shared_memory();
  Slice<C> slice;
  const Source score_of;
  float* scores;  // of the slice, unless they are all there already
  std::uint64_t* shares;
  std::uint64_t* histograms;
  std::uint32_t* arrived;
  float heat = 1;  // what scores are divided by while they are read
  int rounds = 0;      // that all CTAs have ended together
  int selections = 0;  // of these, with a histogram
  float peak = 0;
  // What stays: keys up to `limit`, within `reach` of `centre`, and above `top` but for the token `spared`.
  std::uint32_t limit = ~0u;
  std::uint32_t centre = 0;
  std::uint32_t reach = ~0u;
  std::int64_t top = -1;
  std::uint32_t spared = 0;

  __device__ __forceinline__ Sieve(const Args& args, const StepEnd& end)
      : a(args),
        score_of(args.source, end, shared + kAdjust),
        scores(kNear ? reinterpret_cast<float*>(shared + kScores) : args.scores + slice.first),
        shares(args.shares + end.place * 2 * C.parts * kShareWords),
        histograms(args.histograms + end.place * 3 * kBins),
        arrived(args.arrived + end.place) {}

  __device__ __forceinline__ void choose(const StepEnd& end) {
    const auto turn = a.delivery.turn(end);
    const Sampling& s = score_of.s;
    const bool mirostat = (s.flags & kMirostat) != 0;
    const int each = ceil_div(3 * kBins, C.parts);
    for (int i = thread_index(); i < each; i += C.threads) {
      if (block_index() * each + i < 3 * kBins) histograms[block_index() * each + i] = 0;
    }
    grid_wait();
    if (C.several && mirostat) heat = s.temperature;
    Share share;
#pragma unroll 4
    for (int i = slice.first + thread_index(); i < slice.end; i += C.threads) {
      const float score = mirostat ? score_of(i) / s.temperature : score_of(i);
      if constexpr (!C.several) a.scores[i] = score;
      if constexpr (kNear) scores[i - slice.first] = score;
      share.best.offer(score, static_cast<std::uint32_t>(i));
    }
    const Best best = exchange(share).best;
    peak = best.value;
    const bool good = peak == peak;
    Race race(s, turn.position);
    Best nearest = best;  // to the peak, of those that stay
    if (good && mirostat) {
      race.inverse = kLog2E;
      limit_surprise(a.surprise_limits[turn.slot]);
    } else if (good) {
      filter(s);
      if (xtc_acts(s, turn.position)) exclude_top(s);
      if (reach != ~0u || top >= 0) nearest = exchange(kept_best()).best;
    }
    share = {};
    share.best = {-INFINITY, nearest.index};
    if (good) {
      each_kept([&](int i, float score, std::uint32_t) {
        if (mirostat) share.mass += score_mass(score, peak);
        const auto token = static_cast<std::uint32_t>(i);
        share.best.offer(race(score, nearest.value, token), token);
      });
    }
    publish(share);
    if (!last()) return;
    const Share all = collect();
    if (thread_index() != 0) return;
    fence_gpu();
    *arrived = 0;
    if (good && mirostat) {
      float score;
      if constexpr (C.several) {
        score = score_at(static_cast<int>(all.best.index));
      } else {
        score = load_fresh(a.scores + all.best.index);
      }
      const float surprise = (peak - score) * kLog2E + log2f(in_units(all.mass));
      const float most = a.surprise_limits[turn.slot] - s.mirostat_eta * (surprise - s.mirostat_tau);
      a.surprise_limits[turn.slot] = a.surprises[turn.index % C.ring] = most;
    }
    const Best chosen{good ? 0 : peak, all.best.index};
    a.memory.note(s, turn.position, chosen);
    a.delivery.deliver(turn, chosen);
  }

  // The filters but XTC.
  __device__ __forceinline__ void filter(const Sampling& s) {
    if (s.top_k > 0 && s.top_k < C.vocab) {
      const auto wanted = static_cast<std::uint64_t>(s.top_k);
      limit = select([](std::uint32_t key) { return key; }, [](float) { return std::uint64_t{1}; },
                     [&](std::uint64_t) { return wanted; });
    }
    const auto mass = [this](float score) { return score_mass(score, peak); };
    if (s.typical_p < 1.0f) {
      // A token's surprise less the entropy is its key less the mean of all keys.
      Share share;
      each_kept([&](int, float score, std::uint32_t key) {
        share.mass += mass(score);
        share.moment += mass(score) * key >> 16;
      });
      share = exchange(share);
      const double mean = static_cast<double>(share.moment) / static_cast<double>(share.mass) * 65536.0;
      const auto target = static_cast<std::uint64_t>(static_cast<double>(s.typical_p) * static_cast<double>(share.mass));
      const auto middle = static_cast<std::uint32_t>(mean);
      const std::uint32_t farthest = select([=](std::uint32_t key) { return apart(key, middle); }, mass,
                                            [=](std::uint64_t) { return target + 1; });
      centre = middle;
      reach = farthest;
    }
    if (s.top_p < 1.0f) {
      limit = select([](std::uint32_t key) { return key; }, mass,
                     [&](std::uint64_t total) { return kept_mass(s.top_p, total); });
    }
    if (s.min_p > 0.0f) {
      const std::uint32_t nearest = reach != ~0u ? score_key(exchange(kept_best()).best.value, peak) : 0;
      const std::uint32_t span = distance_key(-logf(s.min_p));
      const std::uint32_t farthest = span < ~0u - nearest ? nearest + span : ~0u;
      limit = farthest < limit ? farthest : limit;
    }
  }

  // XTC: of those that have at least the threshold of the probability only the least likely stays. What is 32 nats below the
  // best has none.
  __device__ __forceinline__ void exclude_top(const Sampling& s) {
    Share share;
    each_kept([&](int, float score, std::uint32_t) { share.mass += score_mass(score, peak); });
    const float least = s.xtc_threshold * in_units(exchange(share).mass);
    if (least > 1.0f) return;
    const std::uint32_t farthest = distance_key(-logf(least));
    const std::uint32_t last = farthest < ~0u ? farthest : ~0u - 1;
    share = {};
    each_kept([&](int i, float score, std::uint32_t key) {
      if (key > last) return;
      share.mass++;
      share.best.offer(-score, static_cast<std::uint32_t>(i));
    });
    share = exchange(share);
    if (share.mass < 2) return;
    top = last;
    spared = share.best.index;
  }

  // Mirostat v2: those whose surprise, in bits, is no more than the limit, or the likeliest.
  __device__ __forceinline__ void limit_surprise(float most) {
    Share share;
    each_kept([&](int, float score, std::uint32_t) { share.mass += score_mass(score, peak); });
    const float least = exp2f(-most) * in_units(exchange(share).mass);
    limit = least < 1.0f ? distance_key(-logf(least)) : 0;
  }

  // A mass where the peak's is 1.
  static __device__ __forceinline__ float in_units(std::uint64_t mass) {
    return static_cast<float>(mass) * (1.0f / kMassUnit);
  }

  // Not unrolled: that the code is short counts for more, as each step finds it in no cache.
  template <class Use>
  __device__ __forceinline__ void each_kept(const Use& use) const {
#pragma unroll 1
    for (int first = slice.first + thread_index(); first < slice.end; first += kAhead * C.threads) {
      float ahead[kAhead];
#pragma unroll
      for (int e = 0; e < kAhead; e++) {
        const int i = first + e * C.threads;
        ahead[e] = e == 0 || i < slice.end ? score_at(i) : -INFINITY;
      }
#pragma unroll
      for (int e = 0; e < kAhead; e++) {
        const int i = first + e * C.threads;
        const float score = ahead[e];
        if (score == -INFINITY) continue;
        const std::uint32_t key = score_key(score, peak);
        if (key > limit || apart(key, centre) > reach) continue;
        if (static_cast<std::int64_t>(key) <= top && static_cast<std::uint32_t>(i) != spared) continue;
        use(i, score, key);
      }
    }
  }

  __device__ __forceinline__ float score_at(int i) const {
    if constexpr (C.several) {
      return heat != 1.0f ? score_of(i) / heat : score_of(i);
    } else {
      return scores[i - slice.first];
    }
  }

  __device__ __forceinline__ Share kept_best() const {
    Share share;
    each_kept([&](int i, float score, std::uint32_t) { share.best.offer(score, static_cast<std::uint32_t>(i)); });
    return share;
  }

  static __device__ __forceinline__ std::uint32_t apart(std::uint32_t a, std::uint32_t b) { return a > b ? a - b : b - a; }

  // The smallest rank up to which the candidates weigh at least target(what all weigh): by their first bits, then the next.
  template <class Rank, class Weight, class Target>
  __device__ __forceinline__ std::uint32_t select(const Rank& rank, const Weight& weight, const Target& target) {
    auto* bins = reinterpret_cast<std::uint64_t*>(shared);
    std::uint32_t prefix = 0;
    std::uint64_t missing = 0;
#pragma unroll 1
    for (int bits = 32; bits > 0;) {
      const int width = bits > 22 ? 10 : 11;
      static_assert(kBins == 1 << 11 && 10 + 11 + 11 == 32);
      bits -= width;
      std::uint64_t* histogram = histograms + selections % 3 * kBins;
      std::uint64_t* next = histograms + (selections + 1) % 3 * kBins;
      for (int i = thread_index(); i < kBins; i += C.threads) bins[i] = 0;
      // Nobody reads the next one any more: it is that of the last selection but one.
      for (int i = block_index() * C.threads + thread_index(); i < kBins && selections > 1; i += C.parts * C.threads) {
        next[i] = 0;
      }
      block_sync();
      each_kept([&](int, float score, std::uint32_t key) {
        const std::uint32_t place = rank(key);
        if (static_cast<std::uint64_t>(place) >> bits >> width != prefix) return;
        const std::uint64_t entry = weight(score);
        if (entry > 0) atomic_add(bins + (place >> bits & ((1u << width) - 1)), entry);
      });
      block_sync();
      for (int i = thread_index(); i < kBins; i += C.threads) {
        if (bins[i] > 0) atomic_add(histogram + i, bins[i]);
      }
      sync();
      selections++;
      for (int i = thread_index(); i < kBins; i += C.threads) bins[i] = load_fresh(histogram + i);
      block_sync();
      const bool first = bits == 22;
      const Crossing found = find_crossing<kBins, C.threads>(
          bins, [&](std::uint64_t total) { return missing = first ? target(total) : missing; }, shared + kCrossing);
      const std::uint32_t digit = static_cast<std::uint32_t>(found.bin) & ((1u << width) - 1);
      prefix = prefix << width | digit;
      missing -= found.before;
    }
    return prefix;
  }

  // Tells the others, and what all have told.
  __device__ __forceinline__ Share exchange(const Share& mine) {
    publish(mine);
    sync();
    return collect();
  }

  __device__ __forceinline__ void publish(const Share& mine) const {
    auto* sums = reinterpret_cast<std::uint64_t*>(shared + kSums);
    std::uint64_t mass = mine.mass, moment = mine.moment;
#pragma unroll
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
      mass += shuffle_xor(mass, lanes);
      moment += shuffle_xor(moment, lanes);
    }
    block_sync();
    if (thread_index() == 0) sums[0] = sums[1] = 0;
    const Best best = cta_best<kWarps>(mine.best, shared + kBest);
    if (lane_index() == 0) {
      atomic_add(sums, mass);
      atomic_add(sums + 1, moment);
    }
    block_sync();
    if (thread_index() != 0) return;
    std::uint64_t* words = shares + (rounds % 2 * C.parts + block_index()) * kShareWords;
    words[0] = sums[0];
    words[1] = sums[1];
    words[2] = static_cast<std::uint64_t>(best.index) << 32 | float_to_bits(best.value);
  }

  // Of the round that has just ended.
  __device__ __forceinline__ Share collect() const {
    auto* sums = reinterpret_cast<std::uint64_t*>(shared + kSums);
    block_sync();
    if (thread_index() == 0) sums[0] = sums[1] = 0;
    block_sync();
    Share all;
    for (int i = thread_index(); i < C.parts; i += C.threads) {
      const std::uint64_t* words = shares + ((rounds + 1) % 2 * C.parts + i) * kShareWords;
      all.mass += load_fresh(words);
      all.moment += load_fresh(words + 1);
      const std::uint64_t best = load_fresh(words + 2);
      all.best.offer(bits_to_float(static_cast<std::uint32_t>(best)), static_cast<std::uint32_t>(best >> 32));
    }
    if (all.mass > 0) atomic_add(sums, all.mass);
    if (all.moment > 0) atomic_add(sums + 1, all.moment);
    all.best = cta_best<kWarps>(all.best, shared + kBest);
    block_sync();
    all.mass = sums[0];
    all.moment = sums[1];
    return all;
  }

  // All CTAs have come here, and see what the others have written.
  __device__ __forceinline__ void sync() {
    rounds++;
    block_sync();
    if (thread_index() == 0) {
      const auto all = static_cast<std::uint32_t>(rounds * C.parts);
      fence_gpu();
      add_fresh(arrived, 1);
      Poll poll("round", all);
      while (load_fresh(arrived) < all) poll.pause();
      fence_gpu();
    }
    block_sync();
  }

  // The same without waiting: whether all others have been here.
  __device__ __forceinline__ bool last() {
    auto* flag = reinterpret_cast<std::uint32_t*>(shared + kSums);
    rounds++;
    block_sync();
    if (thread_index() == 0) {
      fence_gpu();
      *flag = atomic_add(arrived, 1u) == static_cast<std::uint32_t>(rounds * C.parts - 1);
    }
    block_sync();
    return *flag != 0;
  }
};

}  // namespace imp
