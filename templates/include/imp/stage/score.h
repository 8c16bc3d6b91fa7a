// Scores from logits: bias, penalties, mask; and each CTA's best.
#pragma once
#include "imp/stage/sampling.h"

namespace imp {

// Which part of the vocabulary a CTA has: whole words of a mask.
template <SampleConfig C>
struct Slice {
  static constexpr int kTokens = round_up(ceil_div(C.vocab, C.parts), 32);
  int first = block_index() * kTokens;
  int end = min(first + kTokens, C.vocab);
};

template <SampleConfig C>
struct Score {
  static constexpr int kThreads = C.threads;
  static constexpr int kSharedBytes = best_bytes(C.threads / kWarp);
  static_assert(C.threads % kWarp == 0 && C.vocab < (1 << 24), "ids are exact as floats, warps are whole");

  struct Args {
    const float* logits;
    const std::int32_t* input;
    const Sampling* sampling;
    const std::uint32_t* seen;
    const std::uint32_t* mask;  // [slots, ceil(vocab / 32)]: bits of the tokens that may be chosen, if kMasked
    const float* bias;          // [slots, vocab]: added to the logits, if kBiased
    float* scores;
    float* best_value;    // [parts]
    std::uint32_t* best;  // [parts]
  };

  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    const int slot = a.input[0];
    const Sampling& s = a.sampling[slot];
    grid_wait();
    const std::uint32_t* mask = a.mask + static_cast<std::size_t>(slot) * ceil_div(C.vocab, 32);
    const float* bias = a.bias + static_cast<std::size_t>(slot) * C.vocab;
    const std::uint32_t* seen = a.seen + static_cast<std::size_t>(slot) * C.vocab;
    const bool masked = (s.flags & kMasked) != 0;
    const bool biased = (s.flags & kBiased) != 0;
    const bool penalised = s.penalises();
    Best best;
    const Slice<C> slice;
#pragma unroll 4
    for (int i = slice.first + thread_index(); i < slice.end; i += C.threads) {
      const float logit = a.logits[i];
      float score = logit;
      if (biased) score += bias[i];
      if (penalised) score = penalise(score, seen[i], s);
      if (masked && (mask[i / 32] >> (i % 32) & 1u) == 0) score = -INFINITY;
      score += logit - logit;  // NaN where the logit is no finite number, masked or not
      a.scores[i] = score;
      best.offer(score, static_cast<std::uint32_t>(i));
    }
    best = cta_best<C.threads / kWarp>(best, shared_memory());
    if (thread_index() != 0) return;
    a.best_value[block_index()] = best.value;
    a.best[block_index()] = best.index;
  }
};

}  // namespace imp
