// One kernel per group of instructions; tests/isa_cases.py holds inputs and what must come out.
#include "isa.h"

namespace imp {

// x [32], n [32] -> out [10][32], words [4][32]
extern "C" __global__ void collectives(const float* x, const int* n, float* out, std::uint32_t* words) {
  const int lane = lane_index();
  const float v = x[lane];
  float pair[2] = {v, v * v};
  warp_sum(pair);
  const float rows[] = {warp_sum(v),  pair[0],           pair[1],          warp_max(v),    group_sum<8>(v),
                        group_max<4>(v), group_sum<2>(v), shuffle(v, 31 - lane), shuffle_xor(v, 5), shuffle(v, 3)};
  for (int i = 0; i < 10; ++i) out[32 * i + lane] = rows[i];
  const std::uint64_t wide = shuffle_xor(std::uint64_t{0x100000000u} * static_cast<std::uint32_t>(lane) + 7u, 1);
  words[lane] = static_cast<std::uint32_t>(warp_sum(n[lane]));
  words[32 + lane] = static_cast<std::uint32_t>(group_sum<16>(n[lane]));
  words[64 + lane] = ballot(n[lane] > 0);
  words[96 + lane] = static_cast<std::uint32_t>(wide >> 32) + static_cast<std::uint32_t>(wide);
}

// x [grid][512] -> out [grid]: each warp's sum into shared memory, then the first warp's
extern "C" __global__ void block_reduce(const float* x, float* out) {
  auto* partial = reinterpret_cast<float*>(shared_memory());
  const float sum = warp_sum(x[block_index() * 512 + thread_index()]);
  if (lane_index() == 0) partial[warp_index()] = sum;
  block_sync();
  if (warp_index() == 0) {
    const float total = warp_sum(lane_index() < block_threads() / 32 ? partial[lane_index()] : 0.0f);
    if (lane_index() == 0) out[block_index()] = total;
  }
}

// 16 rows of `row_bytes` bytes of A and 8 of B go to shared memory by asynchronous copies, rows padded by 16 bytes.
template <int row_bytes>
__device__ __forceinline__ void fill(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* to) {
  for (int i = lane_index(); i < 24 * (row_bytes / 16); i += 32) {
    const int row = i / (row_bytes / 16), at = i % (row_bytes / 16) * 16;
    cp_async16(to + row * (row_bytes + 16) + at, row < 16 ? a + row * row_bytes + at : b + (row - 16) * row_bytes + at);
  }
  cp_async_commit();
  cp_async_wait<0>();
  warp_sync();
}
template <class T>
__device__ __forceinline__ void store(const T (&d)[4], T* c) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i];
}

