// Logits to one token: mask, bias, penalties, top-k, top-p, min-p, temperature, and a draw that depends on seed and
// position only.
//
// One CTA. Candidates are selected by the distance of their logit from the largest, as a 32-bit fixed-point key, digit by
// digit; probabilities are summed as integers, so that no result depends on the order of threads. The draw is an
// exponential race: the token with the smallest E_i / p_i, E_i ~ Exp(1), wins with probability p_i.
#pragma once
#include "isa.h"
#include "imp/layout/tile.h"

namespace imp {

struct SampleConfig {
  int vocab;
  int parts;  // CTAs of the LM head: each left its best logit
  int threads;
  int ring;
  bool advance;  // the step consumed a token: its position counts from now on
};

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
  std::uint64_t reserved;
};
static_assert(sizeof(Sampling) == 48, "the host writes 48 bytes a slot");
inline constexpr std::uint32_t kMasked = 1;  // flags
inline constexpr std::uint32_t kBiased = 2;

// A random 32-bit number that depends on its three arguments only (finaliser of SplitMix64, applied twice).
__device__ __forceinline__ std::uint64_t mix64(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
__device__ __forceinline__ std::uint32_t random_bits(std::uint64_t seed, std::uint32_t position, std::uint32_t token) {
  const std::uint64_t counter = static_cast<std::uint64_t>(position) << 32 | token;
  return static_cast<std::uint32_t>(mix64(mix64(seed + 0x9e3779b97f4a7c15ull) + counter * 0x9e3779b97f4a7c15ull) >> 32);
}

template <SampleConfig C>
struct Sample {
  static constexpr int kThreads = C.threads;
  static constexpr int kWarps = C.threads / kWarp;
  static constexpr int kBins = 256;
  static constexpr int kHistogram = 0;
  static constexpr int kFound = kHistogram + kBins * 8;
  static constexpr int kValues = kFound + 16;
  static constexpr int kIndices = kValues + round_up(kWarps * 4, 16);
  static constexpr int kSharedBytes = kIndices + round_up(kWarps * 4, 16);
  static constexpr std::uint32_t kPromptBit = 1u << 31;
  static constexpr float kKeyUnit = 0x1p27f;  // keys of one nat; 32 nats and more share the last key
  static constexpr float kMassUnit = 0x1p32f;
  static_assert(C.threads % kWarp == 0 && C.vocab < (1 << 24), "ids are exact as floats, warps are whole");

  struct Args {
    const float* logits;
    const float* best_value;
    const std::uint32_t* best;
    float* scores;  // [vocab] scratch
    const std::int32_t* input;
    const Sampling* sampling;
    const std::uint32_t* mask;  // [slots, ceil(vocab / 32)]: bits of the tokens that may be chosen, if kMasked
    const float* bias;          // [slots, vocab]: added to the logits, if kBiased
    std::int32_t* tokens;
    std::int32_t* positions;
    std::uint32_t* seen;
    std::uint32_t* count;
    std::uint64_t* ring;
  };

  static __device__ __forceinline__ void run(const Args& a) {
    std::uint8_t* shared = shared_memory();
    grid_wait();
    const int slot = a.input[0];
    const Sampling& s = a.sampling[slot];
    std::uint32_t* seen = a.seen + static_cast<std::size_t>(slot) * C.vocab;
    const int position = a.positions[slot] + (C.advance ? 1 : 0);
    const bool penalised = s.repetition_penalty != 1.0f || s.frequency_penalty != 0.0f || s.presence_penalty != 0.0f;
    std::uint32_t token = 0;
    if (s.temperature <= 0.0f && !penalised && s.flags == 0) {
      token = greedy(a, shared);
    } else {
      token = draw(a, s, slot, seen, position, penalised, shared);
    }
    block_sync();
    if (thread_index() != 0) return;
    a.tokens[slot] = static_cast<std::int32_t>(token);
    a.positions[slot] = position;
    seen[token]++;
    const std::uint32_t index = *a.count;
    *a.count = index + 1;
    store_system(a.ring + index % C.ring, static_cast<std::uint64_t>(index + 1) << 32 | token);
  }

 private:
  struct Best {
    float value;
    std::uint32_t index;
    __device__ __forceinline__ void offer(float v, std::uint32_t i) {
      if (v > value || (v == value && i < index)) {
        value = v;
        index = i;
      }
    }
  };

  // The largest value of the CTA and the smallest index that has it.
  static __device__ __forceinline__ Best block_best(Best mine, std::uint8_t* shared) {
    auto* values = reinterpret_cast<float*>(shared + kValues);
    auto* indices = reinterpret_cast<std::uint32_t*>(shared + kIndices);
    const float best = warp_max(mine.value);
    const float first = -warp_max(mine.value == best ? -static_cast<float>(mine.index) : -INFINITY);
    block_sync();
    if (lane_index() == 0) {
      values[warp_index()] = best;
      indices[warp_index()] = static_cast<std::uint32_t>(first);
    }
    block_sync();
    Best result{values[0], indices[0]};
    for (int w = 1; w < kWarps; w++) result.offer(values[w], indices[w]);
    return result;
  }

  static __device__ __forceinline__ std::uint32_t greedy(const Args& a, std::uint8_t* shared) {
    Best best{-INFINITY, 0};
    for (int i = thread_index(); i < C.parts; i += C.threads) best.offer(a.best_value[i], a.best[i]);
    return block_best(best, shared).index;
  }

  static __device__ __forceinline__ std::uint32_t draw(const Args& a, const Sampling& s, int slot,
                                                       const std::uint32_t* seen, int position, bool penalised,
                                                       std::uint8_t* shared) {
    const std::uint32_t* mask = a.mask + static_cast<std::size_t>(slot) * ceil_div(C.vocab, 32);
    const float* bias = a.bias + static_cast<std::size_t>(slot) * C.vocab;
    const bool masked = (s.flags & kMasked) != 0;
    const bool biased = (s.flags & kBiased) != 0;
    Best best{-INFINITY, 0};
    for (int i = thread_index(); i < C.vocab; i += C.threads) {
      float score = a.logits[i];
      if (biased) score += bias[i];
      if (penalised) score = penalise(score, seen[i], s);
      if (masked && (mask[i / 32] >> (i % 32) & 1u) == 0) score = -INFINITY;
      a.scores[i] = score;
      best.offer(score, static_cast<std::uint32_t>(i));
    }
    best = block_best(best, shared);
    if (s.temperature <= 0.0f) return best.index;
    const float peak = best.value;

    std::uint32_t limit = ~0u;  // keys above it are out
    if (s.top_k > 0 && s.top_k < C.vocab) {
      limit = select<false>(a.scores, peak, limit, static_cast<std::uint64_t>(s.top_k), shared);
    }
    if (s.top_p < 1.0f) {
      const std::uint64_t total = mass(a.scores, peak, limit, shared);
      const auto target = static_cast<std::uint64_t>(static_cast<double>(s.top_p) * static_cast<double>(total));
      limit = select<true>(a.scores, peak, limit, target > 0 ? target : 1, shared);
    }
    if (s.min_p > 0.0f) {
      const std::uint32_t furthest = key(peak + logf(s.min_p), peak);
      limit = furthest < limit ? furthest : limit;
    }
    // The temperature comes last: the filters see the model's own probabilities.
    const float inverse = 1.0f / s.temperature;
    Best winner{-INFINITY, best.index};
    for (int i = thread_index(); i < C.vocab; i += C.threads) {
      const float score = a.scores[i];
      if (score == -INFINITY || key(score, peak) > limit) continue;
      const auto token = static_cast<std::uint32_t>(i);
      const std::uint32_t bits = random_bits(s.seed, static_cast<std::uint32_t>(position), token);
      const float uniform = (static_cast<float>(bits) + 0.5f) * 0x1p-32f;
      winner.offer((score - peak) * inverse - logf(-log1pf(-uniform)), token);
    }
    return block_best(winner, shared).index;
  }

  // Repetition: of prompt and output (Keskar et al. 2019). Frequency and presence: of the output (OpenAI).
  static __device__ __forceinline__ float penalise(float score, std::uint32_t seen, const Sampling& s) {
    const auto times = static_cast<float>(seen & ~kPromptBit);
    if (seen != 0) score = score > 0.0f ? score / s.repetition_penalty : score * s.repetition_penalty;
    if (times > 0.0f) score -= times * s.frequency_penalty + s.presence_penalty;
    return score;
  }

  static __device__ __forceinline__ std::uint32_t key(float score, float peak) {
    const float distance = (peak - score) * kKeyUnit;
    return distance < 4294967040.0f ? static_cast<std::uint32_t>(distance) : ~0u;
  }
  static __device__ __forceinline__ std::uint64_t weight(float score, float peak) {
    return static_cast<std::uint64_t>(exp_fast(score - peak) * kMassUnit);
  }

  static __device__ __forceinline__ std::uint64_t mass(const float* scores, float peak, std::uint32_t limit,
                                                       std::uint8_t* shared) {
    auto* found = reinterpret_cast<std::uint64_t*>(shared + kFound);
    block_sync();
    if (thread_index() == 0) *found = 0;
    block_sync();
    std::uint64_t sum = 0;
    for (int i = thread_index(); i < C.vocab; i += C.threads) {
      if (key(scores[i], peak) <= limit) sum += weight(scores[i], peak);
    }
    atomic_add(found, sum);
    block_sync();
    return *found;
  }

  // The smallest key such that candidates up to it (of those within `limit`) number, or weigh, at least `target`.
  template <bool ByMass>
  static __device__ __forceinline__ std::uint32_t select(const float* scores, float peak, std::uint32_t limit,
                                                         std::uint64_t target, std::uint8_t* shared) {
    auto* histogram = reinterpret_cast<std::uint64_t*>(shared + kHistogram);
    auto* found = reinterpret_cast<std::uint64_t*>(shared + kFound);
    std::uint32_t prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
      block_sync();
      for (int i = thread_index(); i < kBins; i += C.threads) histogram[i] = 0;
      block_sync();
      const std::uint32_t mask = shift == 24 ? 0u : ~0u << (shift + 8);
      for (int i = thread_index(); i < C.vocab; i += C.threads) {
        const std::uint32_t k = key(scores[i], peak);
        if (k > limit || (k & mask) != prefix) continue;
        atomic_add(histogram + (k >> shift & 255u), ByMass ? weight(scores[i], peak) : std::uint64_t{1});
      }
      block_sync();
      if (thread_index() == 0) {
        int digit = 0;
        while (digit < kBins - 1 && histogram[digit] < target) target -= histogram[digit++];
        found[0] = static_cast<std::uint64_t>(digit);
        found[1] = target;
      }
      block_sync();
      prefix |= static_cast<std::uint32_t>(found[0]) << shift;
      target = found[1];
    }
    return prefix;
  }
};

}  // namespace imp
