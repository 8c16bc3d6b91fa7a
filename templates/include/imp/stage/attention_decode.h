// One token's attention over the paged cache: QK-norm and RoPE of its heads, append to the cache, split-KV attention,
// and the merge of the splits by whichever CTA comes last.
#pragma once
#include "imp/layout/tile.h"
#include "imp/stage/rope.h"

namespace imp {

struct AttentionConfig {
  int heads;
  int kv_heads;
  int head_dim;
  int block_tokens;
  int block_bytes;   // of a cache block: all layers
  int table_blocks;  // block table entries of one sequence
  int splits;        // CTAs that share one kv head
  int min_chunk;     // positions that are worth a CTA
  bool interleaved;
  bool qk_norm;
  float eps;
  float scale;  // softmax scale times log2(e)
};

template <AttentionConfig C>
struct AttentionDecode {
  using Rotary = Rope<RopeConfig{.head_dim = C.head_dim, .interleaved = C.interleaved}>;
  static constexpr int kThreads = 256;
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kGroup = C.heads / C.kv_heads;  // query heads of one kv head
  static constexpr int kTile = 64;                     // positions at a time
  static constexpr int kRowBytes = C.head_dim * 2 + 16;  // padded: eight lanes' rows start in different banks
  static constexpr int kKvBytes = C.block_tokens * C.head_dim * 2;  // one head of one block
  static constexpr int kValues = C.kv_heads * kKvBytes;             // V follows K
  static constexpr int kPairs = C.head_dim / 2;
  static constexpr int kLanePairs = ceil_div(kPairs, kWarp);
  static constexpr int kSlices = kThreads / kPairs;  // threads that share a pair of output columns
  static constexpr int kSliceHeads = ceil_div(kGroup, kSlices);
  static constexpr int kPositionThreads = kThreads / kTile;
  static constexpr int kThreadHeads = ceil_div(kGroup, kPositionThreads);
  static constexpr int kPartial = C.head_dim + 2;  // output, maximum, sum

  static constexpr int kQueries = 0;
  static constexpr int kKeys = kQueries + kGroup * C.head_dim * 4;
  static constexpr int kVals = kKeys + kTile * kRowBytes;
  static constexpr int kScores = kVals + kTile * kRowBytes;
  static constexpr int kState = kScores + kGroup * kTile * 4;  // per head: maximum, sum, correction
  static constexpr int kFlag = kState + round_up(kGroup * 12, 16);
  static constexpr int kSharedBytes = kFlag + 16;
  static constexpr int kGridX = C.splits;
  static constexpr int kGridY = C.kv_heads;
  static constexpr int kPartialFloats = C.kv_heads * C.splits * kGroup * kPartial;

  static_assert(C.heads % C.kv_heads == 0, "query heads share kv heads evenly");
  static_assert(C.head_dim % 8 == 0 && C.head_dim <= 256, "a cache row consists of 16-byte chunks");
  static_assert(C.min_chunk % kTile == 0, "a CTA's share consists of whole tiles");
  static_assert(C.block_tokens == 16, "a tile consists of whole cache blocks");
  static_assert(kThreads % kTile == 0 && kPairs <= kThreads, "threads share positions, or columns, evenly");

  struct Args {
    const float* qkv;  // [heads + 2 kv_heads, head_dim]
    const float* q_weight;
    const float* k_weight;
    const std::uint64_t* turns;
    std::uint8_t* cache;  // this layer's part of block 0
    const std::int32_t* input;
    const std::int32_t* positions;
    const std::int32_t* table;
    float* partial;
    std::uint32_t* arrived;  // [kv_heads], zero between launches
    float* out;              // [heads, head_dim]
  };

  static __device__ __forceinline__ void run(const Args& a) {
    std::uint8_t* shared = shared_memory();
    grid_launch_next();
    const int slot = a.input[0];
    const int position = a.positions[slot];
    const int length = position + 1;
    const int split = block_index();
    const int head = block_index_y();
    const int share = round_up(ceil_div(length, C.splits), kTile);
    const int chunk = share > C.min_chunk ? share : C.min_chunk;
    const int active = ceil_div(length, chunk);
    const int begin = split * chunk;
    const int end = begin + chunk < length ? begin + chunk : length;
    const std::int32_t* table = a.table + slot * C.table_blocks;
    // What earlier steps left in the cache, and the angles, need not wait for this step's q, k and v.
    Angles angles(a.turns, position);
    if (split < active) load_tile(a.cache, table, shared, head, begin, end < position ? end : position);
    grid_wait();
    if (split >= active) return;

    prepare_queries(a, shared, head, angles);
    if (end == length) append(a, table, shared, head, position, begin, angles);
    if (thread_index() < kGroup) {
      float* state = reinterpret_cast<float*>(shared + kState) + thread_index() * 3;
      state[0] = -INFINITY;
      state[1] = 0;
    }
    float out[kSliceHeads][2] = {};
    for (int tile = begin; tile < end; tile += kTile) {
      if (tile > begin) {
        block_sync();
        load_tile(a.cache, table, shared, head, tile, end);
      }
      block_sync();
      const int count = end - tile < kTile ? end - tile : kTile;
      score(shared, count);
      block_sync();
      soften(shared);
      block_sync();
      accumulate(shared, count, out);
    }
    if (active == 1) {
      store_result(a, shared, head, out);
      return;
    }
    store_partial(a, shared, head, split, out);
    if (last_to_arrive(a, shared, head, active)) merge(a, head, active);
  }

