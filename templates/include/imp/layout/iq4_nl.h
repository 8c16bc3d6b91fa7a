// IQ4_NL: blocks of 32 four-bit codes of a table with one f16 scale. w = d * values[q].
#pragma once
#include "imp/layout/table16.h"

namespace imp {

template <TileShape T>
struct HalfScales {
  static constexpr int kBytes = round_up(T.rows * T.cols / 16, 16);
  using Loaded = std::uint16_t;
  static __device__ __forceinline__ Loaded load(const std::uint8_t* bytes, int row, int block) {
    return reinterpret_cast<const std::uint16_t*>(bytes)[row * (T.cols / 32) + block];
  }
  static __device__ __forceinline__ float weigh(Loaded d, int number) {
    return half_to_float(d) * static_cast<float>(number);
  }
};

template <TileShape T, int... Values>
using IQ4_NL = TableTile<T, Table16<Values...>, HalfScales<T>>;

}  // namespace imp
