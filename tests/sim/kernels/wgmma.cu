// Products of warpgroups, which only sm_90a has; tests/isa_cases.py holds inputs and what must come out.
#include "isa.h"

namespace imp {

// A [128][64], B [N][64] halfs -> C [128][N], by two warpgroups. B goes to shared memory with its chunks swizzled; of the four
// products of 16 columns each, the first two are a group, and the fragments of the first are then used again.
template <int N>
__device__ __forceinline__ void product(const std::uint32_t* a, const uint4* b, float* c) {
  std::uint8_t* panel = shared_memory();
  for (int i = thread_index(); i < N * 8; i += 256) {
    const int line = i / 8, chunk = i % 8;
    *reinterpret_cast<uint4*>(panel + line * 128 + (chunk ^ (line & 7)) * 16) = b[i];
  }
  bulk_fence();  // the tensor cores read as copies do
  block_sync();
  const int row = warp_index() * 16 + lane_index() / 4, t = lane_index() % 4;
  std::uint32_t fragments[2][2][4];
  float d[N / 2] = {};
  for (int group = 0; group < 2; ++group) {
    for (int k = 0; k < 2; ++k)
      for (int i = 0; i < 4; ++i)
        fragments[group][k][i] = a[(row + i % 2 * 8) * 32 + (2 * group + k) * 8 + t + i / 2 * 4];
    wgmma_fence();
    for (int k = 0; k < 2; ++k) wgmma_f16<N>(d, fragments[group][k], panel, 2 * group + k);
    wgmma_commit();
    wgmma_wait<1>(d);
  }
  wgmma_wait<0>(d);
  for (int i = 0; i < N / 2; ++i) c[(row + i / 2 % 2 * 8) * N + i / 4 * 8 + 2 * t + i % 2] = d[i];
}

extern "C" __global__ void __launch_bounds__(256) wgmma_64(const std::uint32_t* a, const uint4* b, float* c) {
  product<64>(a, b, c);
}
extern "C" __global__ void __launch_bounds__(256) wgmma_128(const std::uint32_t* a, const uint4* b, float* c) {
  product<128>(a, b, c);
}
extern "C" __global__ void __launch_bounds__(256) wgmma_256(const std::uint32_t* a, const uint4* b, float* c) {
  product<256>(a, b, c);
}

// A [128][64], B [64][N] halfs -> C [128][N]: the same, but B's rows are lines, N / 64 panels beside each other.
template <int N>
__device__ __forceinline__ void product_of_lines(const std::uint32_t* a, const uint4* b, float* c) {
  std::uint8_t* panels = shared_memory();
  constexpr int kBetween = 64 * 128;
  for (int i = thread_index(); i < 64 * N / 8; i += 256) {
    const int line = i / (N / 8), chunk = i % (N / 8);
    *reinterpret_cast<uint4*>(panels + chunk / 8 * kBetween + line * 128 + (chunk % 8 ^ line % 8) * 16) = b[i];
  }
  bulk_fence();
  block_sync();
  const int row = warp_index() * 16 + lane_index() / 4, t = lane_index() % 4;
  std::uint32_t fragments[4][4];
  float d[N / 2] = {};
  for (int k = 0; k < 4; ++k)
    for (int i = 0; i < 4; ++i) fragments[k][i] = a[(row + i % 2 * 8) * 32 + k * 8 + t + i / 2 * 4];
  wgmma_fence();
  for (int k = 0; k < 4; ++k) wgmma_f16_lines<N>(d, fragments[k], panels, kBetween, k);
  wgmma_commit();
  wgmma_wait<0>(d);
  for (int i = 0; i < N / 2; ++i) c[(row + i / 2 % 2 * 8) * N + i / 4 * 8 + 2 * t + i % 2] = d[i];
}

extern "C" __global__ void __launch_bounds__(256) wgmma_lines_64(const std::uint32_t* a, const uint4* b, float* c) {
  product_of_lines<64>(a, b, c);
}
extern "C" __global__ void __launch_bounds__(256) wgmma_lines_128(const std::uint32_t* a, const uint4* b, float* c) {
  product_of_lines<128>(a, b, c);
}

}  // namespace imp
