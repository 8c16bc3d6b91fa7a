// Products of e2m1 numbers with e4m3 scales, and the conversions to both. Code j of a word is its nibble j.
//
// Only sm_120a and its kin have these instructions. Elsewhere they are made of shuffles and halfs, which hold every e2m1 times
// an e4m3 exactly: slow, but it lets kernels that use them run on cards that are at hand.
#pragma once

#include "isa_math.h"
#include "isa_mma.h"
#include "isa_warp.h"

namespace imp {

#if __CUDA_ARCH__ == 1200

// D += (A[16][64] with a scale for each row and 16 columns) (B[64][8] likewise for each column). With g = lane / 4 and
// t = lane % 4, words 0 and 2 of A are columns 8t on and 32 + 8t on of row g, words 1 and 3 of row g + 8; those of B are rows
// 8t on and 32 + 8t on of column g. Byte i of scales is that of the i-th 16. Lanes with t = 0 have those of row g and of
// column g, those with t = 1 have row g + 8's; others' words mean nothing.
__device__ __forceinline__ void mma_nvfp4_k64(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                                              std::uint32_t scales_a, std::uint32_t scales_b) {
  asm volatile(
      "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32.ue4m3 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3}, {%10}, {%12, %12}, {%11}, {%12, %12};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(scales_a), "r"(scales_b), "n"(0));
}

// To nearest, ties to even; what is larger than 6 becomes 6. The code of `low` is in the lower four bits.
__device__ __forceinline__ std::uint32_t floats_to_e2m1x2(float low, float high) {
  std::uint32_t codes;
  asm("{\n\t.reg .b8 both;\n\tcvt.rn.satfinite.e2m1x2.f32 both, %2, %1;\n\tcvt.u32.u8 %0, both;\n\t}"
      : "=r"(codes)
      : "f"(low), "f"(high));
  return codes;
}

#else

namespace halfs {

// Codes `first` and `first` + 1 of a word, times a scale. A code's bits are those of a half, but for the sign and 2^-14.
__device__ __forceinline__ std::uint32_t weighed(std::uint32_t codes, int first, std::uint32_t scale) {
  const std::uint32_t pair = codes >> (4 * first);
  const std::uint32_t bits = (pair & 7u) << 9 | (pair & 8u) << 12 | (pair & 0x70u) << 21 | (pair & 0x80u) << 24;
  return half2_multiply(half2_multiply(bits, 0x74007400u), scale);
}
// Scale `which` of four, twice.
__device__ __forceinline__ std::uint32_t scale_of(std::uint32_t scales, int which) {
  const std::uint32_t code = scales >> (8 * which) & 0x7fu;
  return e4m3x2_to_half2(static_cast<std::uint16_t>(code << 8 | code));
}
__device__ __forceinline__ std::uint32_t e2m1(float x) {
  const float size = fabsf(x);
  const std::uint32_t code = (size > 0.25f) + (size >= 0.75f) + (size > 1.25f) + (size >= 1.75f) + (size > 2.5f) +
                             (size >= 3.5f) + (size > 5.0f);
  return x == x ? code | float_to_bits(x) >> 31 << 3 : 7u;
}

}  // namespace halfs

__device__ __forceinline__ void mma_nvfp4_k64(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                                              std::uint32_t scales_a, std::uint32_t scales_b) {
  const int lane = lane_index(), first = lane & ~3;
  const std::uint32_t upper = shuffle(scales_a, first), lower = shuffle(scales_a, first + 1);
  const std::uint32_t column = shuffle(scales_b, first);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int which = 2 * half + lane % 4 / 2;
    const std::uint32_t rows[2] = {halfs::scale_of(upper, which), halfs::scale_of(lower, which)};
    const std::uint32_t right = halfs::scale_of(column, which);
#pragma unroll
    for (int at = 0; at < 8; at += 4) {  // a lane's columns of a step are any four, as long as both operands agree
      std::uint32_t left4[4], right2[2];
#pragma unroll
      for (int i = 0; i < 4; i++) left4[i] = halfs::weighed(a[2 * half + i % 2], at + i / 2 * 2, rows[i % 2]);
#pragma unroll
      for (int i = 0; i < 2; i++) right2[i] = halfs::weighed(b[half], at + 2 * i, right);
      mma_f16_k16(d, left4, right2);
    }
  }
}

__device__ __forceinline__ std::uint32_t floats_to_e2m1x2(float low, float high) {
  return halfs::e2m1(low) | halfs::e2m1(high) << 4;
}

#endif

// To nearest, ties to even; what is larger than 448 becomes 448.
__device__ __forceinline__ std::uint32_t float_to_e4m3(float x) {
  std::uint16_t codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %2, %1;" : "=h"(codes) : "f"(x), "f"(0.0f));
  return codes;
}

}  // namespace imp
