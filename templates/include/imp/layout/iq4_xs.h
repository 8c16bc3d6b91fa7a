// IQ4_XS: superblocks of 256 = 8 blocks of 32 four-bit codes of a table, a signed scale each. w = (d * s) * values[q].
#pragma once
#include "imp/layout/table16.h"

namespace imp {

template <TileShape T>
struct ByteScales {
  static constexpr int kD = round_up(T.rows * T.cols / 32, 16);
  static constexpr int kBytes = kD + round_up(T.rows * (T.cols / 256) * 2, 16);
  static_assert(T.cols % 256 == 0, "IQ4_XS has superblocks of 256 weights");
  struct Loaded {
    std::int8_t scale;
    std::uint16_t d;
  };
  static __device__ __forceinline__ Loaded load(const std::uint8_t* bytes, int row, int block) {
    const auto* d = reinterpret_cast<const std::uint16_t*>(bytes + kD) + row * (T.cols / 256);
    return {static_cast<std::int8_t>(bytes[row * (T.cols / 32) + block]), d[group_of<8>(block)]};
  }
  // A number of a block's sum times the scale is below 2^24: exact as a float.
  static __device__ __forceinline__ float weigh(Loaded s, int number) {
    return half_to_float(s.d) * static_cast<float>(number * s.scale);
  }
};

template <TileShape T, int... Values>
using IQ4_XS = TableTile<T, Table16<Values...>, ByteScales<T>>;

}  // namespace imp
