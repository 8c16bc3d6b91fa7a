// The end of a step that samples: each CTA lets the tokens of its part race that are sure to stay, and lists those of which
// that is not known; the CTA that comes last decides about these, and delivers the winner.
//
// A list is short: what is as good as the k-th best of the parts' best for a small top-k, else one or a few bins of the
// coarse histogram. Where it overflows (many nearly equal logits), or there is no histogram, the last CTA goes through the
// whole vocabulary.
#pragma once
#include "imp/stage/weigh.h"

namespace imp {

template <SampleConfig C>
struct Draw {
  static constexpr int kThreads = C.threads;
  static constexpr int kWarps = C.threads / kWarp;
  static constexpr int kCandidates = 0;
  static constexpr int kBest = kCandidates + Candidates<C>::kSharedBytes;
  static constexpr int kLast = kBest + best_bytes(kWarps);
  static constexpr int kCount = kLast + 4;
  static constexpr int kFirst = kLast + 8;
  static constexpr int kList = kLast + 16;
  // First the CTA's own candidates, scores and tokens, then for the last CTA the scores of all.
  static constexpr int kOwn = C.listed < Slice<C>::kTokens ? C.listed : Slice<C>::kTokens;
  static constexpr int kSharedBytes = kList + (C.listed > kOwn * 2 ? C.listed * 4 : kOwn * 8);
  static_assert(C.listed >= C.parts, "the bests of all parts are ranked where lists lie");

  // Scratch of the sampling kernels, for each end; histogram and `arrived` are zero between steps.
  struct Work {
    std::uint64_t* histogram;
    float* winner_value;    // [parts]
    std::uint32_t* winner;  // [parts]
    float* list_scores;     // [listed]
    std::uint32_t* list_ids;
    std::uint32_t* arrived;  // {CTAs, listed candidates}

    __device__ __forceinline__ Work of(const StepEnd& end) const {
      const std::size_t place = static_cast<std::size_t>(end.place);
      return {histogram + place * kBins,        winner_value + place * C.parts, winner + place * C.parts,
              list_scores + place * C.listed, list_ids + place * C.listed,    arrived + place * 2};
    }
  };

  struct Args {
    const Sampling* sampling;  // [slots]
    Scores<C> scores;
    Work work;
    Memory<C> memory;
    Delivery<C> delivery;
  };
  static __device__ __forceinline__ void run(const Args& a) {
    const Delivery<C>& delivery = a.delivery;
    std::uint8_t* shared = shared_memory();
    grid_wait();
    const StepEnd end = delivery.end();
    const Sampling& s = a.sampling[end.slot];
    if constexpr (C.several) {
      if (end.place < 0 || s.sieves() || (s.temperature <= 0.0f && block_index() > 0)) return;
    }
    const Scores<C> scores = a.scores.of(end, s);
    const Work work = a.work.of(end);
    // What takes its time is asked for first: of one end nothing here depends on the sequence.
    const Slice<C> slice;
    float score[kHeld];
#pragma unroll
    for (int e = 0; e < kHeld; e++) score[e] = token_of(slice, e) < slice.end ? scores.values[token_of(slice, e)] : 0;
    Best best;
    for (int i = thread_index(); i < C.parts; i += C.threads) best.offer(scores.best_value[i], scores.best[i]);
    if (s.temperature <= 0.0f && block_index() > 0) return;
    const auto turn = delivery.turn(end);
    const Own own(shared);
    best = cta_best<kWarps>(best, shared + kBest);
    if (s.temperature <= 0.0f || best.value != best.value) {
      const bool alone = s.temperature <= 0.0f;
      if ((alone || last_to_arrive<C>(work.arrived, shared + kLast)) && thread_index() == 0) {
        fence_gpu();
        if (!alone) work.arrived[0] = 0;
        a.memory.note(s, turn.position, best);
        delivery.deliver(turn, best);
      }
      return;
    }
    const Race race(s, turn.position);
    const float peak = best.value;
    const Range range = find_range(s, scores, work, peak, shared);
    Best winner{-INFINITY, best.index};
#pragma unroll
    for (int e = 0; e < kHeld; e++) {
      const int i = token_of(slice, e);
      if (i < slice.end) consider(i, score[e], peak, range, race, own, winner);
    }
    for (int i = token_of(slice, kHeld); i < slice.end; i += C.threads) {
      consider(i, scores.values[i], peak, range, race, own, winner);
    }
    hand_in(work, winner, own, shared);
    if (!last_to_arrive<C>(work.arrived, shared + kLast)) return;
    winner = decide(s, scores, range, work, race, best, shared);
    if (thread_index() != 0) return;
    a.memory.note(s, turn.position, winner);
    delivery.deliver(turn, winner);
  }

