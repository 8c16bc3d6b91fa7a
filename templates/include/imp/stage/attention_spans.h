// Which queries and which positions are attended to together.
#pragma once
#include "isa.h"

namespace imp {

// Query heads of one kv head that one CTA takes: a share of them, `most` at most.
constexpr int attention_group(int queries, int most) {
  int shares = 1;
  while (queries % shares != 0 || queries / shares > most) shares++;
  return queries / shares;
}

// The first position that a query at `position` sees; a window of 0 is none.
__device__ __forceinline__ int attention_begin(int position, int window) {
  return window > 0 && position >= window ? position - window + 1 : 0;
}

// Positions in spans, each of which is attended to by itself before all are added up in order. Their borders depend on
// nothing else, so that sums do not, either. They grow with the position, two of a size, so that the longest of a sequence
// is a quarter of it or a little more: numbers with one bit after the point.
struct AttentionSpans {
  static constexpr int kFirst = 512;

  static __device__ __forceinline__ int of(int position) {
    int n = 0;
    int scaled = position / kFirst;
    while (scaled >= 4) {
      scaled /= 2;
      n += 2;
    }
    return n + scaled;
  }
  static __device__ __forceinline__ int begin(int span) {
    return span < 2 ? span * kFirst : (2 + span % 2) * kFirst << (span / 2 - 1);
  }
};

}  // namespace imp
