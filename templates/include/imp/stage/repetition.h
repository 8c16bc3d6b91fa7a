// DRY ("don't repeat yourself", by p-e-w): where the end of a sequence, n tokens of it, has come before and a token followed
// it there, that token loses multiplier * base ** (n - allowed length), the largest n counting, if n is at least the allowed
// length. The n tokens hold no sequence breaker, and a token that is a breaker by itself loses nothing.
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
struct Repetition {
  static constexpr int kSharedBytes = 16;

  const std::int32_t* history;   // [context]: the sequence
  const std::int32_t* breakers;  // each: its length, its tokens; after the last one 0
  std::uint32_t* longest;        // [vocab]: n, of which a CTA has its slice

  // Finds n for each token of the CTA's slice, 0 for most; the sequence has `length` tokens.
  __device__ __forceinline__ void find(const Sampling& s, int length, std::uint8_t* shared) const {
    const Slice<C> slice;
    auto* clear = reinterpret_cast<std::uint32_t*>(shared);
    for (int i = slice.first + thread_index(); i < slice.end; i += C.threads) longest[i] = 0;
    if (thread_index() == 0) *clear = 0;
    block_sync();
    const int begin = s.dry_last_n >= 0 && s.dry_last_n < length ? length - s.dry_last_n : 0;
    const int reach = min(s.dry_longest, length - begin - 1);
    find_breakers(begin, length, reach, clear);
    block_sync();
    const int most = reach - static_cast<int>(*clear);
    if (most < s.dry_allowed_length) return;
    for (int at = begin + thread_index(); at < length - 1; at += C.threads) {
      const std::int32_t token = history[at + 1];
      if (token < slice.first || token >= slice.end || history[at] != history[length - 1]) continue;
      // What is no longer than another for the same token does not count.
      const auto known = static_cast<int>(load_fresh(longest + token));
      if (known >= most || at - known < begin || history[at - known] != history[length - 1 - known]) continue;
      int n = 1;
      while (n < most && at - n >= begin && history[at - n] == history[length - 1 - n]) n++;
      if (n >= s.dry_allowed_length && !breaks(token)) atomic_max(longest + token, static_cast<std::uint32_t>(n));
    }
    block_sync();
  }

  // What `token` loses.
  __device__ __forceinline__ float loss(const Sampling& s, int token) const {
    const auto n = static_cast<int>(load_fresh(longest + token));
    if (n == 0) return 0;
    float loss = s.dry_multiplier, power = s.dry_base;
    for (int exponent = n - s.dry_allowed_length; exponent > 0; exponent /= 2) {
      if (exponent % 2 != 0) loss *= power;
      power *= power;
    }
    return loss;
  }

 private:
  // How many of the last `reach` tokens are no more than a breaker's last token away from the end: into `clear`, as
  // `reach` less what follows the last breaker.
  __device__ __forceinline__ void find_breakers(int begin, int length, int reach, std::uint32_t* clear) const {
    for (const std::int32_t* breaker = breakers; *breaker > 0; breaker += *breaker + 1) {
      for (int after = thread_index(); after < reach; after += C.threads) {
        const int start = length - after - *breaker;
        if (start < begin) break;
        int same = 0;
        while (same < *breaker && history[start + same] == breaker[1 + same]) same++;
        if (same == *breaker) atomic_max(clear, static_cast<std::uint32_t>(reach - after));
      }
    }
  }

  __device__ __forceinline__ bool breaks(std::int32_t token) const {
    for (const std::int32_t* breaker = breakers; *breaker > 0; breaker += *breaker + 1) {
      if (*breaker == 1 && breaker[1] == token) return true;
    }
    return false;
  }
};

}  // namespace imp
