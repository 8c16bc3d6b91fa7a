// What latent attention reads of a token, but for the products of its heads: of every query the part that turns comes first,
// of the one key the part that turns, then the normed latent. One CTA for each token.
#pragma once
#include "imp/layout/tile.h"
#include "imp/stage/exchange.h"
#include "imp/stage/rows.h"

namespace imp {

struct LatentRowConfig {
  int heads;
  int turned;  // elements of a head that turn
  int latent;
  int threads;
  int q_stride;    // floats from one token to the next, of what is read of q
  int kv_stride;   // of the key and the latent
  int out_stride;  // and of what is made
  float eps;
};

template <LatentRowConfig C>
struct LatentRow {
  static constexpr int kThreads = C.threads;
  static constexpr int kWarps = C.threads / kWarp;
  static constexpr int kSharedBytes = round_up(kWarps * 4, 16);
  static constexpr int kHeadDim = C.turned + C.latent;

  struct Args {
    const float* turned;     // of q, [tokens, heads, turned]
    const float* key;        // [tokens, turned]
    const float* latent;     // [tokens, latent]
    const float* norm;       // [latent]
    const StepHeader* step;  // null for one token
    float* q;                // [tokens, heads, turned + latent]
    float* k;                // [tokens, turned + latent]
  };
  static __device__ __forceinline__ void run(const Args& a) {
    grid_launch_next();
    const int t = block_index();
    if (a.step != nullptr && t >= a.step->rows) return;
    grid_wait();
    const float* turned = a.turned + static_cast<std::size_t>(t) * C.q_stride;
    const float* key = a.key + static_cast<std::size_t>(t) * C.kv_stride;
    const float* latent = a.latent + static_cast<std::size_t>(t) * C.kv_stride;
    float* q = a.q + static_cast<std::size_t>(t) * C.out_stride;
    float* k = a.k + static_cast<std::size_t>(t) * C.out_stride;
    float squares = 0;
    for (int i = thread_index(); i < C.latent; i += C.threads) squares = fma(latent[i], latent[i], squares);
    squares = warp_sum(squares);
    auto* sums = reinterpret_cast<float*>(shared_memory());
    if (lane_index() == 0) sums[warp_index()] = squares;
    for (int i = thread_index(); i < C.heads * C.turned; i += C.threads) {
      q[i / C.turned * kHeadDim + i % C.turned] = turned[i];
    }
    for (int i = thread_index(); i < C.turned; i += C.threads) k[i] = key[i];
    block_sync();
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; w++) total += sums[w];
    const float factor = rsqrt_fast(fma(total, 1.0f / static_cast<float>(C.latent), C.eps));
    for (int i = thread_index(); i < C.latent; i += C.threads) {
      k[C.turned + i] = untagged(latent[i] * factor * a.norm[i]);
    }
  }
};

}  // namespace imp
