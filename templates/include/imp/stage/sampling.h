// What the sampling kernels share: a sequence's parameters, its penalties, how candidates are ordered and weighed, the draw,
// and how a token is delivered.
//
// Candidates are ordered by the distance of their score from the largest, as a 32-bit fixed-point key, and weighed in
// integers, so that no result depends on the order of threads or on the number of CTAs. The draw is an exponential race:
// the token with the smallest E_i / p_i, E_i ~ Exp(1), wins with probability p_i.
#pragma once
#include "imp/stage/best.h"
#include "imp/stage/rows.h"

namespace imp {

// Flags of a sampling record.
inline constexpr std::uint32_t kMasked = 1;
inline constexpr std::uint32_t kBiased = 2;
inline constexpr std::uint32_t kMirostat = 4;
inline constexpr std::uint32_t kExported = 8;  // the host wants all logits
inline constexpr std::uint32_t kListed = 16;   // the host wants the best

// Matches SAMPLING_DTYPE of the launch plan.
struct Sampling {
  float temperature;
  float top_p;
  float min_p;
  std::int32_t top_k;
  float repetition_penalty;
  float frequency_penalty;
  float presence_penalty;
  std::uint32_t flags;
  std::uint64_t seed;
  float typical_p;
  float xtc_probability;
  float xtc_threshold;
  float mirostat_tau;
  float mirostat_eta;
  std::int32_t repeat_last_n;  // -1: all
  float dry_multiplier;        // 0: off
  float dry_base;
  std::int32_t dry_allowed_length;
  std::int32_t dry_longest;  // a longer repetition counts as this
  std::int32_t dry_last_n;   // -1: all
  std::int32_t ledger;       // -1: none

