// How a matrix lies in memory: units of a few rows, cut along K into tiles; in a tile, section after section.
#pragma once
#include "isa.h"

namespace imp {

constexpr int kWarp = 32;

struct TileShape {
  int rows;
  int cols;
};

constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }
constexpr int ceil_div(int value, int by) { return (value + by - 1) / by; }

// Where a tile is read from: global memory, once and past the caches, or for others to find it there, or in lines of which the
// rest is wanted next; or a copy in shared memory.
struct Stream {
  static __device__ __forceinline__ uint4 load16(const void* pointer) { return load_stream(pointer); }
  static __device__ __forceinline__ uint2 load8(const void* pointer) { return load_stream8(pointer); }
};
struct Cached {
  static __device__ __forceinline__ uint4 load16(const void* pointer) { return load_cached(pointer); }
  static __device__ __forceinline__ uint2 load8(const void* pointer) { return load_cached8(pointer); }
};
struct Ahead {
  static __device__ __forceinline__ uint4 load16(const void* pointer) { return load_ahead(pointer); }
  static __device__ __forceinline__ uint2 load8(const void* pointer) { return load_ahead8(pointer); }
};
struct Landed {
  static __device__ __forceinline__ uint4 load16(const void* pointer) { return *static_cast<const uint4*>(pointer); }
  static __device__ __forceinline__ uint2 load8(const void* pointer) { return *static_cast<const uint2*>(pointer); }
};

// A weight matrix [Rows, Cols] in layout `L`: finds the tile of a row. Rows past the end are zero padding.
template <class L, int Rows, int Cols>
struct Matrix {
  using Layout = L;
  static constexpr int kRows = Rows;
  static constexpr int kCols = Cols;
  static constexpr int kTiles = Cols / L::kTile.cols;
  static constexpr std::size_t kBytes = std::size_t{ceil_div(Rows, L::kTile.rows)} * kTiles * L::kTileBytes;
  static_assert(Cols % L::kTile.cols == 0, "a tile must divide the row");

  // The tile that holds `row` in the k-th stretch of columns; the row inside it is row % kTile.rows.
  static __device__ __forceinline__ const std::uint8_t* tile(const std::uint8_t* plane, int row, int k) {
    const std::size_t unit = static_cast<std::size_t>(row / L::kTile.rows);
    return plane + (unit * kTiles + k) * L::kTileBytes;
  }
  static __device__ __forceinline__ float value(const std::uint8_t* plane, int row, int col) {
    return L::value(tile(plane, row, col / L::kTile.cols), row % L::kTile.rows, col % L::kTile.cols);
  }
};

// 16-byte chunks of activations lie in shared memory with neighbouring chunks of every second group of eight swapped:
// lanes that read chunks 0, 2, 4, ... (32 codes each) then hit all banks, and lanes that read 0, 1, 2, ... still do.
__device__ __forceinline__ int swizzle_chunk(int chunk) { return chunk ^ ((chunk >> 3) & 1); }

// Which `Vectors` vectors, one after the other, a vector belongs to. With the lane's part and the constant one told apart a lane
// of FP8 keeps 7 registers fewer, but nvcc 13 then loses a division by `Vectors` here and there for sm_90a.
template <unsigned Vectors>
__device__ __forceinline__ int group_of(int vector) {
  return static_cast<int>(static_cast<unsigned>(vector) / Vectors);
}

// Activations as int8 with one scale per 32, and the sums of the codes per 16 (for formats with an offset).
struct Q8Activations {
  const std::uint8_t* codes;  // [K] swizzled in chunks of 16
  const uint2* scales;        // [K / 32]: scale as float bits; the two sums as int16 pairs
  __device__ __forceinline__ uint4 chunk(int index) const {
    return reinterpret_cast<const uint4*>(codes)[swizzle_chunk(index)];
  }
};

// Activations as halfs with one scale per 128, for layouts that say kReadsHalfs.
struct HalfActivations {
  const std::uint8_t* halfs;  // [K] swizzled in chunks of 8
  const float* scales;        // [K / 128]
  __device__ __forceinline__ uint4 chunk(int index) const {
    return reinterpret_cast<const uint4*>(halfs)[swizzle_chunk(index)];
  }
};

template <class L>
concept ReadsHalfs = requires { L::kReadsHalfs; };

// Activations as float, in chunks of 4: in shared memory, or where the kernel before has left them.
struct FloatActivations {
  const float* values;
  __device__ __forceinline__ float4 chunk(int index) const {
    return reinterpret_cast<const float4*>(values)[swizzle_chunk(index)];
  }
};
struct FloatsInPlace {
  const float* values;
  __device__ __forceinline__ float4 chunk(int index) const { return reinterpret_cast<const float4*>(values)[index]; }
};

__device__ __forceinline__ int low_sum(std::uint32_t sums) { return static_cast<std::int16_t>(sums & 0xffffu); }
__device__ __forceinline__ int high_sum(std::uint32_t sums) { return static_cast<std::int16_t>(sums >> 16); }

// 16 weights as halfs, in the order that a tensor core's fragments take them: pairs[2 i + p] are the weights 4 i + p and
// 4 i + p + 2, the former in the lower bits. So bytes become halfs without changing places.
struct HalfPairs {
  std::uint32_t pairs[8];
};
// Two bytes of a word, each as the half byte - zero; of signed bytes zero is 128, which flips their sign. A byte below that of
// 1,024 is the half 1,024 + byte.
template <std::uint32_t Zero, std::uint32_t Selector>
__device__ __forceinline__ std::uint32_t bytes_as_halfs(std::uint32_t word) {
  const std::uint32_t bytes = Zero == 128 ? word ^ 0x80808080u : word;
  return half2_subtract(byte_permute(bytes, 0x64646464u, Selector), 0x64006400u + (Zero << 16 | Zero));
}
// Those of bytes 0 and 2, or 1 and 3.
template <std::uint32_t Zero>
__device__ __forceinline__ std::uint32_t even_halfs(std::uint32_t word) {
  return bytes_as_halfs<Zero, 0x4240u>(word);
}
template <std::uint32_t Zero>
__device__ __forceinline__ std::uint32_t odd_halfs(std::uint32_t word) {
  return bytes_as_halfs<Zero, 0x4341u>(word);
}
__device__ __forceinline__ std::uint32_t twice(float value) { return floats_to_half2(value, value); }

// 32 codes as bytes, k ascending.
struct WordsOf32 {
  std::uint32_t q[8];

  // Half `half` of them: weigh(pair) makes weights of two halfs, code - zero each.
  template <std::uint32_t Zero, class Weigh>
  __device__ __forceinline__ HalfPairs halfs(int half, const Weigh& weigh) const {
    HalfPairs out;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const std::uint32_t word = half == 0 ? q[i] : q[4 + i];
      out.pairs[2 * i] = weigh(even_halfs<Zero>(word));
      out.pairs[2 * i + 1] = weigh(odd_halfs<Zero>(word));
    }
    return out;
  }
  // Without indexing registers at run time: by halves, since the compiler makes an array in memory of one choice after the other.
  __device__ __forceinline__ int code(int index) const {
    const bool half = (index & 16) != 0, quarter = (index & 8) != 0, eighth = (index & 4) != 0;
    const auto pick = [&](int i) { return half ? q[4 + i] : q[i]; };
    const std::uint32_t even = quarter ? pick(2) : pick(0), odd = quarter ? pick(3) : pick(1);
    return static_cast<int>((eighth ? odd : even) >> (index % 4 * 8) & 0xffu);
  }
};

}  // namespace imp
