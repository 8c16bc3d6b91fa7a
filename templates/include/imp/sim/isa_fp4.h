// Twins of imp/ptx/isa_fp4.h, from the fragment layouts of the PTX ISA (m16n8k64 with scale_vec::4X, "Block Scaling for mma.sync").
#pragma once

#include "isa_mma.h"

namespace imp {

namespace sim {

constexpr float kE2m1[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

// Bit 7 means nothing.
inline float ue4m3(std::uint32_t scales, int which) {
  return half_to_float(static_cast<std::uint16_t>(e4m3_to_half(scales >> 8 * which & 0x7fu)));
}
inline std::uint32_t e2m1(float x) {
  if (x != x) return 7;
  const float size = std::fabs(x);
  std::uint32_t code = 0;
  // Between codes n and n + 1 an even n takes the middle, an odd one leaves it to the even code above.
  while (code < 7) {
    const float middle = (kE2m1[code] + kE2m1[code + 1]) / 2;
    if (code % 2 == 0 ? size <= middle : size < middle) break;
    ++code;
  }
  return code | float_to_bits(x) >> 31 << 3;
}

}  // namespace sim

// Of 16 columns the products and their sum are exact, also times both scales; each such sum is rounded once as it is added.
inline void mma_nvfp4_k64(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], std::uint32_t scales_a,
                          std::uint32_t scales_b, sim::Location where = sim::Location::current()) {
  struct Argument {
    float* d;
    const std::uint32_t* a;
    const std::uint32_t* b;
    std::uint32_t scales_a, scales_b;
  } argument{d, a, b, scales_a, scales_b};
  sim::collective(
      "mma_nvfp4_k64", argument,
      [](Argument* const* lanes) {
        float left[16][64], scales[16][4];
        sim::Columns right[64], of_column[4], sum[16];
        for (int lane = 0; lane < 32; ++lane) {
          const int g = lane / 4, t = lane % 4;
          const Argument& x = *lanes[lane];
          for (int r = 0; r < 4; ++r)
            for (int e = 0; e < 8; ++e) left[g + r % 2 * 8][8 * t + e + r / 2 * 32] = sim::kE2m1[x.a[r] >> 4 * e & 15];
          for (int r = 0; r < 2; ++r)
            for (int e = 0; e < 8; ++e) right[8 * t + e + r * 32][g] = sim::kE2m1[x.b[r] >> 4 * e & 15];
          for (int i = 0; i < 4; ++i) {
            if (t < 2) scales[g + t * 8][i] = sim::ue4m3(x.scales_a, i);
            if (t == 0) of_column[i][g] = sim::ue4m3(x.scales_b, i);
          }
          for (int c = 0; c < 4; ++c) sum[g + c / 2 * 8][2 * t + c % 2] = x.d[c];
        }
        for (int m = 0; m < 16; ++m)
          for (int i = 0; i < 4; ++i) {
            sim::Columns of16{};
#pragma GCC unroll 16
            for (int k = 16 * i; k < 16 * i + 16; ++k) of16 += left[m][k] * right[k];
            sum[m] += of16 * (scales[m][i] * of_column[i]);
          }
        for (int lane = 0; lane < 32; ++lane)
          for (int c = 0; c < 4; ++c) lanes[lane]->d[c] = sum[lane / 4 + c / 2 * 8][lane % 4 * 2 + c % 2];
      },
      where);
}

inline std::uint32_t floats_to_e2m1x2(float low, float high) { return sim::e2m1(low) | sim::e2m1(high) << 4; }

inline std::uint32_t float_to_e4m3(float x) {
  const std::uint32_t bits = float_to_bits(x), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
  if (x != x) return 0x7f;
  if (magnitude >= 0x43e80000) return sign | 0x7e;  // 464 and more
  if (magnitude < 0x3c800000) return sign | static_cast<std::uint32_t>(__builtin_lrintf(bits_to_float(magnitude) * 512.0f));
  return sign | (((magnitude + 0x7ffff + (magnitude >> 20 & 1)) >> 20) - (120u << 3));
}

}  // namespace imp