 private:
  // Tokens of a CTA's part that a thread holds in registers: on a GPU all.
  static constexpr int kEach = ceil_div(Slice<C>::kTokens, C.threads);
  static constexpr int kHeld = kEach < 8 ? kEach : 8;
  static __device__ __forceinline__ int token_of(const Slice<C>& slice, int e) {
    return slice.first + e * C.threads + thread_index();
  }

  // The candidates of a CTA's part, in shared memory. What does not fit is counted.
  struct Own {
    std::uint32_t* count;
    float* scores;
    std::uint32_t* ids;
    __device__ __forceinline__ explicit Own(std::uint8_t* shared)
        : count(reinterpret_cast<std::uint32_t*>(shared + kCount)),
          scores(reinterpret_cast<float*>(shared + kList)),
          ids(reinterpret_cast<std::uint32_t*>(shared + kList) + kOwn) {
      if (thread_index() == 0) *count = 0;  // a barrier comes before the first is added
    }
    __device__ __forceinline__ void add(float score, std::uint32_t id) const {
      const std::uint32_t place = atomic_add(count, 1u);
      if (place >= kOwn) return;
      scores[place] = score;
      ids[place] = id;
    }
  };

  // Keys below `sure` pass top-k and top-p, keys from there to `last` may, and `known` is known of these; `nearest` is
  // min-p's.
  struct Range {
    std::uint64_t sure;
    std::uint32_t last;
    std::uint32_t nearest;
    typename Candidates<C>::Known known;
  };

  static __device__ __forceinline__ void consider(int i, float score, float peak, const Range& range, const Race& race,
                                                  const Own& own, Best& winner) {
    if (score == -INFINITY) return;
    const std::uint32_t key = score_key(score, peak);
    const auto token = static_cast<std::uint32_t>(i);
    if (key < range.sure) {
      if (key <= range.nearest) winner.offer(race(score, peak, token), token);
    } else if (key <= range.last) {
      own.add(score, token);
    }
  }

  // The CTA's winner and its candidates, for the last CTA.
  static __device__ __forceinline__ void hand_in(const Work& work, const Best& mine, const Own& own,
                                                 std::uint8_t* shared) {
    auto* first = reinterpret_cast<std::uint32_t*>(shared + kFirst);
    block_sync();
    const std::uint32_t count = *own.count;
    std::uint32_t place = 0;
    if (thread_index() == 0 && count > 0) place = atomic_add(work.arrived + 1, count);
    const Best winner = cta_best<kWarps>(mine, shared + kBest);
    if (thread_index() == 0) {
      work.winner_value[block_index()] = winner.value;
      work.winner[block_index()] = winner.index;
      *first = place;
    }
    if (count == 0) return;
    block_sync();
    for (int i = thread_index(); i < min(static_cast<int>(count), kOwn); i += C.threads) {
      const std::uint32_t at = *first + static_cast<std::uint32_t>(i);
      if (at >= C.listed) break;
      work.list_scores[at] = own.scores[i];
      work.list_ids[at] = own.ids[i];
    }
  }