 private:
  // Sines and cosines of this lane's pairs at the step's position.
  struct Angles {
    float s[kLanePairs];
    float c[kLanePairs];
    __device__ __forceinline__ Angles(const std::uint64_t* turns, int position) {
#pragma unroll
      for (int i = 0; i < kLanePairs; i++) {
        const int pair = lane_index() + i * kWarp;
        s[i] = c[i] = 0;
        if (pair < kPairs) rope_angle(turns, pair, position, s[i], c[i]);
      }
    }
  };

  // A head's pairs of this lane, after QK-norm and rotation; the whole warp calls it.
  static __device__ __forceinline__ void rotate_head(const float* x, const float* weight, const Angles& angles,
                                                     float2 (&v)[kLanePairs]) {
    float squares = 0;
#pragma unroll
    for (int i = 0; i < kLanePairs; i++) {
      const int pair = lane_index() + i * kWarp;
      v[i] = pair < kPairs ? make_float2(x[Rotary::first(pair)], x[Rotary::second(pair)]) : make_float2(0, 0);
      squares += v[i].x * v[i].x + v[i].y * v[i].y;
    }
    if constexpr (C.qk_norm) {
      const float factor = rsqrt_fast(warp_sum(squares) * (1.0f / static_cast<float>(C.head_dim)) + C.eps);
#pragma unroll
      for (int i = 0; i < kLanePairs; i++) {
        const int pair = lane_index() + i * kWarp;
        if (pair >= kPairs) continue;
        v[i].x *= factor * weight[Rotary::first(pair)];
        v[i].y *= factor * weight[Rotary::second(pair)];
      }
    }
#pragma unroll
    for (int i = 0; i < kLanePairs; i++) {
      v[i] = make_float2(v[i].x * angles.c[i] - v[i].y * angles.s[i], v[i].y * angles.c[i] + v[i].x * angles.s[i]);
    }
  }

  static __device__ __forceinline__ void prepare_queries(const Args& a, std::uint8_t* shared, int head,
                                                         const Angles& angles) {
    float* queries = reinterpret_cast<float*>(shared + kQueries);
    for (int g = warp_index(); g < kGroup; g += kWarps) {
      float2 v[kLanePairs];
      rotate_head(a.qkv + (head * kGroup + g) * C.head_dim, a.q_weight, angles, v);
#pragma unroll
      for (int i = 0; i < kLanePairs; i++) {
        const int pair = lane_index() + i * kWarp;
        if (pair >= kPairs) continue;
        queries[g * C.head_dim + Rotary::first(pair)] = v[i].x * C.scale;
        queries[g * C.head_dim + Rotary::second(pair)] = v[i].y * C.scale;
      }
    }
  }

  static __device__ __forceinline__ std::uint8_t* row(std::uint8_t* cache, const std::int32_t* table, int head,
                                                      int position) {
    const auto block = static_cast<std::size_t>(table[position / C.block_tokens]);
    return cache + block * C.block_bytes + head * kKvBytes + position % C.block_tokens * (C.head_dim * 2);
  }

