// A matrix times one encoded vector. A warp takes a few rows at a time; every lane streams 16 bytes of each.
#pragma once
#include "imp/stage/encode.h"

namespace imp {

struct GemvConfig {
  int warps;
  int grid;
};

// Rows of one matrix that a warp works on together, sized so that about eight 16-byte loads a lane are in flight.
template <class M>
struct RowStep {
  using L = typename M::Layout;
  static constexpr int kVectors = L::kTile.cols / L::kVector;      // of one row of a tile
  static constexpr int kLaneVectors = ceil_div(kVectors, kWarp);   // of one lane
  static constexpr int kInFlight = 8;
  static constexpr int rows_that_fit() {
    int rows = L::kTile.rows;
    while (rows > 1 && rows * kLaneVectors > kInFlight) rows /= 2;
    return rows;
  }
  static constexpr int kRows = rows_that_fit();
  static constexpr int kSteps = ceil_div(M::kRows, kRows);
  static_assert(L::kTile.rows % kRows == 0, "a step must not cross a unit");

  // sums[r] = this lane's part of row (step * kRows + r) times x; the caller adds the lanes.
  static __device__ __forceinline__ void dot(const std::uint8_t* plane, int step, const Q8Activations& q8,
                                             const FloatActivations& dense, float (&sums)[kRows]) {
#pragma unroll
    for (int r = 0; r < kRows; r++) sums[r] = 0;
    const int row = step * kRows;
    for (int k = 0; k < M::kTiles; k++) {
      if constexpr (L::kInteger) {
        tile_dot(M::tile(plane, row, k), row % L::kTile.rows, k, q8, sums);
      } else {
        tile_dot(M::tile(plane, row, k), row % L::kTile.rows, k, dense, sums);
      }
    }
  }

 private:
  template <class Activations>
  static __device__ __forceinline__ void tile_dot(const std::uint8_t* tile, int row, int k, const Activations& x,
                                                  float (&sums)[kRows]) {
    constexpr int kGroup = kLaneVectors * kRows <= kInFlight ? kLaneVectors : kInFlight;
    for (int base = 0; base < kLaneVectors; base += kGroup) {
      typename L::Lane lanes[kGroup][kRows];
#pragma unroll
      for (int v = 0; v < kGroup; v++) {
        const int vector = (base + v) * kWarp + lane_index();
        if (vector >= kVectors) continue;
#pragma unroll
        for (int r = 0; r < kRows; r++) lanes[v][r] = L::load(tile, row + r, vector);
      }
#pragma unroll
      for (int v = 0; v < kGroup; v++) {
        const int vector = (base + v) * kWarp + lane_index();
        if (vector >= kVectors) continue;
        const typename L::Input in = L::input(x, k * kVectors + vector);
#pragma unroll
        for (int r = 0; r < kRows; r++) sums[r] += L::dot(lanes[v][r], in, vector);
      }
    }
  }
};

// The value of row `index` out of an array that every lane holds whole, without indexing registers at run time.
template <int N>
__device__ __forceinline__ float pick(const float (&values)[N], int index) {
  float result = values[0];
#pragma unroll
  for (int i = 1; i < N; i++) result = index == i ? values[i] : result;
  return result;
}

// y = epilogue(scale * W x) for one or several matrices that share x; their rows follow one another in y.
// Args of run(): x, norm weight (or x), shared memory already encoded by `Encode`; planes in order.
template <GemvConfig C, EncodeConfig E, class Epilogue, class... Ms>
struct Gemv {
  using Encode = Encoder<E>;
  static constexpr int kThreads = C.warps * kWarp;
  static constexpr int kSharedBytes = Encode::kSharedBytes + Epilogue::kSharedBytes;
  static_assert(E.warps == C.warps, "the encoder works with the CTA's warps");
  static_assert(((Ms::kCols == E.cols) && ...), "every matrix multiplies the same vector");

  template <class... Planes>
  static __device__ __forceinline__ void run(const float* x, const float* norm, const typename Epilogue::Args& out,
                                             Planes... planes) {
    static_assert(sizeof...(Planes) == sizeof...(Ms), "one plane for each matrix");
    std::uint8_t* shared = shared_memory();
    const float scale = Encode::run(x, norm, shared);
    const Q8Activations q8 = Encode::q8(shared);
    const FloatActivations dense = Encode::dense(shared);
    Epilogue epilogue(out, shared + Encode::kSharedBytes);
    // Warps of one CTA take distant steps, so that a remainder spreads over the SMs.
    for (int step = block_index() + warp_index() * C.grid; step < kSteps; step += C.warps * C.grid) {
      int first_step = 0;
      int first_row = 0;
      int matrix = 0;
      (visit<Ms>(planes, step, first_step, first_row, matrix, scale, q8, dense, epilogue), ...);
    }
    epilogue.finish();
  }

 private:
  static constexpr int kSteps = (RowStep<Ms>::kSteps + ...);

