// F32: IEEE binary32.
#pragma once
#include "imp/layout/dense.h"

namespace imp {

template <TileShape T>
struct F32 : DenseTile<T, 4> {
  using Base = DenseTile<T, 4>;
  using typename Base::Input;
  using typename Base::Lane;
  static constexpr int kTerms = 3;  // bfloat16 terms that hold one weight exactly

  template <class Floats>
  static __device__ __forceinline__ Input input(const Floats& x, int vector) {
    return {{x.chunk(vector)}};
  }
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int, float before) {
    float sum = bits_to_float(w.x) * in.x[0].x;
    sum = fma(bits_to_float(w.y), in.x[0].y, sum);
    sum = fma(bits_to_float(w.z), in.x[0].z, sum);
    return before + fma(bits_to_float(w.w), in.x[0].w, sum);
  }
  static __device__ __forceinline__ void unpack(const Lane& w, float (&values)[4]) {
    values[0] = bits_to_float(w.x);
    values[1] = bits_to_float(w.y);
    values[2] = bits_to_float(w.z);
    values[3] = bits_to_float(w.w);
  }
  static __device__ __forceinline__ float value(const std::uint8_t* tile, int row, int col) {
    return *reinterpret_cast<const float*>(Base::at(tile, row, col));
  }
};

}  // namespace imp