  // This step's k and v: to the cache, and to the first tile where they belong to it. The last warp does it, since the
  // first ones are busy with the queries.
  static __device__ __forceinline__ void append(const Args& a, const std::int32_t* table, std::uint8_t* shared, int head,
                                                int position, int begin, const Angles& angles) {
    if (warp_index() != kWarps - 1) return;
    std::uint8_t* cached = row(a.cache, table, head, position);
    auto* keys = reinterpret_cast<std::uint16_t*>(cached);
    auto* values = reinterpret_cast<std::uint32_t*>(cached + kValues);
    const bool in_tile = position - begin < kTile;
    const int line = in_tile ? (position - begin) * kRowBytes : 0;
    auto* tile_keys = reinterpret_cast<std::uint16_t*>(shared + kKeys + line);
    auto* tile_values = reinterpret_cast<std::uint32_t*>(shared + kVals + line);
    const auto* v = reinterpret_cast<const float2*>(a.qkv + (C.heads + C.kv_heads + head) * C.head_dim);
    float2 rotated[kLanePairs];
    rotate_head(a.qkv + (C.heads + head) * C.head_dim, a.k_weight, angles, rotated);
#pragma unroll
    for (int i = 0; i < kLanePairs; i++) {
      const int pair = lane_index() + i * kWarp;
      if (pair >= kPairs) continue;
      const std::uint16_t first = float_to_half(rotated[i].x);
      const std::uint16_t second = float_to_half(rotated[i].y);
      const std::uint32_t value = floats_to_half2(v[pair].x, v[pair].y);
      keys[Rotary::first(pair)] = first;
      keys[Rotary::second(pair)] = second;
      values[pair] = value;
      if (!in_tile) continue;
      tile_keys[Rotary::first(pair)] = first;
      tile_keys[Rotary::second(pair)] = second;
      tile_values[pair] = value;
    }
  }

  // K and V rows of the positions tile .. end, at most kTile of them; what lies past the end is not touched.
  static __device__ __forceinline__ void load_tile(std::uint8_t* cache, const std::int32_t* table, std::uint8_t* shared,
                                                   int head, int tile, int end) {
    constexpr int kChunks = C.head_dim / 8;
    for (int i = thread_index(); i < kTile * kChunks; i += kThreads) {
      const int p = i / kChunks;
      const int offset = p * kRowBytes + i % kChunks * 16;
      if (tile + p >= end) break;
      const std::uint8_t* source = row(cache, table, head, tile + p) + i % kChunks * 16;
      *reinterpret_cast<uint4*>(shared + kKeys + offset) = *reinterpret_cast<const uint4*>(source);
      *reinterpret_cast<uint4*>(shared + kVals + offset) = *reinterpret_cast<const uint4*>(source + kValues);
    }
  }

