// What becomes of a warp's sums of 16 rows of a matrix for a few rows of activations: those of all stretches of the columns are
// added up, multiplied, and stored. They lie as the tensor cores leave them: of eight rows of y a lane has the rows
// 2 g and 2 g + 1 of 16 (g = lane / 4) for two of the eight.
#pragma once
#include "imp/layout/tile.h"
#include "imp/stage/elementwise.h"
#include "imp/stage/epilogue.h"
#include "imp/stage/rows.h"

namespace imp {

// What is multiplied, by whatever kernel: y[rows, stride] = x W^T, of a row of each of so many sequences.
struct BatchProduct {
  int cols;        // K
  int rows;        // of x and y at most, a multiple of 8
  int stretches;   // of columns
  int stride;      // floats from one row of y to the next
  int offset;      // y's first column
  bool accumulate;  // y += (the residual stream) instead of y =
  unsigned biased;  // bits of the matrices that have a bias
  float scale = 1.0f;  // of the sums, their bias included
  float cap = 0.0f;    // soft cap; 0: none
};

template <BatchProduct P, class... Ms>
struct BatchSums {
  static constexpr int kMatrices = sizeof...(Ms);
  static constexpr int kEights = P.rows / 8;
  static constexpr int kRows = 16;
  using Sums = float[kEights][4];
  static_assert(((Ms::kCols == P.cols) && ...), "the matrices read the same activations");
  static_assert(P.rows % 8 == 0, "a tensor core's right operand has eight rows");
  static_assert(P.offset >= 0 && P.offset + (Ms::kRows + ...) <= P.stride, "y's columns must lie within a row's stride");

  struct Args {
    const std::uint8_t* activations;  // f16, in the order in which the kernel takes them
    const float* factors;             // [rows]: what a row's sums are to be multiplied with
    const std::uint8_t* plane[kMatrices];
    Biases<P.biased> bias;
    float* y;
    const StepHeader* step;
    float4* partial;         // [places, stretches, rows / 8, lanes], of 16 rows each; unused with one stretch, as is
    std::uint32_t* arrived;  // [places], zero between launches
  };

  // Rows of one of the matrices.
  struct Part {
    const std::uint8_t* plane;
    int row;
    int rows;    // of the matrix
    int column;  // of its first row in y, from P.offset on
    int matrix;
  };
  // What begins `row` rows behind the start of number `Matrix`, in this one or in those behind it, `Count` in all, each padded to
  // multiples of `Pad` rows. Behind them the row is none of the last one's.
  template <int Pad, int Matrix, int Count, class M, class... Rest>
  static __device__ __forceinline__ Part found(const std::uint8_t* const* planes, int row, int column) {
    if constexpr (Count > 1) {
      constexpr int kPadded = round_up(M::kRows, Pad);
      if (row >= kPadded) return found<Pad, Matrix + 1, Count - 1, Rest...>(planes, row - kPadded, column + M::kRows);
    }
    return {planes[Matrix], row, M::kRows, column, Matrix};
  }

  // `Count` sums added up in order, of which `Fold` neighbours at a time are by themselves before; of(i) gives one.
  template <int Count, int Fold, class Of>
  static __device__ __forceinline__ void add_up(float (&sums)[4], const Of& of) {
    static_assert(Count % Fold == 0, "all that are added up by themselves are as many");
#pragma unroll
    for (int begin = 0; begin < Count; begin += Fold) {
      float4 sum = of(begin);
#pragma unroll
      for (int i = 1; i < Fold; i++) sum = plus(sum, of(begin + i));
      if (begin > 0) sum = plus(make_float4(sums[0], sums[1], sums[2], sums[3]), sum);
      sums[0] = sum.x, sums[1] = sum.y, sums[2] = sum.z, sums[3] = sum.w;
    }
  }

