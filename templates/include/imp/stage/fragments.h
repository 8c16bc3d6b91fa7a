// The order in which activations lie for products of a few rows: as the right operands of a warp's tensor-core steps.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

// Eight rows' values of a group of 128 columns are 2 KB, for eight steps of a product in which lane t of four has values
// of block t of the group's four: of the i-th step 4 i, 4 i + 2, 4 i + 1 and 4 i + 3, which is where HalfPairs has the
// weights. A lane's values of two steps are 16 bytes, those of a warp lie side by side.
struct FragmentOrder {
  static constexpr int kGroup = 128;
  static constexpr int kBytes = 2048;  // of eight rows

  // Where eight rows' values of a group begin, of `rows` in all, a multiple of eight.
  static __device__ __forceinline__ std::size_t at(int rows, int group, int eight) {
    return (static_cast<std::size_t>(group) * static_cast<std::size_t>(rows / 8) + static_cast<std::size_t>(eight)) * kBytes;
  }
  // Four values from column k on, a multiple of four, of a row.
  static __device__ __forceinline__ void store(std::uint8_t* fragments, int rows, int row, int k, float4 v) {
    const int step = k % 32 / 4;
    const int lane = row % 8 * 4 + k % kGroup / 32;
    std::uint8_t* at16 = fragments + at(rows, k / kGroup, row / 8) + (step / 2 * kWarp + lane) * 16;
    *reinterpret_cast<uint2*>(at16 + step % 2 * 8) = make_uint2(floats_to_half2(v.x, v.z), floats_to_half2(v.y, v.w));
  }
  // One of them.
  static __device__ __forceinline__ void store(std::uint8_t* fragments, int rows, int row, int k, float v) {
    const int step = k % 32 / 4;
    const int lane = row % 8 * 4 + k % kGroup / 32;
    std::uint8_t* at16 = fragments + at(rows, k / kGroup, row / 8) + (step / 2 * kWarp + lane) * 16;
    *reinterpret_cast<std::uint16_t*>(at16 + step % 2 * 8 + k % 2 * 4 + k % 4 / 2 * 2) =
        static_cast<std::uint16_t>(floats_to_half2(v, v));
  }
  // The lane's right operands of the steps 2 i and 2 i + 1.
  static __device__ __forceinline__ uint4 load(const std::uint8_t* eight, int i) {
    return *reinterpret_cast<const uint4*>(eight + (i * kWarp + lane_index()) * 16);
  }
};

}  // namespace imp
