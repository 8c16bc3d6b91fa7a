// What a program works on, as the host says it: rows, each a token of a sequence, and which rows belong together.
#pragma once
#include "isa.h"

namespace imp {

// Before the first row. `row`: the one that the head takes; `slot`: of the sequence whose token is chosen. Before the first of
// several sequences `rows` counts those after which a token is chosen.
struct StepHeader {
  std::int32_t rows;
  std::int32_t sequences;
  std::int32_t row;
  std::int32_t slot;
};

struct StepRow {
  std::int32_t slot;
  std::int32_t offset;  // from the sequence's position
  std::int32_t token;   // or kLastToken
  std::int32_t flags;

  // Its token, if the sequences' last ones are `last` [slots].
  __device__ __forceinline__ std::int32_t token_of(const std::int32_t* last) const {
    return token >= 0 ? token : last[slot];
  }
};
inline constexpr std::int32_t kLastToken = -1;  // what the sequence has sampled last

// Rows of one sequence: neighbours, at positions that follow one another.
struct StepSequence {
  std::int32_t first;
  std::int32_t rows;
  std::int32_t slot;
  std::int32_t end;  // its place among those after whose last row a token is chosen; that row then counts. -1: none is
};

// Whose token a CTA helps to choose, and the place of its logits.
struct StepEnd {
  std::int32_t slot;
  std::int32_t place;  // -1: nobody's
};
// The one that the step names, or of several sequences that of the CTA's y.
template <bool Several>
__device__ __forceinline__ StepEnd step_end(const StepHeader* step, const StepSequence* sequences) {
  if constexpr (!Several) {
    return {step->slot, 0};
  } else {
    const int y = block_index_y();
    if (y >= step->sequences) return {0, -1};
    return {sequences[y].slot, sequences[y].end};
  }
}

}  // namespace imp
