// The coarse histogram of a sequence's candidates by their distance from the best, where its filters need one: how many there
// are for top-k, else what they weigh. All entries are integers, so the order in which CTAs add is of no matter.
#pragma once
#include "imp/stage/candidates.h"

namespace imp {

template <SampleConfig C>
struct Weigh {
  static constexpr int kThreads = C.threads;
  static constexpr int kBest = kBins * 8;
  static constexpr int kSharedBytes = kBest + best_bytes(C.threads / kWarp);

  struct Args {
    const StepHeader* step;
    const Sampling* sampling;  // [slots]
    Scores<C> scores;
    std::uint64_t* histogram;  // [kBins] of each end
    const StepSequence* sequences = nullptr;  // of several ends
  };
  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    std::uint8_t* shared = shared_memory();
    const StepEnd end = step_end<C.several>(a.step, a.sequences);
    const Sampling& s = a.sampling[end.slot];
    const Scores<C> scores = a.scores.of(end, s);
    bool needed = scores.needs_histogram(s);
    if constexpr (C.several) needed = needed && end.place >= 0 && !s.sieves();
    auto* bins = reinterpret_cast<std::uint64_t*>(shared);
    if (needed) {
      for (int i = thread_index(); i < kBins; i += C.threads) bins[i] = 0;
    }
    grid_wait();
    if (!needed) return;
    const float peak = best_of_parts<C>(scores.best_value, scores.best, shared + kBest).value;
    if (peak != peak) return;
    const Slice<C> slice;
#pragma unroll 4
    for (int i = slice.first + thread_index(); i < slice.end; i += C.threads) {
      const float score = scores.values[i];
      const std::uint64_t entry = scores.filters_by_count(s) ? 1 : score_mass(score, peak);
      if (entry > 0) atomic_add(bins + bin_of(score_key(score, peak)), entry);
    }
    block_sync();
    for (int i = thread_index(); i < kBins; i += C.threads) {
      if (bins[i] > 0) atomic_add(a.histogram + end.place * kBins + i, bins[i]);
    }
  }
};

}  // namespace imp
