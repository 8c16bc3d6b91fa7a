// What the splits of latent attention have left becomes the heads' outputs: a CTA for 128 columns of a head. Splits are added up
// in an order that depends on their number alone.
#pragma once
#include "imp/stage/attention_core.h"
#include "imp/stage/latent_decode.h"

namespace imp {

template <AttentionConfig C, int Tokens = 1>
struct LatentMerge {
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kColumns = 128;  // of a CTA, four a lane
  static constexpr int kSlices = ceil_div(C.latent, kColumns);
  static constexpr int kQueries = attention_group(C.heads, 16);
  static constexpr int kPart = latent_part(C.latent);
  static constexpr int kWeights = round_up(C.splits * 4, 16);  // a float of each split
  static constexpr int kWarpSums = kWarps * kColumns * 4;
  static constexpr int kSharedBytes = kWeights + kWarpSums + 2 * kWarps * 4;

  struct Args {
    const float* partial;  // [tokens, items, splits, queries, part]
    const StepRow* rows;
    const std::int32_t* positions;
    float* out;  // [tokens, heads, latent]
    const StepHeader* step = nullptr;  // of several tokens
  };

  static __device__ __forceinline__ void run(const Args& args) {
    grid_launch_next();
    const int token = block_index_y();
    if (Tokens > 1 && token >= args.step->rows) return;
    const StepRow row = Tokens > 1 ? args.rows[token] : StepRow{args.rows[0].slot, 0, 0, 0};
    const int active = AttentionShare::of<C>(args.positions[row.slot] + row.offset, 0).active;
    const int head = block_index() / kSlices;
    const int column = block_index() % kSlices * kColumns + lane_index() * 4;
    const std::size_t item = static_cast<std::size_t>(token) * (C.heads / kQueries) + head / kQueries;
    const float* first = args.partial + (item * C.splits * kQueries + head % kQueries) * kPart;
    std::uint8_t* shared = shared_memory();
    auto* weights = reinterpret_cast<float*>(shared);
    auto* sums = reinterpret_cast<float4*>(shared + kWeights);
    auto* of_warps = reinterpret_cast<float*>(shared + kWeights + kWarpSums);
    grid_wait();
    float largest = kLeast;
    for (int s = thread_index(); s < active; s += kThreads) largest = max(largest, part(first, s)[C.latent]);
    largest = warp_max(largest);
    if (lane_index() == 0) of_warps[warp_index()] = largest;
    block_sync();
#pragma unroll
    for (int w = 0; w < kWarps; w++) largest = max(largest, of_warps[w]);
    float total = 0;
    for (int s = thread_index(); s < active; s += kThreads) {
      const float weight = exp2_fast(part(first, s)[C.latent] - largest);
      weights[s] = weight;
      total = fma(weight, part(first, s)[C.latent + 1], total);
    }
    total = warp_sum(total);
    if (lane_index() == 0) of_warps[kWarps + warp_index()] = total;
    block_sync();
    float4 sum = make_float4(0, 0, 0, 0);
    if (column < C.latent) {
#pragma unroll 8
      for (int s = warp_index(); s < active; s += kWarps) {
        const float4 v = *reinterpret_cast<const float4*>(part(first, s) + column);
        const float weight = weights[s];
        sum = make_float4(fma(weight, v.x, sum.x), fma(weight, v.y, sum.y), fma(weight, v.z, sum.z), fma(weight, v.w, sum.w));
      }
    }
    sums[thread_index()] = sum;
    block_sync();
    if (warp_index() != 0 || column >= C.latent) return;
    total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; w++) total += of_warps[kWarps + w];
#pragma unroll
    for (int w = 1; w < kWarps; w++) {
      const float4 more = sums[w * kWarp + lane_index()];
      sum = make_float4(sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w);
    }
    float* out = args.out + (static_cast<std::size_t>(token) * C.heads + head) * C.latent + column;
    const float values[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int i = 0; i < 4; i++) out[i] = untagged(divide_fast(values[i], total));
  }

 private:
  static constexpr float kLeast = TileSoftmax<false, 0.0f>::kMasked;
  static __device__ __forceinline__ const float* part(const float* first, int split) {
    return first + static_cast<std::size_t>(split) * kQueries * kPart;
  }
};

}  // namespace imp
