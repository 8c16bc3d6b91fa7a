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
    std::uint32_t* longest;        // [vocab]: scratch of DRY
  };

  const float* logits;
  const Sampling& s;
  const Seen* seen;
  const std::uint32_t* mask;
  const float* bias;
  Repetition<C> repetition;
  bool masked, biased, penalised, repeated;

  // Before grid_wait: none of this is written before the end of a program.
  __device__ __forceinline__ Adjust(const Args& a, std::uint8_t* shared)
      : logits(a.logits),
        s(a.sampling[a.step->slot]),
        seen(a.seen + s.row(C.vocab)),
        mask(a.mask + s.row(ceil_div(C.vocab, 32))),
        bias(a.bias + s.row(C.vocab)),
        repetition{a.history + s.row(C.context), a.breakers + s.row(C.breakers), a.longest},
        masked((s.flags & kMasked) != 0),
        biased((s.flags & kBiased) != 0),
        penalised(s.penalises()),
        repeated(s.dry_multiplier > 0.0f) {
    if (repeated) repetition.find(s, a.positions[a.step->slot] + 1, shared);
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
    float* scores;        // [vocab]
    float* best_value;    // [parts]
    std::uint32_t* best;  // [parts]
  };
  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    const Adjust<C> score_of(a.adjust, shared_memory());
    grid_wait();
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
};

}  // namespace imp