  static __device__ __forceinline__ void score(std::uint8_t* shared, int count) {
    const int p = thread_index() % kTile;
    const int first = thread_index() / kTile;
    const auto* key = reinterpret_cast<const uint4*>(shared + kKeys + p * kRowBytes);
    float* scores = reinterpret_cast<float*>(shared + kScores);
    const bool inside = p < count;
    float sums[kThreadHeads] = {};
    if (inside) {
      for (int c = 0; c < C.head_dim / 8; c++) {
        const uint4 k = key[c];
        const float2 k0 = half2_to_float2(k.x);
        const float2 k1 = half2_to_float2(k.y);
        const float2 k2 = half2_to_float2(k.z);
        const float2 k3 = half2_to_float2(k.w);
#pragma unroll
        for (int i = 0; i < kThreadHeads; i++) {
          const int g = first + i * kPositionThreads;
          if (g >= kGroup) continue;
          const auto* q = reinterpret_cast<const float4*>(shared + kQueries + g * C.head_dim * 4) + c * 2;
          const float4 a = q[0];
          const float4 b = q[1];
          sums[i] += k0.x * a.x + k0.y * a.y + k1.x * a.z + k1.y * a.w + k2.x * b.x + k2.y * b.y + k3.x * b.z + k3.y * b.w;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kThreadHeads; i++) {
      const int g = first + i * kPositionThreads;
      if (g < kGroup) scores[g * kTile + p] = inside ? sums[i] : -INFINITY;
    }
  }

  // Scores to weights, one warp a head; every tile has at least one position, so the maximum is finite.
  static __device__ __forceinline__ void soften(std::uint8_t* shared) {
    for (int g = warp_index(); g < kGroup; g += kWarps) {
      float* scores = reinterpret_cast<float*>(shared + kScores) + g * kTile;
      float* state = reinterpret_cast<float*>(shared + kState) + g * 3;
      const float a = scores[lane_index()];
      const float b = scores[lane_index() + kWarp];
      const float old = state[0];
      const float sum = state[1];
      const float maximum = max(warp_max(max(a, b)), old);
      const float wa = exp2_fast(a - maximum);
      const float wb = exp2_fast(b - maximum);
      const float correction = exp2_fast(old - maximum);
      const float total = warp_sum(wa + wb);
      scores[lane_index()] = wa;
      scores[lane_index() + kWarp] = wb;
      warp_sync();  // every lane has read the state that lane 0 now changes
      if (lane_index() == 0) {
        state[0] = maximum;
        state[1] = sum * correction + total;
        state[2] = correction;
      }
    }
  }

  static __device__ __forceinline__ void accumulate(const std::uint8_t* shared, int count,
                                                    float (&out)[kSliceHeads][2]) {
    const int pair = thread_index() % kPairs;
    const int slice = thread_index() / kPairs;
    if (slice >= kSlices) return;
    const auto* scores = reinterpret_cast<const float*>(shared + kScores);
    const auto* state = reinterpret_cast<const float*>(shared + kState);
#pragma unroll
    for (int i = 0; i < kSliceHeads; i++) {
      const int g = slice + i * kSlices;
      if (g >= kGroup) continue;
      out[i][0] *= state[g * 3 + 2];
      out[i][1] *= state[g * 3 + 2];
    }
#pragma unroll 8
    for (int p = 0; p < count; p++) {
      const float2 v = half2_to_float2(*reinterpret_cast<const std::uint32_t*>(shared + kVals + p * kRowBytes + pair * 4));
#pragma unroll
      for (int i = 0; i < kSliceHeads; i++) {
        const int g = slice + i * kSlices;
        if (g >= kGroup) continue;
        const float weight = scores[g * kTile + p];
        out[i][0] += weight * v.x;
        out[i][1] += weight * v.y;
      }
    }
  }

  // One CTA had all positions: nothing to merge.
  static __device__ __forceinline__ void store_result(const Args& a, const std::uint8_t* shared, int head,
                                                      const float (&out)[kSliceHeads][2]) {
    const int pair = thread_index() % kPairs;
    const int slice = thread_index() / kPairs;
    if (slice >= kSlices) return;
    const auto* state = reinterpret_cast<const float*>(shared + kState);
#pragma unroll
    for (int i = 0; i < kSliceHeads; i++) {
      const int g = slice + i * kSlices;
      if (g >= kGroup) continue;
      auto* y = reinterpret_cast<float2*>(a.out + (head * kGroup + g) * C.head_dim);
      y[pair] = make_float2(divide_fast(out[i][0], state[g * 3 + 1]), divide_fast(out[i][1], state[g * 3 + 1]));
    }
  }

  static __device__ __forceinline__ float* partial_of(const Args& a, int head, int split, int g) {
    return a.partial + ((head * C.splits + split) * kGroup + g) * kPartial;
  }

  static __device__ __forceinline__ void store_partial(const Args& a, const std::uint8_t* shared, int head, int split,
                                                       const float (&out)[kSliceHeads][2]) {
    const int pair = thread_index() % kPairs;
    const int slice = thread_index() / kPairs;
    if (slice < kSlices) {
#pragma unroll
      for (int i = 0; i < kSliceHeads; i++) {
        const int g = slice + i * kSlices;
        if (g >= kGroup) continue;
        float* partial = partial_of(a, head, split, g);
        partial[2 * pair] = out[i][0];
        partial[2 * pair + 1] = out[i][1];
      }
    }
    if (thread_index() < kGroup) {
      const float* state = reinterpret_cast<const float*>(shared + kState) + thread_index() * 3;
      float* partial = partial_of(a, head, split, thread_index());
      partial[C.head_dim] = state[0];
      partial[C.head_dim + 1] = state[1];
    }
  }

  static __device__ __forceinline__ bool last_to_arrive(const Args& a, std::uint8_t* shared, int head, int active) {
    auto* flag = reinterpret_cast<std::uint32_t*>(shared + kFlag);
    fence_gpu();
    block_sync();
    if (thread_index() == 0) {
      *flag = atomic_add(a.arrived + head, 1u) == static_cast<std::uint32_t>(active - 1);
      fence_gpu();
    }
    block_sync();
    if (*flag == 0) return false;
    if (thread_index() == 0) a.arrived[head] = 0;
    return true;
  }

  // Splits in order: the result does not depend on which CTA does this.
  static __device__ __forceinline__ void merge(const Args& a, int head, int active) {
    for (int i = thread_index(); i < kGroup * C.head_dim; i += kThreads) {
      const int g = i / C.head_dim;
      const int d = i % C.head_dim;
      float maximum = -INFINITY;
      for (int s = 0; s < active; s++) maximum = max(maximum, load_fresh(partial_of(a, head, s, g) + C.head_dim));
      float total = 0;
      float sum = 0;
      for (int s = 0; s < active; s++) {
        const float* partial = partial_of(a, head, s, g);
        const float weight = exp2_fast(load_fresh(partial + C.head_dim) - maximum);
        total += weight * load_fresh(partial + C.head_dim + 1);
        sum += weight * load_fresh(partial + d);
      }
      a.out[(head * kGroup + g) * C.head_dim + d] = divide_fast(sum, total);
    }
  }
};

}  // namespace imp
