// Scores from logits: bias, penalties, DRY, mask; and each CTA's best.
#pragma once
#include "imp/stage/repetition.h"

namespace imp {

// What makes a score of a logit. For a token of the CTA's slice.
template <SampleConfig C>
struct Adjust {
  static constexpr int kSharedBytes = Repetition<C>::kSharedBytes;

  struct Args {
    const float* logits;
    const StepHeader* step;
    const Sampling* sampling;
    const std::int32_t* positions;
    const std::int32_t* history;   // [ledgers, context]
    const std::int32_t* breakers;  // [ledgers, breakers]
    const Seen* seen;              // [ledgers, vocab]
    const std::uint32_t* mask;     // [ledgers, ceil(vocab / 32)]: bits of the tokens that may be chosen, if kMasked
    const float* bias;             // [ledgers, vocab]: added to the logits, if kBiased
    std::uint32_t* longest;        // [vocab]: scratch of DRY; of several ends [ledgers, vocab]
    const StepSequence* sequences = nullptr;  // of several ends, whose logits are [ends, vocab]
  };

  const float* logits;
  const Sampling& s;
  const Seen* seen;
  const std::uint32_t* mask;
  const float* bias;
  Repetition<C> repetition;
  bool masked, biased, penalised, repeated;

  // Before grid_wait: none of this is written before the end of a program.
  __device__ __forceinline__ Adjust(const Args& a, const StepEnd& end, std::uint8_t* shared)
      : logits(a.logits + static_cast<std::size_t>(end.place) * C.vocab),
        s(a.sampling[end.slot]),
        seen(a.seen + s.row(C.vocab)),
        mask(a.mask + s.row(ceil_div(C.vocab, 32))),
        bias(a.bias + s.row(C.vocab)),
        repetition{a.history + s.row(C.context), a.breakers + s.row(C.breakers),
                   a.longest + (C.several ? s.row(C.vocab) : 0)},
        masked((s.flags & kMasked) != 0),
        biased((s.flags & kBiased) != 0),
        penalised(s.penalises()),
        repeated(s.dry_multiplier > 0.0f) {
    if (repeated) repetition.find(s, a.positions[end.slot] + 1, shared);
  }

  __device__ __forceinline__ float operator()(int i) const {
    const float logit = logits[i];
    float score = logit;
    if (biased) score += bias[i];
    if (penalised) score = penalise(score, seen[i], s);
    // Whatever a token loses, it can be chosen if it is the only one.
    if (repeated) score = max(score - repetition.loss(s, i), -1e30f);
    if (masked && (mask[i / 32] >> (i % 32) & 1u) == 0) score = -INFINITY;
    return score + (logit - logit);  // NaN where the logit is no finite number, masked or not
  }
};

template <SampleConfig C>
struct Score {
  static constexpr int kThreads = C.threads;
  static constexpr int kBest = Adjust<C>::kSharedBytes;
  static constexpr int kSharedBytes = kBest + best_bytes(C.threads / kWarp);
  static_assert(C.threads % kWarp == 0 && C.vocab < (1 << 24), "ids are exact as floats, warps are whole");

  struct Args {
    typename Adjust<C>::Args adjust;
    float* scores;        // [vocab]; of several ends [ledgers, vocab], for those whose scores are other numbers than logits
    float* best_value;    // [parts] of each end
    std::uint32_t* best;  // [parts]
    float* logit_value = nullptr;  // of several ends the same of their logits, as the LM head of one row leaves it
    std::uint32_t* logit_best = nullptr;
  };
  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    const StepEnd end = step_end<C.several>(a.adjust.step, a.adjust.sequences);
    if (end.place < 0) {
      grid_wait();
      return;
    }
    const Adjust<C> score_of(a.adjust, end, shared_memory());
    grid_wait();
    if constexpr (C.several) {
      run_several(a, end, score_of);
      return;
    }
    Best mine;
    const Slice<C> slice;
#pragma unroll 4
    for (int i = slice.first + thread_index(); i < slice.end; i += C.threads) {
      const float score = score_of(i);
      a.scores[i] = score;
      mine.offer(score, static_cast<std::uint32_t>(i));
    }
    mine = cta_best<C.threads / kWarp>(mine, shared_memory() + kBest);
    if (thread_index() != 0) return;
    a.best_value[block_index()] = mine.value;
    a.best[block_index()] = mine.index;
  }

 private:
  static __device__ __forceinline__ void run_several(const Args& a, const StepEnd& end, const Adjust<C>& score_of) {
    const bool adjusts = score_of.s.adjusts();
    float* const scores = a.scores + score_of.s.row(C.vocab);
    Best largest, mine;
    const Slice<C> slice;
#pragma unroll 4
    for (int i = slice.first + thread_index(); i < slice.end; i += C.threads) {
      largest.offer_next(score_of.logits[i], static_cast<std::uint32_t>(i));
      if (!adjusts) continue;
      const float score = score_of(i);
      scores[i] = score;
      mine.offer(score, static_cast<std::uint32_t>(i));
    }
    std::uint8_t* const shared = shared_memory() + kBest;
    largest = cta_best<C.threads / kWarp>(largest, shared);
    mine = adjusts ? cta_best<C.threads / kWarp>(mine, shared) : largest;
    if (thread_index() != 0) return;
    const int part = end.place * C.parts + block_index();
    a.logit_value[part] = largest.value;
    a.logit_best[part] = largest.index;
    a.best_value[part] = mine.value;
    a.best[part] = mine.index;
  }
};

}  // namespace imp