  static __device__ __forceinline__ Range find_range(const Sampling& s, const Scores<C>& scores, const Work& work,
                                                     float peak, std::uint8_t* shared) {
    const std::uint32_t nearest = s.min_p > 0.0f ? distance_key(-logf(s.min_p)) : ~0u;
    if (scores.few(s)) return {0, score_key(scores.rank_best(s.top_k, shared + kList, shared + kLast), peak), nearest, {}};
    if (!scores.needs_histogram(s)) return {1ull << 32, 0, nearest, {}};
    if (!C.weighed) return {0, 0, nearest, {}};
    const bool by_count = scores.filters_by_count(s);
    std::uint64_t wanted = 0;
    const Crossing found = find_crossing<kBins, C.threads>(
        work.histogram,
        [&](std::uint64_t total) {
          return wanted = by_count ? static_cast<std::uint64_t>(s.top_k) : kept_mass(s.top_p, total);
        },
        shared + Candidates<C>::kCrossing);
    const bool open = found.bin == kBins - 1;  // the bin of all that is further away
    const auto bin = static_cast<std::uint32_t>(found.bin);
    const std::uint32_t last = open ? ~0u : ((bin + 1) << kBinShift) - 1;
    if (by_count) return {0, last, nearest, {}};
    const std::uint64_t missing = wanted - found.before;
    if (open) return {bin << kBinShift, last, nearest, {0, 32, missing}};
    return {bin << kBinShift, last, nearest, {bin, kBinShift, missing}};
  }

  // The last CTA: who wins among the other CTAs' winners and the candidates that all have listed.
  static __device__ __forceinline__ Best decide(const Sampling& s, const Scores<C>& scores, const Range& range,
                                                const Work& work, const Race& race, const Best& best,
                                                std::uint8_t* shared) {
    Best winner{-INFINITY, best.index};
    const auto count = load_fresh(work.arrived + 1);
    auto* list_scores = reinterpret_cast<float*>(shared + kList);
    auto* list_ids = reinterpret_cast<std::uint32_t*>(shared + kList) + kOwn;
    // The first are read before it is known how many there are.
    static_assert(C.listed >= C.threads, "a list has a place for each thread");
    const float first_score = load_fresh(work.list_scores + thread_index());
    const std::uint32_t first_id = load_fresh(work.list_ids + thread_index());
    for (int i = thread_index(); i < C.parts; i += C.threads) {
      winner.offer(load_fresh(work.winner_value + i), load_fresh(work.winner + i));
    }
    // The one who delivers writes what the other CTAs have read, and only it must come after that.
    if (thread_index() == 0) fence_gpu();
    if (count > C.listed || (scores.needs_histogram(s) && !C.weighed)) {
      winner = {-INFINITY, best.index};
      const Candidates<C> all{scores.values, nullptr, C.vocab, best.value, shared + kCandidates};
      all.decide(s, range.nearest, {}, race, winner);
    } else if (count > 0) {
      const int n = static_cast<int>(count);
      const bool few = n <= kOwn;
      for (int i = thread_index(); i < n; i += C.threads) {
        const bool first = i < C.threads;
        list_scores[i] = first ? first_score : load_fresh(work.list_scores + i);
        if (few) list_ids[i] = first ? first_id : load_fresh(work.list_ids + i);
      }
      if (!few) fence_gpu();
      block_sync();
      const Candidates<C> listed{list_scores, few ? list_ids : work.list_ids, n, best.value, shared + kCandidates};
      listed.decide(s, range.nearest, range.known, race, winner);
    }
    winner = cta_best<kWarps>(winner, shared + kBest);
    if (C.weighed && scores.needs_histogram(s)) {
      for (int i = thread_index(); i < kBins; i += C.threads) work.histogram[i] = 0;
    }
    if (thread_index() == 0) {
      work.arrived[0] = 0;
      work.arrived[1] = 0;
    }
    return {0, winner.index};  // who runs alone may do so at -infinity, which is no fault
  }
};

}  // namespace imp
