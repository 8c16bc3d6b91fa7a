// Matrices times one encoded vector. Each warp streams tiles of its rows through its own ring, beginning before the
// vector is there: the weights of this kernel are on their way while the kernel before ends.
#pragma once
#include "imp/stage/encode.h"
#include "imp/stage/ring.h"

namespace imp {

struct GemvConfig {
  int warps;
  int grid;
  int slots;  // tiles in flight, a warp
};

// A tile's rows times their stretch of the vector.
template <class M>
struct TileProduct {
  using L = typename M::Layout;
  static constexpr int kRows = L::kTile.rows;
  static constexpr int kUnits = ceil_div(M::kRows, kRows);
  static constexpr int kVectors = L::kTile.cols / L::kVector;     // of one row
  static constexpr int kLaneVectors = ceil_div(kVectors, kWarp);  // of one row and lane
  typename L::Lane lanes[kLaneVectors][kRows];

  __device__ __forceinline__ void load(const std::uint8_t* tile) {
#pragma unroll
    for (int v = 0; v < kLaneVectors; v++) {
      const int vector = v * kWarp + lane_index();
      if (vector >= kVectors) continue;
#pragma unroll
      for (int r = 0; r < kRows; r++) lanes[v][r] = L::template load<Landed>(tile, r, vector);
    }
  }
  template <class Activations>
  __device__ __forceinline__ void add(int k, const Activations& x, float (&sums)[kRows]) const {
#pragma unroll
    for (int v = 0; v < kLaneVectors; v++) {
      const int vector = v * kWarp + lane_index();
      if (vector >= kVectors) continue;
      const typename L::Input in = L::input(x, k * kVectors + vector);
#pragma unroll
      for (int r = 0; r < kRows; r++) sums[r] += L::dot(lanes[v][r], in, vector);
    }
  }
};

// The tiles of one warp in the order in which it needs them: units unit, unit + stride, ... of the matrices laid end to
// end, and each unit's tiles along K.
template <class... Ms>
struct TileSource {
  static constexpr int kUnits = (TileProduct<Ms>::kUnits + ...);
  const std::uint8_t* planes[sizeof...(Ms)];
  int unit;
  int stride;
  int k = 0;

  __device__ __forceinline__ bool more() const { return unit < kUnits; }
  template <class Ring>
  __device__ __forceinline__ void fill(Ring& ring) {
    const std::uint8_t* tile = nullptr;
    int bytes = 0;
    int tiles = 0;  // of the unit
    int first = 0;
    int matrix = 0;
    (locate<Ms>(first, matrix, tile, bytes, tiles), ...);
    ring.fill(tile, bytes);
    if (++k == tiles) {
      k = 0;
      unit += stride;
    }
  }

 private:
  template <class M>
  __device__ __forceinline__ void locate(int& first, int& matrix, const std::uint8_t*& tile, int& bytes,
                                         int& tiles) const {
    using L = typename M::Layout;
    const int local = unit - first;
    if (local >= 0 && local < TileProduct<M>::kUnits) {
      tile = planes[matrix] + (static_cast<std::size_t>(local) * M::kTiles + k) * L::kTileBytes;
      bytes = L::kTileBytes;
      tiles = M::kTiles;
    }
    first += TileProduct<M>::kUnits;
    matrix++;
  }
};

// Takes the next tile from the ring, adds its part, and keeps the ring full.
template <class M, class Ring, class Source>
__device__ __forceinline__ void next_tile(Ring& ring, Source& source, int k, const Q8Activations& q8,
                                          const FloatActivations& dense, float (&sums)[TileProduct<M>::kRows]) {
  TileProduct<M> product;
  product.load(ring.take());
  ring.release();
  if (source.more()) source.fill(ring);
  if constexpr (M::Layout::kInteger) {
    product.add(k, q8, sums);
  } else {
    product.add(k, dense, sums);
  }
}

// The value of row `index` out of an array that every lane holds whole, without indexing registers at run time.
template <int N>
__device__ __forceinline__ float pick(const float (&values)[N], int index) {
  float result = values[0];
#pragma unroll
  for (int i = 1; i < N; i++) result = index == i ? values[i] : result;
  return result;
}

// y = epilogue(scale * W x) for one or several matrices that share x; their rows follow one another in y.
// run(): x, norm weight (or null), the epilogue's arguments, the planes in order.
template <GemvConfig C, EncodeConfig E, class Epilogue, class... Ms>
struct Gemv {
  using Encode = Encoder<E>;
  static constexpr int slot_bytes() {
    int most = 0;
    ((most = Ms::Layout::kTileBytes > most ? Ms::Layout::kTileBytes : most), ...);
    return most;
  }
  using Ring = WarpRing<C.warps, C.slots, slot_bytes()>;
  using Source = TileSource<Ms...>;
  static constexpr int kThreads = C.warps * kWarp;
  static constexpr int kSharedBytes = Ring::kSharedBytes + Encode::kSharedBytes + Epilogue::kSharedBytes;
  static_assert(E.warps == C.warps, "the encoder works with the CTA's warps");
  static_assert(((Ms::kCols == E.cols) && ...), "every matrix multiplies the same vector");

