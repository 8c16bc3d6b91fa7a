// Products and numbers of four bits; tests/isa_cases.py holds inputs and what must come out.
#include "isa.h"

namespace imp {

// Raw fragments a [32][4], b [32][2] and scales [2][32] -> d [32][4]
extern "C" __global__ void fragments_nvfp4(const std::uint32_t* a, const std::uint32_t* b, const std::uint32_t* scales,
                                           float* d) {
  const int lane = lane_index();
  std::uint32_t left[4], right[2];
  float sum[4];
  for (int i = 0; i < 4; ++i) left[i] = a[4 * lane + i];
  for (int i = 0; i < 2; ++i) right[i] = b[2 * lane + i];
  for (int i = 0; i < 4; ++i) sum[i] = d[4 * lane + i];
  mma_nvfp4_k64(sum, left, right, scales[lane], scales[32 + lane]);
  for (int i = 0; i < 4; ++i) d[4 * lane + i] = sum[i];
}

// x [n] -> codes [2][n]: of e2m1, each with the next, and of e4m3
extern "C" __global__ void small_floats(const float* x, std::uint32_t* codes) {
  const int i = thread_index(), n = block_threads();
  codes[i] = floats_to_e2m1x2(x[i], x[(i + 1) % n]);
  codes[n + i] = float_to_e4m3(x[i]);
}

}  // namespace imp
