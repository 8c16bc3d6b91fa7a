// MXFP4: blocks of 32 four-bit codes, twice an e2m1 each, with a power of two. w = 2^(e - 128) * values[q].
#pragma once
#include "imp/layout/table16.h"

namespace imp {

template <TileShape T>
struct PowerScales {
  static constexpr int kBytes = round_up(T.rows * T.cols / 32, 16);
  using Loaded = std::uint8_t;
  static __device__ __forceinline__ Loaded load(const std::uint8_t* bytes, int row, int block) {
    return bytes[row * (T.cols / 32) + block];
  }
  static __device__ __forceinline__ float weigh(Loaded e, int number) {
    const std::uint32_t exponent = e;
    const std::uint32_t bits = exponent < 2 ? 0x00200000u << exponent : (exponent - 1) << 23;  // two are subnormal
    return bits_to_float(bits) * static_cast<float>(number);
  }
};

template <TileShape T, int... Values>
using MXFP4 = TableTile<T, Table16<Values...>, PowerScales<T>>;

}  // namespace imp
