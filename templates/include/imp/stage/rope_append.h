// Prefill, after q, k and v: per-head norm and rotation of q and k; k and v go to the paged cache as f16, q stays where
// it is as f32, multiplied by the softmax scale. Where a layer reads another's cache, there is only q. One CTA for each token; a warp takes a head at a time.
#pragma once
#include "imp/layout/cache.h"
#include "imp/layout/tile.h"
#include "imp/stage/rope.h"

namespace imp {

struct RopeAppendConfig {
  int heads;
  int kv_heads;
  int head_dim;
  int tokens;        // of a full chunk
  int values;        // head of a row with which values begin, perhaps those of the keys; 0: nothing is appended
  int stride;        // floats of a token's row
  int table_blocks;  // entries of a sequence's block table
  int block_bytes;   // of one cache block, all layers
  int rope_dim;      // elements of a head of q and k that turn
  bool interleaved;
  float magnitude;  // of the rotation
  bool qk_norm;     // RMS norm of each q and k head
  bool v_norm;      // and of each v head, without a weight
  float eps;
  float scale;  // of q: softmax scale times log2(e)
};

template <RopeAppendConfig C>
struct RopeAppend {
  using Pairs = Rope<RopeConfig{
      .head_dim = C.head_dim, .dim = C.rope_dim, .interleaved = C.interleaved, .magnitude = C.magnitude}>;
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kPairs = C.head_dim / 2;
  static constexpr int kLanePairs = ceil_div(kPairs, kWarp);
  static constexpr int kSharedBytes = Pairs::kTurned * 8;
  static constexpr int kGridX = C.tokens;
  static constexpr int kGridY = 1;
  static constexpr int kGridZ = 1;
  static constexpr int kHeads = C.heads + (C.values > 0 ? 2 * C.kv_heads : 0);
  using Row = CacheRow<C.head_dim>;
  static constexpr int kHeadBytes = kCacheTokens * Row::kBytes;
  static constexpr int kValues = C.kv_heads * kHeadBytes;  // in a layer's block, v follows k
  static_assert(C.heads % C.kv_heads == 0, "query heads share kv heads evenly");
  static_assert(Pairs::kTurned <= kThreads, "each thread computes at most one angle");
  static_assert(C.block_bytes >= kValues * 2, "a cache block holds k and v of at least one layer");

  static_assert(C.values == 0 || C.values >= C.heads, "a row begins with the queries");

  // qkv f32 [tokens, stride]: heads of q, k and v, where there are k and v; q_norm, k_norm f32 [head_dim] or null;
  // turns [rope_dim / 2]; cache: this layer's part of block 0.
  static __device__ __forceinline__ void run(float* qkv, const float* q_norm, const float* k_norm,
                                             const std::uint64_t* turns, std::uint8_t* cache,
                                             const std::int32_t* table, const std::int32_t* positions,
                                             const std::int32_t* input) {
    const int token = block_index();
    if (token >= input[1]) return;
    const int slot = input[0];
    const int position = positions[slot] + token;
    auto* rotation = reinterpret_cast<float2*>(shared_memory());  // cosine, sine
    if (thread_index() < Pairs::kTurned) rotation[thread_index()] = Pairs::angle(turns, thread_index(), position);
    block_sync();

    const int block = table[slot * C.table_blocks + position / kCacheTokens];
    std::uint8_t* keys = cache + static_cast<std::size_t>(block) * C.block_bytes + position % kCacheTokens * Row::kBytes;
    float* line = qkv + static_cast<std::size_t>(token) * C.stride;
    for (int head = warp_index(); head < kHeads; head += kWarps) {
      const int key = head - C.heads;
      const int value = key - C.kv_heads;
      if (key < 0) {
        rotate_query(line + head * C.head_dim, q_norm, rotation);
      } else if (value < 0) {
        append_key(line + head * C.head_dim, k_norm, rotation, position, keys + key * kHeadBytes);
      } else {
        append_value(line + (C.values + value) * C.head_dim, position, keys + kValues + value * kHeadBytes);
      }
    }
  }

 private:
  static __device__ __forceinline__ void rotate(const float* x, const float* norm, const float2* rotation,
                                                float2 (&out)[kLanePairs]) {
    float squares = 0;
#pragma unroll
    for (int i = 0; i < kLanePairs; i++) {
      const int p = lane_index() + i * kWarp;
      out[i] = p < kPairs ? make_float2(x[Pairs::first(p)], x[Pairs::second(p)]) : make_float2(0, 0);
      squares = fma(out[i].x, out[i].x, fma(out[i].y, out[i].y, squares));
    }
    float factor = 1.0f;
    if constexpr (C.qk_norm) factor = norm_factor(squares);
#pragma unroll
    for (int i = 0; i < kLanePairs; i++) {
      const int p = lane_index() + i * kWarp;
      if (p >= kPairs) continue;
      if constexpr (C.qk_norm) {
        out[i].x *= norm[Pairs::first(p)] * factor;
        out[i].y *= norm[Pairs::second(p)] * factor;
      }
      if (Pairs::turns(p)) out[i] = rotate_pair(out[i], rotation[p]);
    }
  }

  static __device__ __forceinline__ void rotate_query(float* x, const float* norm, const float2* rotation) {
    float2 out[kLanePairs];
    rotate(x, norm, rotation, out);
#pragma unroll
    for (int i = 0; i < kLanePairs; i++) {
      const int p = lane_index() + i * kWarp;
      if (p >= kPairs) continue;
      x[Pairs::first(p)] = out[i].x * C.scale;
      x[Pairs::second(p)] = out[i].y * C.scale;
    }
  }

  static __device__ __forceinline__ void append_key(const float* x, const float* norm, const float2* rotation,
                                                    int position, std::uint8_t* key) {
    float2 out[kLanePairs];
    rotate(x, norm, rotation, out);
#pragma unroll
    for (int i = 0; i < kLanePairs; i++) {
      const int p = lane_index() + i * kWarp;
      if (p >= kPairs) continue;
      *reinterpret_cast<std::uint16_t*>(key + Row::element(position, Pairs::first(p))) = float_to_half(out[i].x);
      *reinterpret_cast<std::uint16_t*>(key + Row::element(position, Pairs::second(p))) = float_to_half(out[i].y);
    }
  }

  static __device__ __forceinline__ void append_value(const float* x, int position, std::uint8_t* value) {
    float factor = 1.0f;
    if constexpr (C.v_norm) {
      float squares = 0;
      for (int d = lane_index(); d < C.head_dim; d += kWarp) squares = fma(x[d], x[d], squares);
      factor = norm_factor(squares);
    }
    for (int p = lane_index(); p < kPairs; p += kWarp) {
      float2 v = reinterpret_cast<const float2*>(x)[p];
      if constexpr (C.v_norm) v = make_float2(v.x * factor, v.y * factor);
      *reinterpret_cast<std::uint32_t*>(value + Row::element(position, 2 * p)) = floats_to_half2(v.x, v.y);
    }
  }

  // 1 / rms of a head, from this lane's sum of squares.
  static __device__ __forceinline__ float norm_factor(float squares) {
    return rsqrt_fast(fma(warp_sum(squares), 1.0f / static_cast<float>(C.head_dim), C.eps));
  }
};

}  // namespace imp