  template <class... Planes>
  static __device__ __forceinline__ void run(const float* x, const float* norm, const typename Epilogue::Args& out,
                                             Planes... planes) {
    static_assert(sizeof...(Planes) == sizeof...(Ms), "one plane for each matrix");
    // At once: wherever this kernel's CTA has left its SM, one of the next takes its place and begins to read weights.
    grid_launch_next();
    std::uint8_t* shared = shared_memory();
    std::uint8_t* encoded = shared + Ring::kSharedBytes;
    constexpr int stride = C.warps * C.grid;
    // Warps of one CTA take distant units, so that a remainder spreads over the SMs.
    const int begin = block_index() + warp_index() * C.grid;
    Ring ring(shared);
    Source source{{planes...}, begin, stride};
    for (int s = 0; s < C.slots && source.more(); s++) source.fill(ring);
    const typename Encode::Weights weights = Encode::weights(norm);
    grid_wait();
    Epilogue epilogue(out, encoded + Encode::kSharedBytes);
    if constexpr (Epilogue::kReads) {
      static_assert(sizeof...(Ms) == 1, "what an epilogue reads ahead belongs to one matrix");
      (read_ahead<Ms>(begin, epilogue), ...);
    }
    const float scale = Encode::run(x, weights, encoded);
    const Q8Activations q8 = Encode::q8(encoded);
    const FloatActivations dense = Encode::dense(encoded);
    for (int unit = begin; unit < Source::kUnits; unit += stride) {
      int first_unit = 0;
      int first_row = 0;
      int matrix = 0;
      (visit<Ms>(unit, first_unit, first_row, matrix, ring, source, scale, q8, dense, epilogue), ...);
    }
    epilogue.finish();
  }

 private:
  // What the epilogue adds to this warp's first rows, on its way long before it is needed.
  template <class M>
  static __device__ __forceinline__ void read_ahead(int begin, Epilogue& epilogue) {
#pragma unroll
    for (int i = 0; i < Epilogue::kReads; i++) {
      const int row = (begin + i * C.warps * C.grid) * TileProduct<M>::kRows + lane_index();
      if (lane_index() < TileProduct<M>::kRows && row < M::kRows) epilogue.read(i, row);
    }
  }

  template <class M>
  static __device__ __forceinline__ void visit(int unit, int& first_unit, int& first_row, int& matrix, Ring& ring,
                                               Source& source, float scale, const Q8Activations& q8,
                                               const FloatActivations& dense, Epilogue& epilogue) {
    using Product = TileProduct<M>;
    const int local = unit - first_unit;
    if (local >= 0 && local < Product::kUnits) {
      float sums[Product::kRows] = {};
      for (int k = 0; k < M::kTiles; k++) next_tile<M>(ring, source, k, q8, dense, sums);
      warp_sum(sums);
      const int row = local * Product::kRows + lane_index();
      if (lane_index() < Product::kRows && row < M::kRows) {
        epilogue.store(matrix, row, first_row + row, scale * pick(sums, lane_index()));
      }
    }
    first_unit += Product::kUnits;
    first_row += M::kRows;
    matrix++;
  }
};

// The tiles of one warp for two matrices side by side: `rows` rows of the first, then the same rows of the second.
template <class A, class B>
struct PairSource {
  static constexpr int kRows =
      A::Layout::kTile.rows > B::Layout::kTile.rows ? A::Layout::kTile.rows : B::Layout::kTile.rows;
  static constexpr int kSteps = ceil_div(A::kRows, kRows);
  static constexpr int kUnitsA = kRows / A::Layout::kTile.rows;
  static constexpr int kUnitsB = kRows / B::Layout::kTile.rows;
  static constexpr int kTilesA = kUnitsA * A::kTiles;
  static constexpr int kTilesB = kUnitsB * B::kTiles;
  const std::uint8_t* a;
  const std::uint8_t* b;
  int step;
  int stride;
  int tile = 0;  // of this step, A's first

  __device__ __forceinline__ bool more() const { return step < kSteps; }
  template <class Ring>
  __device__ __forceinline__ void fill(Ring& ring) {
    if (tile < kTilesA) {
      ring.fill(at<A>(a, step * kTilesA + tile), A::Layout::kTileBytes);
    } else {
      ring.fill(at<B>(b, step * kTilesB + tile - kTilesA), B::Layout::kTileBytes);
    }
    if (++tile == kTilesA + kTilesB) {
      tile = 0;
      step += stride;
    }
  }