// A [16][128 bytes], B [8][128 bytes] -> C [16][8]
template <class T, class Multiply>
__device__ __forceinline__ void gemm(const std::uint8_t* a, const std::uint8_t* b, T* c, Multiply multiply) {
  std::uint8_t* arena = shared_memory();
  fill<128>(a, b, arena);
  T d[4] = {};
  for (int at = 0; at < 128; at += 32) {
    std::uint32_t left[4], right[2];
    ldmatrix_x4(left, arena + lane_index() % 16 * 144 + at + lane_index() / 16 * 16);
    ldmatrix_x2(right, arena + (16 + lane_index() % 8) * 144 + at + lane_index() / 8 % 2 * 16);
    multiply(d, left, right);
  }
  store(d, c);
}
extern "C" __global__ void gemm_f16(const std::uint8_t* a, const std::uint8_t* b, float* c) {
  gemm(a, b, c, [](auto& d, auto& left, auto& right) { mma_f16_k16(d, left, right); });
}
extern "C" __global__ void gemm_bf16(const std::uint8_t* a, const std::uint8_t* b, float* c) {
  gemm(a, b, c, [](auto& d, auto& left, auto& right) { mma_bf16_k16(d, left, right); });
}
extern "C" __global__ void gemm_f16_half(const std::uint8_t* a, const std::uint8_t* b, float* c) {
  gemm(a, b, c, [](auto& d, auto& left, auto& right) {
    std::uint32_t halfs[2] = {floats_to_half2(d[0], d[1]), floats_to_half2(d[2], d[3])};
    mma_f16_k16(halfs, left, right);
    const float2 upper = half2_to_float2(halfs[0]), lower = half2_to_float2(halfs[1]);
    d[0] = upper.x, d[1] = upper.y, d[2] = lower.x, d[3] = lower.y;
  });
}
// A [16 k][16 m], B [16 k][8 n] halfs: both transposed on their way to registers. B's rows are 16 bytes, unpadded.
extern "C" __global__ void gemm_f16_trans(const std::uint8_t* a, const std::uint8_t* b, float* c) {
  std::uint8_t* arena = shared_memory();
  const int lane = lane_index();
  cp_async16(arena + 16 * lane, a + 16 * lane);
  if (lane < 16) cp_async16(arena + 512 + 16 * lane, b + 16 * lane);
  cp_async_commit();
  cp_async_wait<0>();
  warp_sync();
  std::uint32_t left[4], twice[4];
  ldmatrix_x4_trans(left, arena + (lane % 8 + lane / 16 * 8) * 32 + lane / 8 % 2 * 16);
  ldmatrix_x4_trans(twice, arena + 512 + lane % 16 * 16);
  const std::uint32_t right[] = {twice[0], twice[1]};
  float d[4] = {};
  mma_f16_k16(d, left, right);
  store(d, c);
}
// Raw fragments a [32][4], b [32][2] -> d [32][4]: what a lane's registers mean, without ldmatrix.
extern "C" __global__ void fragments_f16(const std::uint32_t* a, const std::uint32_t* b, float* d) {
  const int lane = lane_index();
  std::uint32_t left[4], right[2];
  float sum[4];
  for (int i = 0; i < 4; ++i) left[i] = a[4 * lane + i];
  for (int i = 0; i < 2; ++i) right[i] = b[2 * lane + i];
  for (int i = 0; i < 4; ++i) sum[i] = d[4 * lane + i];
  mma_f16_k16(sum, left, right);
  for (int i = 0; i < 4; ++i) d[4 * lane + i] = sum[i];
}

// x [8 rows][4 pairs of halfs], a word a lane -> out [8][4]: its transpose
extern "C" __global__ void transpose(const std::uint32_t* x, std::uint32_t* out) {
  out[lane_index()] = transpose8x8(x[lane_index()]);
}

// x [grid][256] -> partial [grid], out [1]: the block that arrives last adds what the others left
extern "C" __global__ void last_arriver(const float* x, float* partial, std::uint32_t* counter, float* out) {
  auto* arena = reinterpret_cast<float*>(shared_memory());
  auto* is_last = reinterpret_cast<std::uint32_t*>(shared_memory() + 64);
  const float sum = warp_sum(x[block_index() * 256 + thread_index()]);
  if (lane_index() == 0) arena[warp_index()] = sum;
  block_sync();
  if (thread_index() == 0) {
    float total = 0.0f;
    for (int i = 0; i < 8; ++i) total += arena[i];
    partial[block_index()] = total;
    fence_gpu();
    *is_last = atomic_add(counter, 1u) + 1 == static_cast<std::uint32_t>(grid_size());
    fence_gpu();
  }
  block_sync();
  if (*is_last && warp_index() == 0) {
    float total = 0.0f;
    for (int i = lane_index(); i < grid_size(); i += 32) total += load_fresh(partial + i);
    total = warp_sum(total);
    if (lane_index() == 0) {
      *out = total;
      *counter = 0;
    }
  }
}

// x [8][64] 16-byte vectors -> out [64]: a ring of three asynchronous copies; two warps that meet at a named barrier each
extern "C" __global__ void pipeline(const uint4* x, uint4* out) {
  auto* ring = reinterpret_cast<uint4*>(shared_memory());
  const int i = thread_index();
  for (int stage = 0; stage < 2; ++stage) {
    cp_async16(ring + 64 * stage + i, x + 64 * stage + i);
    cp_async_commit();
  }
  uint4 sum = make_uint4(0, 0, 0, 0);
  for (int stage = 0; stage < 8; ++stage) {
    if (stage + 2 < 8) cp_async16(ring + (stage + 2) % 3 * 64 + i, x + (stage + 2) * 64 + i);
    cp_async_commit();
    cp_async_wait<2>();
    named_sync(1 + warp_index(), 32);
    const uint4 v = ring[stage % 3 * 64 + (i ^ 1)];
    sum = make_uint4(sum.x + v.x, sum.y ^ v.y, sum.z + 3 * v.z, sum.w + v.w);
    named_sync(1 + warp_index(), 32);
  }
  out[i] = sum;
}