  template <class M>
  static __device__ __forceinline__ void visit(const std::uint8_t* plane, int step, int& first_step, int& first_row,
                                               int& matrix, float scale, const Q8Activations& q8,
                                               const FloatActivations& dense, Epilogue& epilogue) {
    using Step = RowStep<M>;
    const int local = step - first_step;
    if (local >= 0 && local < Step::kSteps) {
      float sums[Step::kRows];
      Step::dot(plane, local, q8, dense, sums);
      warp_sum(sums);
      const int row = local * Step::kRows + lane_index();
      if (lane_index() < Step::kRows && row < M::kRows) {
        epilogue.store(matrix, row, first_row + row, scale * pick(sums, lane_index()));
      }
    }
    first_step += Step::kSteps;
    first_row += M::kRows;
    matrix++;
  }
};

// h = silu(gate x) * (up x): both matrices have the same rows, and a warp takes the same rows of both.
template <GemvConfig C, EncodeConfig E, class Gate, class Up>
struct GatedGemv {
  using Encode = Encoder<E>;
  static constexpr int kThreads = C.warps * kWarp;
  static constexpr int kSharedBytes = Encode::kSharedBytes;
  static_assert(E.warps == C.warps, "the encoder works with the CTA's warps");
  static_assert(Gate::kRows == Up::kRows && Gate::kCols == Up::kCols, "gate and up have one shape");

  static __device__ __forceinline__ void run(const float* x, const float* norm, float* h, const std::uint8_t* gate,
                                             const std::uint8_t* up) {
    std::uint8_t* shared = shared_memory();
    const float scale = Encode::run(x, norm, shared);
    const Q8Activations q8 = Encode::q8(shared);
    const FloatActivations dense = Encode::dense(shared);
    for (int step = block_index() + warp_index() * C.grid; step < kSteps; step += C.warps * C.grid) {
      float sums[2 * kRows];
      rows<Gate>(gate, step, q8, dense, sums);
      rows<Up>(up, step, q8, dense, sums + kRows);
      warp_sum(sums);
      const int row = step * kRows + lane_index();
      const float g = scale * pick(sums, lane_index() % kRows);
      const float u = scale * pick(sums, lane_index() % kRows + kRows);
      if (lane_index() < kRows && row < Gate::kRows) h[row] = divide_fast(g, 1.0f + exp_fast(-g)) * u;
    }
  }

 private:
  // Steps of the matrix that takes more rows at a time; the other takes several of its own.
  static constexpr int kRows =
      RowStep<Gate>::kRows > RowStep<Up>::kRows ? RowStep<Gate>::kRows : RowStep<Up>::kRows;
  static constexpr int kSteps = ceil_div(Gate::kRows, kRows);

  template <class M>
  static __device__ __forceinline__ void rows(const std::uint8_t* plane, int step, const Q8Activations& q8,
                                              const FloatActivations& dense, float* sums) {
    using Step = RowStep<M>;
#pragma unroll
    for (int i = 0; i < kRows / Step::kRows; i++) {
      float part[Step::kRows];
      const int local = step * (kRows / Step::kRows) + i;
      if (local < Step::kSteps) {
        Step::dot(plane, local, q8, dense, part);
      } else {
        for (float& p : part) p = 0;
      }
#pragma unroll
      for (int r = 0; r < Step::kRows; r++) sums[i * Step::kRows + r] = part[r];
    }
  }
};

// Epilogues. store(matrix, row in its matrix, row in y, value) is called once for every row by some lane.

// y = value + bias. `Biases` is the number of bias vectors: 0, or one for each matrix.
template <int Biases>
struct StoreRows {
  struct Args {
    float* y;
    const float* bias[Biases > 0 ? Biases : 1] = {};
  };
  static constexpr int kSharedBytes = 0;
  Args out;
  __device__ __forceinline__ StoreRows(const Args& args, std::uint8_t*) : out(args) {}
  __device__ __forceinline__ void store(int matrix, int matrix_row, int row, float value) {
    if constexpr (Biases > 0) value += out.bias[matrix][matrix_row];
    out.y[row] = value;
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
  Args out;
  __device__ __forceinline__ AddRows(const Args& args, std::uint8_t*) : out(args) {}
  __device__ __forceinline__ void store(int matrix, int matrix_row, int row, float value) {
    if constexpr (Biases > 0) value += out.bias[matrix][matrix_row];
    out.y[row] += value;
  }
  __device__ __forceinline__ void finish() {}
};

// logits = value; and this CTA's largest one with its index, ties to the smaller index
template <int Warps>
struct StoreLogits {
  struct Args {
    float* logits;
    float* best_value;    // [grid]
    std::uint32_t* best;  // [grid]
  };
  static constexpr int kSharedBytes = round_up(Warps * 8, 16);
  Args out;
  float* values;
  std::uint32_t* rows;
  float value = -INFINITY;
  std::uint32_t row = 0;
  __device__ __forceinline__ StoreLogits(const Args& args, std::uint8_t* shared)
      : out(args), values(reinterpret_cast<float*>(shared)), rows(reinterpret_cast<std::uint32_t*>(shared) + Warps) {}
  __device__ __forceinline__ void store(int, int, int r, float v) {
    out.logits[r] = v;
    if (v > value) {
      value = v;
      row = static_cast<std::uint32_t>(r);
    }
  }
  __device__ __forceinline__ void finish() {
    const float best = warp_max(value);
    const float candidate = value == best ? static_cast<float>(row) : INFINITY;
    const float first = -warp_max(-candidate);  // ids are below 2^24: exact as floats
    if (lane_index() == 0) {
      values[warp_index()] = best;
      rows[warp_index()] = static_cast<std::uint32_t>(first);
    }
    block_sync();
    if (thread_index() != 0) return;
    for (int w = 1; w < Warps; w++) {
      if (values[w] > values[0] || (values[w] == values[0] && rows[w] < rows[0])) {
        values[0] = values[w];
        rows[0] = rows[w];
      }
    }
    out.best_value[block_index()] = values[0];
    out.best[block_index()] = rows[0];
  }
};

}  // namespace imp
