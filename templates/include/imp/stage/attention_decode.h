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
  static constexpr int kThreads = 128;
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
    const int slot = a.input[0];
    const int position = a.positions[slot];
    const int length = position + 1;
    const int split = block_index();
    const int head = block_index_y();
    const int share = round_up(ceil_div(length, C.splits), kTile);
    const int chunk = share > C.min_chunk ? share : C.min_chunk;
    const int active = ceil_div(length, chunk);
    if (split >= active) return;
    const int begin = split * chunk;
    const int end = begin + chunk < length ? begin + chunk : length;
    const std::int32_t* table = a.table + slot * C.table_blocks;

    prepare_queries(a, shared, head, position);
    if (end == length) append(a, table, head, position);
    if (thread_index() < kGroup) {
      float* state = reinterpret_cast<float*>(shared + kState) + thread_index() * 3;
      state[0] = -INFINITY;
      state[1] = 0;
    }
    float out[kSliceHeads][2] = {};
    for (int tile = begin; tile < end; tile += kTile) {
      block_sync();
      load_tile(a.cache, table, shared, head, tile, end);
      block_sync();
      score(shared, tile, end);
      block_sync();
      soften(shared);
      block_sync();
      accumulate(shared, out);
    }
    block_sync();
    store_partial(a, shared, head, split, out);
    if (active == 1) {
      block_sync();
    } else if (!last_to_arrive(a, shared, head, active)) {
      return;
    }
    merge(a, head, active);
  }

 private:
  static __device__ __forceinline__ float2 rotated(const float* x, const float* weight, const std::uint64_t* turns,
                                                   int pair, int position, float factor) {
    float2 v = make_float2(x[Rotary::first(pair)] * factor, x[Rotary::second(pair)] * factor);
    if constexpr (C.qk_norm) v = make_float2(v.x * weight[Rotary::first(pair)], v.y * weight[Rotary::second(pair)]);
    return Rotary::rotate(v, turns, pair, position);
  }

  // The factor of a head's RMS norm (1 without QK-norm); the whole warp calls it.
  static __device__ __forceinline__ float norm_factor(const float* x) {
    if constexpr (!C.qk_norm) return 1.0f;
    float squares = 0;
    for (int i = lane_index(); i < C.head_dim; i += kWarp) squares += x[i] * x[i];
    return rsqrt_fast(warp_sum(squares) * (1.0f / static_cast<float>(C.head_dim)) + C.eps);
  }

  static __device__ __forceinline__ void prepare_queries(const Args& a, std::uint8_t* shared, int head, int position) {
    float* queries = reinterpret_cast<float*>(shared + kQueries);
    for (int g = warp_index(); g < kGroup; g += kWarps) {
      const float* x = a.qkv + (head * kGroup + g) * C.head_dim;
      const float factor = norm_factor(x);
      for (int pair = lane_index(); pair < kPairs; pair += kWarp) {
        const float2 v = rotated(x, a.q_weight, a.turns, pair, position, factor);
        queries[g * C.head_dim + Rotary::first(pair)] = v.x * C.scale;
        queries[g * C.head_dim + Rotary::second(pair)] = v.y * C.scale;
      }
    }
  }

  static __device__ __forceinline__ std::uint8_t* row(std::uint8_t* cache, const std::int32_t* table, int head,
                                                      int position) {
    const auto block = static_cast<std::size_t>(table[position / C.block_tokens]);
    return cache + block * C.block_bytes + head * kKvBytes + position % C.block_tokens * (C.head_dim * 2);
  }

  static __device__ __forceinline__ void append(const Args& a, const std::int32_t* table, int head, int position) {
    if (warp_index() != 0) return;
    auto* keys = reinterpret_cast<std::uint16_t*>(row(a.cache, table, head, position));
    auto* values = reinterpret_cast<std::uint16_t*>(row(a.cache, table, head, position) + kValues);
    const float* k = a.qkv + (C.heads + head) * C.head_dim;
    const float* v = a.qkv + (C.heads + C.kv_heads + head) * C.head_dim;
    const float factor = norm_factor(k);
    for (int pair = lane_index(); pair < kPairs; pair += kWarp) {
      const float2 r = rotated(k, a.k_weight, a.turns, pair, position, factor);
      keys[Rotary::first(pair)] = float_to_half(r.x);
      keys[Rotary::second(pair)] = float_to_half(r.y);
      values[2 * pair] = float_to_half(v[2 * pair]);
      values[2 * pair + 1] = float_to_half(v[2 * pair + 1]);
    }
  }

  // K and V rows of up to kTile positions; rows past the end stay as they are and are never used with weight.
  static __device__ __forceinline__ void load_tile(std::uint8_t* cache, const std::int32_t* table, std::uint8_t* shared,
                                                   int head, int tile, int end) {
    constexpr int kChunks = C.head_dim / 8;
    for (int i = thread_index(); i < kTile * kChunks; i += kThreads) {
      const int p = i / kChunks;
      const int offset = p * kRowBytes + i % kChunks * 16;
      if (tile + p < end) {
        const std::uint8_t* source = row(cache, table, head, tile + p) + i % kChunks * 16;
        *reinterpret_cast<uint4*>(shared + kKeys + offset) = *reinterpret_cast<const uint4*>(source);
        *reinterpret_cast<uint4*>(shared + kVals + offset) = *reinterpret_cast<const uint4*>(source + kValues);
      } else {
        *reinterpret_cast<uint4*>(shared + kVals + offset) = make_uint4(0, 0, 0, 0);
      }
    }
  }

  static __device__ __forceinline__ void score(std::uint8_t* shared, int tile, int end) {
    const int p = thread_index() % kTile;
    const int first = thread_index() / kTile;
    const auto* key = reinterpret_cast<const uint4*>(shared + kKeys + p * kRowBytes);
    float* scores = reinterpret_cast<float*>(shared + kScores);
    const bool inside = tile + p < end;
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

  static __device__ __forceinline__ void accumulate(const std::uint8_t* shared, float (&out)[kSliceHeads][2]) {
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
    for (int p = 0; p < kTile; p++) {
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