// x [64] 16-byte vectors -> out [64]; counters [3], wide [2]
extern "C" __global__ void memory_operations(const uint4* x, uint4* out, std::uint32_t* counters, std::uint64_t* wide) {
  auto* shared_counter = reinterpret_cast<std::uint32_t*>(shared_memory());
  const int i = thread_index();
  if (i == 0) *shared_counter = 5;
  block_sync();
  atomic_add(shared_counter, static_cast<std::uint32_t>(i));
  const uint4 v = load_stream(x + i);
  const uint2 w = load_stream8(x + i);
  out[i] = make_uint4(v.x + w.x, v.y + w.y, v.z, v.w);
  atomic_add(counters, v.x & 255u);
  atomic_max(counters + 1, v.y);
  atomic_add(wide, std::uint64_t{v.x} << 20);
  block_sync();
  if (i == 0) {
    counters[2] = *shared_counter;
    store_system(wide + 1, load_fresh(wide) + load_fresh(counters));
  }
}

// a, b [n] words, x [n] -> words [8][n], floats [12][n]
extern "C" __global__ void arithmetic(const std::uint32_t* a, const std::uint32_t* b, const float* x, std::uint32_t* words,
                                      float* floats) {
  const int i = thread_index(), n = block_threads();
  const std::uint32_t u = a[i], v = b[i];
  const float f = x[i], next = x[(i + 1) % n];
  words[i] = byte_permute(u, v, u ^ v >> 3);
  words[n + i] = static_cast<std::uint32_t>(dp4a(u, v, static_cast<int>(u >> 7)));
  words[2 * n + i] = static_cast<std::uint32_t>(dp4a_unsigned(u, v, static_cast<int>(u >> 7)));
  words[3 * n + i] = rotate_right(u, static_cast<int>(v));
  words[4 * n + i] = static_cast<std::uint32_t>(round_int(f));
  words[5 * n + i] = float_to_half(f);
  words[6 * n + i] = floats_to_half2(f, next);
  words[7 * n + i] = floats_to_bfloat2(f, next);
  const float2 halves = half2_to_float2(u);
  float sine, cosine;
  sincospi(f, sine, cosine);
  const float magnitude = bits_to_float(float_to_bits(f) & 0x7fffffffu) + 0.25f, small = f * (1.0f / 65536.0f);
  const float rows[] = {halves.x, halves.y, half_to_float(static_cast<std::uint16_t>(v)),
                        max(f, next), max_nan(f, next), min(f, next), fma(f, next, 1.5f), sine, cosine, exp2_fast(small), exp_fast(small),
                        rsqrt_fast(magnitude), divide_fast(f, magnitude), erf(small), exp2_flushed(min(f, 1.0f))};
  for (int row = 0; row < 15; ++row) floats[row * n + i] = rows[row];
}

// out [grid y][grid x][4]
extern "C" __global__ void indices(int* out) {
  const int block = block_index_y() * grid_size() + block_index();
  if (thread_index() == 40) {
    const int row[] = {block_threads(), lane_index(), warp_index(), grid_size()};
    for (int i = 0; i < 4; ++i) out[4 * block + i] = row[i];
  }
}

// a, b, c [n] pairs of halfs -> out [3][n]
extern "C" __global__ void half_arithmetic(const std::uint32_t* a, const std::uint32_t* b, const std::uint32_t* c,
                                           std::uint32_t* out) {
  const int i = thread_index(), n = block_threads();
  out[i] = half2_subtract(a[i], b[i]);
  out[n + i] = half2_multiply(a[i], b[i]);
  out[2 * n + i] = half2_fma(a[i], b[i], c[i]);
}

// x [n] pairs of e4m3 -> out [n] pairs of halfs
extern "C" __global__ void e4m3(const std::uint16_t* x, std::uint32_t* out) {
  const int i = block_index() * block_threads() + thread_index();
  out[i] = e4m3x2_to_half2(x[i]);
}

}  // namespace imp
