// What becomes of a product's rows. store(matrix, row in its matrix, row in y, value) is called once for every row by some
// lane, in the order of the warp's units; the same lane has called read(unit, row) for its first kReads units. The whole
// CTA calls finish().
#pragma once
#include "imp/stage/best.h"
#include "imp/stage/exchange.h"
#include "imp/stage/units.h"

namespace imp {

// y = value + bias. `Biases` is the number of bias vectors: 0, or one for each matrix.
template <int Biases>
struct StoreRows {
  struct Args {
    float* y;
    const float* bias[Biases > 0 ? Biases : 1] = {};
  };
  static constexpr int kSharedBytes = 0;
  static constexpr int kReads = 0;
  Args out;
  __device__ __forceinline__ StoreRows(const Args& args, std::uint8_t*) : out(args) {}
  __device__ __forceinline__ void store(int matrix, int matrix_row, int row, float value) {
    if constexpr (Biases > 0) value += out.bias[matrix][matrix_row];
    out.y[row] = untagged(value);
  }
  __device__ __forceinline__ void finish() {}
};

// y += value + bias: the residual stream, each row owned by one lane
template <int Biases>
struct AddRows {
  struct Args {
    float* y;
    const float* bias[Biases > 0 ? Biases : 1] = {};
  };
  static constexpr int kSharedBytes = 0;
  static constexpr int kReads = 4;  // units whose old values are read ahead; a warp rarely has more
  Args out;
  float old[kReads];
  int units = 0;
  __device__ __forceinline__ AddRows(const Args& args, std::uint8_t*) : out(args) {}
  __device__ __forceinline__ void read(int unit, int row) { old[unit] = row >= 0 ? out.y[row] : 0; }
  __device__ __forceinline__ void store(int matrix, int matrix_row, int row, float value) {
    if constexpr (Biases > 0) value += out.bias[matrix][matrix_row];
    out.y[row] = untagged((units < kReads ? pick(old, units) : out.y[row]) + value);
    units++;
  }
  __device__ __forceinline__ void finish() {}
};

// y = value, for CTAs of the same launch
struct PublishRows {
  static constexpr int kReads = 0;
  std::uint32_t* y;
  std::uint32_t tag;
  __device__ __forceinline__ void store(int, int, int row, float value) { publish(y + row, value, tag); }
};

// y += value likewise; each row belongs to one lane, which has seen its last value published.
struct PublishSum {
  static constexpr int kReads = 4;
  std::uint32_t* y;
  std::uint32_t tag;
  float old[kReads] = {};
  int units = 0;
  __device__ __forceinline__ void read(int unit, int row) { old[unit] = row >= 0 ? at(row) : 0; }
  __device__ __forceinline__ void store(int, int, int row, float value) {
    publish(y + row, (units < kReads ? pick(old, units) : at(row)) + value, tag);
    units++;
  }
  __device__ __forceinline__ float at(int row) const { return TaggedInput::value(load_fresh(y + row)); }
};

// logits = value; and this CTA's largest one with its index, ties to the smaller index
template <int Warps, class Cta = WholeCta>
struct StoreLogits {
  struct Args {
    float* logits;
    float* best_value;    // [grid], NaN where a logit is no finite number
    std::uint32_t* best;  // [grid]
  };
  static constexpr int kSharedBytes = best_bytes(Warps);
  static constexpr int kReads = 0;
  Args out;
  std::uint8_t* shared;
  Best largest;
  __device__ __forceinline__ StoreLogits(const Args& args, std::uint8_t* bytes) : out(args), shared(bytes) {}
  __device__ __forceinline__ void store(int, int, int r, float v) {
    out.logits[r] = v;
    largest.offer_next(v, static_cast<std::uint32_t>(r));
  }
  __device__ __forceinline__ void finish() {
    const Best best = cta_best<Warps, Cta>(largest, shared);
    if (thread_index() != 0) return;
    out.best_value[block_index()] = best.value;
    out.best[block_index()] = best.index;
  }
};

}  // namespace imp