 private:
  // In the last step a matrix may have fewer units than the other: it gives its last tile again, which nobody stores.
  template <class M>
  static __device__ __forceinline__ const std::uint8_t* at(const std::uint8_t* plane, int index) {
    constexpr int last = TileProduct<M>::kUnits * M::kTiles - 1;
    return plane + static_cast<std::size_t>(index < last ? index : last) * M::Layout::kTileBytes;
  }
};

// h = silu(gate x) * (up x): a warp takes the same rows of both matrices.
template <GemvConfig C, EncodeConfig E, class Gate, class Up>
struct GatedGemv {
  using Encode = Encoder<E>;
  using Source = PairSource<Gate, Up>;
  static constexpr int kSlotBytes =
      Gate::Layout::kTileBytes > Up::Layout::kTileBytes ? Gate::Layout::kTileBytes : Up::Layout::kTileBytes;
  using Ring = WarpRing<C.warps, C.slots, kSlotBytes>;
  static constexpr int kThreads = C.warps * kWarp;
  static constexpr int kSharedBytes = Ring::kSharedBytes + Encode::kSharedBytes;
  static constexpr int kRows = Source::kRows;
  static_assert(E.warps == C.warps, "the encoder works with the CTA's warps");
  static_assert(Gate::kRows == Up::kRows && Gate::kCols == Up::kCols, "gate and up have one shape");

  static __device__ __forceinline__ void run(const float* x, const float* norm, float* h, const std::uint8_t* gate,
                                             const std::uint8_t* up) {
    // At once: wherever this kernel's CTA has left its SM, one of the next takes its place and begins to read weights.
    grid_launch_next();
    std::uint8_t* shared = shared_memory();
    std::uint8_t* encoded = shared + Ring::kSharedBytes;
    constexpr int stride = C.warps * C.grid;
    const int begin = block_index() + warp_index() * C.grid;
    Ring ring(shared);
    Source source{gate, up, begin, stride};
    for (int s = 0; s < C.slots && source.more(); s++) source.fill(ring);
    const typename Encode::Weights weights = Encode::weights(norm);
    grid_wait();
    const float scale = Encode::run(x, weights, encoded);
    const Q8Activations q8 = Encode::q8(encoded);
    const FloatActivations dense = Encode::dense(encoded);
    for (int step = begin; step < Source::kSteps; step += stride) {
      float g[kRows];
      float u[kRows];
      rows<Gate>(ring, source, q8, dense, g);
      rows<Up>(ring, source, q8, dense, u);
      warp_sum(g);
      warp_sum(u);
      const int row = step * kRows + lane_index();
      const float gate_sum = scale * pick(g, lane_index() % kRows);
      const float up_sum = scale * pick(u, lane_index() % kRows);
      if (lane_index() < kRows && row < Gate::kRows) {
        h[row] = divide_fast(gate_sum, 1.0f + exp_fast(-gate_sum)) * up_sum;
      }
    }
  }

 private:
  template <class M>
  static __device__ __forceinline__ void rows(Ring& ring, Source& source, const Q8Activations& q8,
                                              const FloatActivations& dense, float (&sums)[kRows]) {
    constexpr int kUnitRows = M::Layout::kTile.rows;
#pragma unroll
    for (int i = 0; i < kRows / kUnitRows; i++) {
      float part[kUnitRows] = {};
      for (int k = 0; k < M::kTiles; k++) next_tile<M>(ring, source, k, q8, dense, part);
#pragma unroll
      for (int r = 0; r < kUnitRows; r++) sums[i * kUnitRows + r] = part[r];
    }
  }
};

// Epilogues. store(matrix, row in its matrix, row in y, value) is called once for every row by some lane, in the order of
// the warp's units; the same lane has called read(unit, row) for its first kReads units.

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
  static constexpr int kReads = 4;  // units whose old values are read ahead; a warp rarely has more
  Args out;
  float old[kReads];
  int units = 0;
  __device__ __forceinline__ AddRows(const Args& args, std::uint8_t*) : out(args) {}
  __device__ __forceinline__ void read(int unit, int row) { old[unit] = out.y[row]; }
  __device__ __forceinline__ void store(int matrix, int matrix_row, int row, float value) {
    if constexpr (Biases > 0) value += out.bias[matrix][matrix_row];
    out.y[row] = (units < kReads ? pick(old, units) : out.y[row]) + value;
    units++;
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
  static constexpr int kReads = 0;
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