  // Whether the warp's rows, which have this place in memory, have sums of all stretches, which `sums` then are, added up.
  template <int Fold>
  static __device__ __forceinline__ bool gathered(const Args& a, int place, int stretch, int rows, Sums& sums) {
    constexpr int kStretch = kEights * kWarp;  // of float4
    float4* const first = a.partial + static_cast<std::size_t>(place) * (P.stretches * kStretch) + lane_index();
#pragma unroll
    for (int eight = 0; eight < kEights; eight++) {
      if (eight * 8 >= rows) break;
      const float(&s)[4] = sums[eight];
      first[stretch * kStretch + eight * kWarp] = make_float4(s[0], s[1], s[2], s[3]);
    }
    fence_gpu();
    warp_sync();
    std::uint32_t before = 0;
    if (lane_index() == 0) {
      before = atomic_add(a.arrived + place, 1u);
      fence_gpu();
    }
    before = shuffle(before, 0);
    warp_sync();
    if (before != P.stretches - 1) return false;
    if (lane_index() == 0) a.arrived[place] = 0;
    // As many are on their way together as registers allow: each round trip to memory is waited for by all.
    constexpr int kBatch = P.stretches < 12 ? 12 / P.stretches : 1;
#pragma unroll
    for (int begin = 0; begin < kEights; begin += kBatch) {
      float4 parts[kBatch][P.stretches];
#pragma unroll
      for (int i = 0; i < kBatch * P.stretches; i++) {
        const int eight = begin + i / P.stretches;
        float4& part = parts[i / P.stretches][i % P.stretches];
        part = make_float4(0, 0, 0, 0);
        if (eight < kEights && eight * 8 < rows) part = first[i % P.stretches * kStretch + eight * kWarp];
      }
#pragma unroll
      for (int b = 0; b < kBatch; b++) {
        if (begin + b < kEights) add_up<P.stretches, Fold>(sums[begin + b], [&](int i) { return parts[b][i]; });
      }
    }
    return true;
  }

  // What the lane's part of all rows is stored with, read before there are sums, and together: for all that the compiler knows, a
  // write changes what is read after it, and one round trip to memory a row is what all would wait for. Rows from `rows` on are not
  // written. `part.row` is the lane's first one.
  struct Ends {
    float factor[kEights * 2];
    float2 old[kEights * 2];
    float bias[2];

    __device__ __forceinline__ Ends(const Args& a, const Part& part, int rows) {
      const bool inside = part.row < part.rows;
      const bool both = part.row + 1 < part.rows;
      bias[0] = inside ? a.bias.add(part.matrix, part.row, 0.0f) : 0.0f;
      bias[1] = both ? a.bias.add(part.matrix, part.row + 1, 0.0f) : 0.0f;
#pragma unroll
      for (int i = 0; i < kEights * 2; i++) {
        const int row = row_of(i);
        factor[i] = row < rows ? a.factors[row] : 0;
        old[i] = P.accumulate && inside && row < rows ? read(line(a, part, row), both) : make_float2(0, 0);
      }
    }
    __device__ __forceinline__ void store(const Args& a, const Part& part, int rows, const Sums& sums) const {
      if (part.row >= part.rows) return;
#pragma unroll
      for (int i = 0; i < kEights * 2; i++) {
        const int row = row_of(i);
        if (row >= rows) continue;
        const float(&s)[4] = sums[i / 2];
        const float2 value = make_float2(leave(fma(s[i % 2], factor[i], bias[0]), old[i].x),
                                         leave(fma(s[2 + i % 2], factor[i], bias[1]), old[i].y));
        float* const to = line(a, part, row);
        if constexpr (kPairs) {
          *reinterpret_cast<float2*>(to) = value;
        } else {
          to[0] = value.x;
          if (part.row + 1 < part.rows) to[1] = value.y;
        }
      }
    }

   private:
    static __device__ __forceinline__ int row_of(int i) { return i / 2 * 8 + lane_index() % 4 * 2 + i % 2; }
    static __device__ __forceinline__ float* line(const Args& a, const Part& part, int row) {
      return a.y + P.offset + part.column + part.row + static_cast<std::size_t>(row) * P.stride;
    }
  };

 private:
  static constexpr bool kPairs = ((Ms::kRows % 2 == 0) && ...) && P.stride % 2 == 0 && P.offset % 2 == 0;

  static __device__ __forceinline__ float4 plus(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
  }
  // Two neighbours, or one.
  static __device__ __forceinline__ float2 read(const float* line, bool both) {
    if constexpr (kPairs) return *reinterpret_cast<const float2*>(line);
    return make_float2(line[0], both ? line[1] : 0);
  }
  static __device__ __forceinline__ float leave(float value, float old) {
    return leave_product<P.accumulate, P.scale, P.cap>(value, old);
  }
};

}  // namespace imp
