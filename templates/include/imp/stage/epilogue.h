// What becomes of a product's rows. biased(matrix, row in it, value) and then store(row in y, value) are called once for
// every row by some lane, in the order of the warp's units; the same lane has called read(unit, row) for its first kReads
// units. The whole CTA calls finish().
#pragma once
#include "imp/stage/elementwise.h"
#include "imp/stage/best.h"
#include "imp/stage/exchange.h"
#include "imp/stage/units.h"

namespace imp {

constexpr int popcount(unsigned bits) { return bits == 0 ? 0 : 1 + popcount(bits & (bits - 1)); }

// The value of a matrix's row, and its bias; `of`: those of the matrices whose bit in Mask is set, in their order. They are
// chosen, not indexed, which would make them memory.
template <unsigned Mask>
__device__ __forceinline__ float add_bias(const float* const* of, int matrix, int row, float value) {
  if ((Mask >> matrix & 1u) == 0) return value;
  const int place = bits_in(Mask & ((1u << matrix) - 1));
  const float* bias = of[0];
#pragma unroll
  for (int i = 1; i < popcount(Mask); i++) bias = place == i ? of[i] : bias;
  return value + bias[row];
}
// Them as an argument.
template <unsigned Mask>
struct Biases {
  const float* of[Mask == 0 ? 1 : popcount(Mask)];
  __device__ __forceinline__ float add(int matrix, int row, float value) const {
    return add_bias<Mask>(of, matrix, row, value);
  }
};

// y = value
template <unsigned Biased>
struct StoreRows {
  struct Args {
    float* y;
    Biases<Biased> bias;
  };
  static constexpr int kSharedBytes = 0;
  static constexpr int kReads = 0;
  Args out;
  __device__ __forceinline__ StoreRows(const Args& args, std::uint8_t*) : out(args) {}
  __device__ __forceinline__ float biased(int matrix, int row, float value) { return out.bias.add(matrix, row, value); }
  __device__ __forceinline__ void store(int row, float value) { out.y[row] = untagged(value); }
  __device__ __forceinline__ void finish() {}
};

// y = F(value) * up
template <unsigned Biased, class F>
struct StoreGated {
  struct Args {
    float* y;
    const float* up;
    Biases<Biased> bias;
  };
  static constexpr int kSharedBytes = 0;
  static constexpr int kReads = 0;
  Args out;
  __device__ __forceinline__ StoreGated(const Args& args, std::uint8_t*) : out(args) {}
  __device__ __forceinline__ float biased(int matrix, int row, float value) { return out.bias.add(matrix, row, value); }
  __device__ __forceinline__ void store(int row, float value) { out.y[row] = untagged(gated<F>(value, out.up[row])); }
  __device__ __forceinline__ void finish() {}
};

// y = value * sigmoid(*gate)
struct StoreWeighed {
  struct Args {
    float* y;
    const float* gate;
  };
  static constexpr int kSharedBytes = 0;
  static constexpr int kReads = 0;
  Args out;
  float share;
  __device__ __forceinline__ StoreWeighed(const Args& args, std::uint8_t*)
      : out(args), share(divide_fast(1.0f, 1.0f + exp_fast(-*args.gate))) {}
  __device__ __forceinline__ float biased(int, int, float value) { return value; }
  __device__ __forceinline__ void store(int row, float value) { out.y[row] = untagged(value * share); }
  __device__ __forceinline__ void finish() {}
};

// y += Scale * value: the residual stream, each row owned by one lane
template <unsigned Biased, float Scale = 1.0f>
struct AddRows {
  struct Args {
    float* y;
    Biases<Biased> bias;
  };
  static constexpr int kSharedBytes = 0;
  static constexpr int kReads = 4;  // units whose old values are read ahead; a warp rarely has more
  Args out;
  float old[kReads];
  int units = 0;
  __device__ __forceinline__ AddRows(const Args& args, std::uint8_t*) : out(args) {}
  __device__ __forceinline__ void read(int unit, int row) { old[unit] = row >= 0 ? out.y[row] : 0; }
  __device__ __forceinline__ float biased(int matrix, int row, float value) { return out.bias.add(matrix, row, value); }
  __device__ __forceinline__ void store(int row, float value) {
    out.y[row] = untagged(add_scaled<Scale>(units < kReads ? pick(old, units) : out.y[row], value));
    units++;
  }
  __device__ __forceinline__ void finish() {}
};

// y = value, for CTAs of the same launch
template <unsigned Biased, bool Copied>
struct PublishRows {
  static constexpr int kReads = 0;
  Published<Copied> y;
  const float* const* bias;
  __device__ __forceinline__ float biased(int matrix, int row, float value) {
    return add_bias<Biased>(bias, matrix, row, value);
  }
  __device__ __forceinline__ void store(int row, float value) { y.put(row, value); }
};

// y += Scale * value likewise; each row belongs to one lane, which has seen its last value published.
template <unsigned Biased, float Scale, bool Copied>
struct PublishSum {
  static constexpr int kReads = 4;
  Published<Copied> y;
  const float* const* bias;
  float old[kReads] = {};
  int units = 0;
  __device__ __forceinline__ void read(int unit, int row) { old[unit] = row >= 0 ? at(row) : 0; }
  __device__ __forceinline__ float biased(int matrix, int row, float value) {
    return add_bias<Biased>(bias, matrix, row, value);
  }
  __device__ __forceinline__ void store(int row, float value) {
    y.put(row, add_scaled<Scale>(units < kReads ? pick(old, units) : at(row), value));
    units++;
  }
  __device__ __forceinline__ float at(int row) const { return TaggedInput::value(load_fresh(y.words + row)); }
};

// y = F(value) * up likewise; `up` lies in memory since before the launch.
template <unsigned Biased, class F, bool Copied>
struct PublishGated {
  static constexpr int kReads = 4;
  Published<Copied> y;
  const float* const* bias;
  const float* up;
  float ahead[kReads] = {};
  int units = 0;
  __device__ __forceinline__ void read(int unit, int row) { ahead[unit] = row >= 0 ? up[row] : 0; }
  __device__ __forceinline__ float biased(int matrix, int row, float value) {
    return add_bias<Biased>(bias, matrix, row, value);
  }
  __device__ __forceinline__ void store(int row, float value) {
    y.put(row, gated<F>(value, units < kReads ? pick(ahead, units) : up[row]));
    units++;
  }
};

struct LogitsConfig {
  int warps;
  unsigned biased = 0;  // bits of the matrices that have a bias
  float scale = 1.0f;   // of the sums, their bias included
  float cap = 0.0f;     // soft cap; 0: none
};

// logits = value; and this CTA's largest one with its index, ties to the smaller index
template <LogitsConfig C, class Cta = WholeCta>
struct StoreLogits {
  struct Args {
    float* logits;
    float* best_value;    // [grid], NaN where a logit is no finite number
    std::uint32_t* best;  // [grid]
    Biases<C.biased> bias;
  };
  static constexpr int kSharedBytes = best_bytes(C.warps);
  static constexpr int kReads = 0;
  Args out;
  std::uint8_t* shared;
  Best largest;
  __device__ __forceinline__ StoreLogits(const Args& args, std::uint8_t* bytes) : out(args), shared(bytes) {}
  __device__ __forceinline__ float biased(int matrix, int row, float value) { return out.bias.add(matrix, row, value); }
  __device__ __forceinline__ void store(int r, float v) {
    if constexpr (C.scale != 1.0f) v *= C.scale;
    if constexpr (C.cap > 0) v = soft_cap(v, C.cap);
    out.logits[r] = v;
    largest.offer_next(v, static_cast<std::uint32_t>(r));
  }
  __device__ __forceinline__ void finish() {
    const Best best = cta_best<C.warps, Cta>(largest, shared);
    if (thread_index() != 0) return;
    out.best_value[block_index()] = best.value;
    out.best[block_index()] = best.index;
  }
};

}  // namespace imp