  __device__ __forceinline__ bool penalises() const {
    return repetition_penalty != 1.0f || frequency_penalty != 0.0f || presence_penalty != 0.0f;
  }
  // Whether scores are other numbers than logits.
  __device__ __forceinline__ bool adjusts() const {
    return (flags & (kMasked | kBiased)) != 0 || penalises() || dry_multiplier > 0.0f;
  }
  // Whether the filters look at all candidates together.
  __device__ __forceinline__ bool sieves() const {
    return temperature > 0.0f && (typical_p < 1.0f || xtc_probability > 0.0f || (flags & kMirostat) != 0);
  }
  // Where the sequence's row begins among those of `width` elements a ledger. Without one nothing of it may be read.
  __device__ __forceinline__ std::size_t row(int width) const {
    return static_cast<std::size_t>(max(ledger, 0)) * static_cast<std::size_t>(width);
  }
};
static_assert(sizeof(Sampling) == 88, "the host writes 88 bytes a slot");
inline constexpr std::uint32_t kNoToken = ~0u;  // in the ring: the logits were no finite numbers

struct SampleConfig {
  int vocab;
  int context;
  int breakers;  // words that a sequence's breakers have
  int parts;  // CTAs of the LM head, each of which left its best logit, and of every kernel that goes through all scores
  int threads;
  int listed;  // candidates that a list holds
  int ring;
  bool weighed;  // the histogram is made where it is of use, else the last CTA goes through all tokens then
  bool several = false;  // ends in one launch, an end for each y of the grid
};

// How often a sequence has a token: among those that it has generated, and among its last repeat_last_n of all.
struct Seen {
  std::uint32_t generated;
  std::uint32_t recent;
};

// Repetition: of the last tokens (Keskar et al. 2019). Frequency and presence: of the output (OpenAI).
__device__ __forceinline__ float penalise(float score, const Seen& seen, const Sampling& s) {
  if (seen.recent > 0) score = score > 0.0f ? score / s.repetition_penalty : score * s.repetition_penalty;
  if (seen.generated > 0) {
    score -= static_cast<float>(seen.generated) * s.frequency_penalty + s.presence_penalty;
  }
  return score;
}

inline constexpr float kKeyUnit = 0x1p27f;  // keys of one nat; 32 nats and more share the last key
inline constexpr float kMassUnit = 0x1p32f;
inline constexpr int kBins = 2048;  // of the coarse histogram, each 1/128 of a nat wide; the last has all beyond
inline constexpr int kBinShift = 20;

inline constexpr float kLog2E = 1.4426950408889634f;

__device__ __forceinline__ std::uint32_t distance_key(float nats) {
  const float distance = nats * kKeyUnit;
  return distance < 4294967040.0f ? static_cast<std::uint32_t>(distance) : ~0u;
}
__device__ __forceinline__ std::uint32_t score_key(float score, float peak) { return distance_key(peak - score); }
__device__ __forceinline__ std::uint64_t score_mass(float score, float peak) {
  return static_cast<std::uint64_t>(exp_fast(score - peak) * kMassUnit);
}
// The cumulated mass that top-p keeps.
__device__ __forceinline__ std::uint64_t kept_mass(float top_p, std::uint64_t total) {
  const auto kept = static_cast<std::uint64_t>(static_cast<double>(top_p) * static_cast<double>(total));
  return kept > 0 ? kept : 1;
}

// The finaliser of SplitMix64 (Steele et al. 2014), and that of MurmurHash3 (Appleby): each mixes all bits of a word.
__device__ __forceinline__ std::uint64_t mix64(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
__device__ __forceinline__ std::uint32_t mix32(std::uint32_t h) {
  h = (h ^ (h >> 16)) * 0x85ebca6bu;
  h = (h ^ (h >> 13)) * 0xc2b2ae35u;
  return h ^ (h >> 16);
}

// Whether XTC acts on the token at `position`: another word of the same hash.
__device__ __forceinline__ bool xtc_acts(const Sampling& s, int position) {
  const std::uint64_t key = mix64(mix64(s.seed + 0x9e3779b97f4a7c15ull) + static_cast<std::uint64_t>(position));
  const auto share = static_cast<std::uint64_t>(static_cast<double>(s.xtc_probability) * 0x1p32);
  return mix64(key + 0x9e3779b97f4a7c15ull) >> 32 < share;
}

// The race of one step: E_i from a hash of seed, position and token, which needs nothing wider than 32 bits for a token.
struct Race {
  std::uint64_t key;
  float inverse;  // of the temperature, times log2(e)
  __device__ __forceinline__ Race(const Sampling& s, int position)
      : key(mix64(mix64(s.seed + 0x9e3779b97f4a7c15ull) + static_cast<std::uint64_t>(position))),
        inverse(min(kLog2E / s.temperature, 0x1p100f)) {}
  // -E_i / p_i, but for a factor: the largest wins.
  __device__ __forceinline__ float operator()(float score, float peak, std::uint32_t token) const {
    const std::uint32_t bits = mix32(mix32(token ^ static_cast<std::uint32_t>(key)) + static_cast<std::uint32_t>(key >> 32));
    const float uniform = (static_cast<float>(bits) + 0.5f) * 0x1p-32f;
    return log1pf(-uniform) * exp2_fast((peak - score) * inverse);
  }
};

// Where a chosen token goes.
template <SampleConfig C>
struct Delivery {
  const StepHeader* step;
  std::int32_t* tokens;
  std::int32_t* positions;
  std::uint32_t* count;
  std::uint64_t* ring;
  // Of several ends, whose header `step` then is: their sequences, and the index of the first token.
  const StepSequence* sequences = nullptr;
  const std::uint32_t* first = nullptr;

  // Read early, and before grid_wait if need be: only the end of a program writes it, and programs do not overlap.
  struct Turn {
    int slot;
    int position;  // of the token to be chosen: behind the last row, which counts from now on
    std::uint32_t index;
  };
  __device__ __forceinline__ StepEnd end() const { return step_end<C.several>(step, sequences); }
  __device__ __forceinline__ Turn turn(const StepEnd& end) const {
    std::uint32_t index;
    if constexpr (C.several) {
      index = *first + static_cast<std::uint32_t>(end.place);
    } else {
      index = *count;
    }
    return {end.slot, positions[end.slot] + 1, index};
  }

  // One thread delivers.
  __device__ __forceinline__ void deliver(const Turn& turn, Best chosen) const {
    const bool good = chosen.value == chosen.value;
    // A step after this one may be under way already: it needs a token that exists.
    tokens[turn.slot] = good ? static_cast<std::int32_t>(chosen.index) : 0;
    positions[turn.slot] = turn.position;
    bool last = true;
    if constexpr (C.several) last = turn.index + 1 == *first + static_cast<std::uint32_t>(step->rows);
    if (last) *count = turn.index + 1;
    const std::uint64_t token = good ? chosen.index : kNoToken;
    store_system(ring + turn.index % C.ring, static_cast<std::uint64_t>(turn.index + 1) << 32 | token);
  }
};

// What a sequence with a ledger has of its tokens.
template <SampleConfig C>
struct Memory {
  std::int32_t* history;  // [ledgers, context]
  Seen* seen;             // [ledgers, vocab]

  // One thread notes the token chosen for `position`; that of `repeat_last_n` places before is recent no more.
  __device__ __forceinline__ void note(const Sampling& s, int position, const Best& chosen) const {
    if (s.ledger < 0 || chosen.value != chosen.value) return;
    Seen* counts = seen + s.row(C.vocab);
    std::int32_t* tokens = history + s.row(C.context);
    const int last_n = s.repeat_last_n;
    add_fresh(&counts[chosen.index].generated, 1);
    add_fresh(&counts[chosen.index].recent, 1);
    if (position < C.context) tokens[position] = static_cast<std::int32_t>(chosen.index);
    if (last_n > 0 && last_n <= position) add_fresh(&counts[tokens[position - last_n]].recent, ~0u);
  }
};

// The best of what the parts left, for all threads of a CTA.
template <SampleConfig C>
__device__ __forceinline__ Best best_of_parts(const float* values, const std::uint32_t* indices, std::uint8_t* shared) {
  Best best;
  for (int i = thread_index(); i < C.parts; i += C.threads) best.offer(values[i], indices[i]);
  return cta_best<C.threads / kWarp>(best, shared);
}

}  // namespace imp
