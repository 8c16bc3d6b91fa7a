// The best logits of a step and what all weigh, for log-probabilities: into pinned host memory, ready for the host to sort.
#pragma once
#include "imp/stage/candidates.h"

namespace imp {

// Matches TOP_DTYPE of the launch plan.
struct TopEntry {
  static constexpr int kListed = 252;
  std::uint32_t count;
  float peak;          // the largest logit
  std::uint64_t mass;  // sum of exp(logit - peak), in units of 2^-32
  float chosen;        // the logit of the token that was chosen
  std::uint32_t padding[3];
  std::uint64_t listed[kListed];  // token << 32 | bits of its logit, in no order
};
static_assert(sizeof(TopEntry) == 2048, "the host reads 2048 bytes an entry");

// `Top`: the most tokens that anybody asks for; at least so many of the best are listed.
template <SampleConfig C, int Top, int Entries>
struct TopLogits {
  static constexpr int kThreads = C.threads;
  static constexpr int kWarps = C.threads / kWarp;
  static constexpr int kBest = Candidates<C>::kSharedBytes;
  static constexpr int kFlag = kBest + best_bytes(kWarps);
  static constexpr int kMass = kFlag + 16;
  static constexpr int kList = kMass + 16;
  static constexpr int kSharedBytes = kList + round_up(C.parts * 4, 16);
  static constexpr bool kBounded = Top <= Scores<C>::kFewest;  // else the last CTA goes through all logits
  static_assert(Top <= TopEntry::kListed, "there is room for all");

  // Scratch, for each end; `arrived` is zero between steps.
  struct Work {
    std::uint64_t* part_mass;  // [parts]
    std::uint64_t* listed;     // [TopEntry::kListed]
    std::uint32_t* arrived;    // {CTAs, listed tokens}

    __device__ __forceinline__ Work of(const StepEnd& end) const {
      const std::size_t place = static_cast<std::size_t>(end.place);
      return {part_mass + place * C.parts, listed + place * TopEntry::kListed, arrived + place * 2};
    }
  };

  struct Args {
    Scores<C> scores;
    const StepHeader* step;
    const std::int32_t* tokens;    // [slots]
    const std::uint32_t* sampled;  // tokens so far, of all sequences; of several ends those before theirs
    Work work;
    TopEntry* entries;  // [Entries]
    const StepSequence* sequences = nullptr;  // of several ends, of which those whose record says so are listed
    const Sampling* sampling = nullptr;       // [slots], of several ends
  };
  static __device__ __forceinline__ void run(const Args& a) {
    const StepEnd end = step_end<C.several>(a.step, a.sequences);
    if constexpr (C.several) {
      if (end.place < 0 || (a.sampling[end.slot].flags & kListed) == 0) return;
    }
    const Scores<C> scores = a.scores.of(end);
    const Work work = a.work.of(end);
    std::uint8_t* shared = shared_memory();
    const float peak = best_of_parts<C>(scores.best_value, scores.best, shared + kBest).value;
    if (peak != peak) return;  // no token was chosen
    const std::uint32_t last = kBounded ? score_key(scores.rank_best(Top, shared + kList, shared + kFlag), peak) : 0;
    auto* mass = reinterpret_cast<std::uint64_t*>(shared + kMass);
    block_sync();
    if (thread_index() == 0) *mass = 0;
    block_sync();
    const Slice<C> slice;
    std::uint64_t sum = 0;
    for (int i = slice.first + thread_index(); i < slice.end; i += C.threads) {
      const float logit = scores.values[i];
      sum += score_mass(logit, peak);
      if (!kBounded || score_key(logit, peak) > last) continue;
      const std::uint32_t place = atomic_add(work.arrived + 1, 1u);
      if (place < TopEntry::kListed) work.listed[place] = pack(i, logit);
    }
#pragma unroll
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) sum += shuffle_xor(sum, lanes);
    if (lane_index() == 0) atomic_add(mass, sum);
    block_sync();
    if (thread_index() == 0) work.part_mass[block_index()] = *mass;
    if (!last_to_arrive<C>(work.arrived, shared + kFlag)) return;

    TopEntry& entry = a.entries[(*a.sampled + static_cast<std::uint32_t>(end.place) - (C.several ? 0 : 1)) % Entries];
    const std::uint32_t count = load_fresh(work.arrived + 1);
    block_sync();
    if (thread_index() == 0) {
      fence_gpu();  // the counters are written after all others have counted
      *mass = 0;
      work.arrived[0] = 0;
      work.arrived[1] = 0;
    }
    block_sync();
    for (int i = thread_index(); i < C.parts; i += C.threads) atomic_add(mass, load_fresh(work.part_mass + i));
    if (kBounded && count <= TopEntry::kListed) {
      for (int i = thread_index(); i < static_cast<int>(count); i += C.threads) {
        entry.listed[i] = load_fresh(work.listed + i);
      }
      if (thread_index() == 0) entry.count = count;
    } else {
      list_all(scores, peak, entry, shared);
    }
    block_sync();
    if (thread_index() != 0) return;
    entry.peak = peak;
    entry.mass = *mass;
    entry.chosen = scores.values[a.tokens[end.slot]];
  }

 private:
  static __device__ __forceinline__ std::uint64_t pack(int token, float logit) {
    return static_cast<std::uint64_t>(token) << 32 | float_to_bits(logit);
  }

  // Of the whole vocabulary; of equal ones at the border as many as there is room for.
  static __device__ __forceinline__ void list_all(const Scores<C>& scores, float peak, TopEntry& entry,
                                                  std::uint8_t* shared) {
    auto* count = reinterpret_cast<std::uint32_t*>(shared + kFlag);
    const Candidates<C> all{scores.values, nullptr, C.vocab, peak, shared};
    const std::uint32_t border = all.nearest(Top < C.vocab ? Top : C.vocab);
    block_sync();
    if (thread_index() == 0) *count = 0;
    for (int equal = 0; equal < 2; equal++) {  // a list of the two would lie in memory
      block_sync();
      for (int i = thread_index(); i < C.vocab; i += C.threads) {
        const std::uint32_t key = score_key(scores.values[i], peak);
        if (equal == 1 ? key != border : key >= border) continue;
        const std::uint32_t place = atomic_add(count, 1u);
        if (place < TopEntry::kListed) entry.listed[place] = pack(i, scores.values[i]);
      }
    }
    block_sync();
    if (thread_index() == 0) entry.count = *count < TopEntry::kListed ? *count : TopEntry::kListed;
  }
};

}  // namespace imp
