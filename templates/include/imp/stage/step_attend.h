// One layer's attention in the step kernel, by the warps that compute. Its blocks come through the CTA's ring; the parts of
// a head that several CTAs have made are handed over as words stamped with the layer and the step that made them, and so is
// the new row of a cache that later layers read: what the step itself has written, no copy of the step would find.
#pragma once
#include "imp/stage/exchange.h"
#include "imp/stage/step_attention.h"
#include "imp/stage/tape.h"

namespace imp {

// `Kernel`: the Step. `Heads`: the layer's StepHeads. `Cta`: the warps that compute.
template <class Kernel, class Heads, class Cta>
struct StepAttend {
  static constexpr AttentionConfig A = Heads::kConfig;
  using Core = typename Heads::Core;
  using Row = typename Heads::Row;
  using Attend = typename Kernel::Attend;
  using Ring = typename Kernel::Ring;
  using To = typename Kernel::Publishes;
  static constexpr int kWarps = Kernel::kWarps;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kOutputs = Core::kGroup * A.head_dim;  // of a CTA
  static constexpr int kRowBytes = Row::kRowBytes;
  static_assert(A.warps <= kWarps, "more warps attend than compute");
  static_assert(!A.whole_norm || A.warps == kWarps, "the warps that attend sum the squares of all heads");

  const typename Kernel::Args& args;
  Ring& ring;
  std::uint8_t* scratch;
  const typename Kernel::Shared& shared;
  int layer;

  struct Angles {
    const float2* angles;
    __device__ __forceinline__ float2 operator()(int, int pair) const { return angles[pair]; }
  };
  // Keys, then values, of each block of this warp, in as many pieces as they have.
  struct Blocks {
    using Rounds = TapeRounds<A.warps, 2 * Heads::kPieces>;
    Ring& ring;
    Rounds rounds;
    int block;
    int k = 0;
    struct Tile {
      const Ring& ring;
      std::uint32_t first;
      int stride;
      __device__ __forceinline__ std::uint8_t* row(int i) const {
        const std::uint32_t piece = first + static_cast<std::uint32_t>(i / Heads::kPieceRows * stride);
        return ring.slot(piece) + i % Heads::kPieceRows * kRowBytes;
      }
    };
    __device__ __forceinline__ Tile take() {
#pragma unroll
      for (int p = 0; p < Heads::kPieces; p++) ring.take(rounds.index(block, k + p));
      return {ring, rounds.index(block, k), rounds.width(block / A.warps)};
    }
    __device__ __forceinline__ void release() {
#pragma unroll
      for (int p = 0; p < Heads::kPieces; p++) ring.release(rounds.index(block, k + p));
      block += k > 0 ? A.warps : 0;
      k = Heads::kPieces - k;
    }
  };

  // `tile`: number of the CTA's next one.
  __device__ __forceinline__ void run(const typename Core::Args& a, const TaggedInput& qkv, const Angles& angles,
                                      const To& to, std::uint32_t& tile) const {
    const int position = shared.position;
    const int window = Attend::window(layer);
    const AttentionShare share = AttentionShare::of<A>(position, window);
    const int items = Core::kItems * share.active;
    for (int item = block_index(); item < items; item += Kernel::kGrid) {
      const int split = item / Core::kItems;
      const int head = item % Core::kItems;
      const int begin = share.begin(split);
      const int end = share.end(split, A.block_tokens);
      Cta::sync();  // the vector that the shared memory held is no longer needed
      prepare(a, qkv, angles, head, position, end * A.block_tokens > position);
      Cta::sync();
      Blocks blocks{ring, {tile, end - begin}, warp_index()};
      if (attends()) Core::walk(position, window, begin + warp_index(), end, blocks, scratch);
      tile += static_cast<std::uint32_t>(blocks.rounds.tiles());
      if constexpr (Attend::kShares) {
        if (end * A.block_tokens > position && head % Core::kShares == 0 && Attend::hands(layer)) hand_on(head / Core::kShares);
      }
      Cta::sync();
      const int used = end - begin < A.warps ? end - begin : A.warps;
      for (int i = thread_index(); i < kOutputs; i += kThreads) {
        const auto m = Core::merge_warps(scratch, used, i / A.head_dim, i % A.head_dim);
        if (share.active == 1) {
          to.put(head * kOutputs + i, Core::output(m, a.sinks, head * Core::kGroup + i / A.head_dim));
        } else {
          publish_partial(head, split, i, m, stamp(layer));
        }
      }
    }
    if (share.active > 1) merge(share.active, a.sinks, to, stamp(layer));
  }

 private:
  static __device__ __forceinline__ bool attends() { return A.warps == kWarps || warp_index() < A.warps; }
  // Of what the layer of that index makes in this step.
  __device__ __forceinline__ std::uint32_t stamp(int index) const { return shared.turn + static_cast<std::uint32_t>(index + 1); }

  // The CTA's queries, and if it takes the last block, the new key and value.
  __device__ __forceinline__ void prepare(const typename Core::Args& a, const TaggedInput& qkv, const Angles& angles, int head,
                                          int position, bool append) const {
    typename Core::Factors factors;
    if constexpr (A.whole_norm) factors = Core::template whole_factors<Cta>(qkv, scratch);
    bool own = append;
    if constexpr (Attend::kShares) {
      if (append && Attend::owner(layer) != layer) {
        own = false;
        take_over(head / Core::kShares);
      }
    }
    if (attends()) Core::prepare(a, qkv, angles, head, position, own, scratch, factors);
  }

  // New rows of layer `owner` and one of its heads, a word of key and value after the other.
  __device__ __forceinline__ std::uint64_t* handed(int owner, int kv_head) const {
    return args.handed + static_cast<std::size_t>(owner) * Attend::kHandedWords + kv_head * Heads::kRowWords;
  }
  __device__ __forceinline__ void hand_on(int kv_head) const {
    const auto* rows = reinterpret_cast<const std::uint32_t*>(scratch + Core::kNew);
    std::uint64_t* words = handed(layer, kv_head);
    for (int i = thread_index(); i < Heads::kRowWords; i += kThreads) {
      store_fresh(words + i, stamped(rows[i], stamp(layer)));
    }
  }
  // The last warps do, which have fewer queries to make.
  __device__ __forceinline__ void take_over(int kv_head) const {
    const int owner = Attend::owner(layer);
    auto* rows = reinterpret_cast<std::uint32_t*>(scratch + Core::kNew);
    const std::uint64_t* words = handed(owner, kv_head);
    for (int i = kThreads - 1 - thread_index(); i < Heads::kRowWords; i += kThreads) {
      std::uint64_t word = load_fresh(words + i);
      Poll poll("the new row of layer", owner);
      while (word >> 32 != stamp(owner)) {
        poll.pause();
        word = load_fresh(words + i);
      }
      rows[i] = static_cast<std::uint32_t>(word);
    }
  }

  __device__ __forceinline__ std::uint64_t* partial_of(int head, int split, int g) const {
    return args.partial + ((head * A.splits + split) * Core::kGroup + g) * Core::kPart;
  }
  static __device__ __forceinline__ std::uint64_t stamped(std::uint32_t word, std::uint32_t stamp) {
    return static_cast<std::uint64_t>(stamp) << 32 | word;
  }
  __device__ __forceinline__ void publish_partial(int head, int split, int i, const typename Core::Merged& m,
                                                  std::uint32_t stamp) const {
    std::uint64_t* words = partial_of(head, split, i / A.head_dim);
    const int d = i % A.head_dim;
    store_fresh(words + d, stamped(float_to_bits(m.value), stamp));
    if (d != 0) return;
    store_fresh(words + A.head_dim, stamped(float_to_bits(m.largest), stamp));
    store_fresh(words + A.head_dim + 1, stamped(float_to_bits(m.total), stamp));
  }
  // The CTAs of a head share its outputs; splits in order, so that the result depends on nothing else.
  __device__ __forceinline__ void merge(int active, const float* sinks, const To& to, std::uint32_t stamp) const {
    const int each = (kOutputs + active - 1) / active;
    for (int item = block_index(); item < Core::kItems * active; item += Kernel::kGrid) {
      const int head = item % Core::kItems;
      const int begin = item / Core::kItems * each;
      const int end = begin + each < kOutputs ? begin + each : kOutputs;
      for (int i = begin + thread_index(); i < end; i += kThreads) {
        const auto m = Core::merge(active, [&](int first, typename Core::Parts& parts) {
          read_partials(head, first, active, i / A.head_dim, i % A.head_dim, stamp, parts);
        });
        to.put(head * kOutputs + i, Core::output(m, sinks, head * Core::kGroup + i / A.head_dim));
      }
    }
  }
  __device__ __forceinline__ void read_partials(int head, int split, int active, int g, int d, std::uint32_t stamp,
                                                typename Core::Parts& parts) const {
    std::uint64_t words[Core::kMergeWidth][3] = {};
    bool old;
    Poll poll("partial results of", head);
    do {
      old = false;
#pragma unroll
      for (int s = 0; s < Core::kMergeWidth; s++) {
        if (split + s >= active) continue;
        const std::uint64_t* partial = partial_of(head, split + s, g);
        words[s][0] = load_fresh(partial + d);
        words[s][1] = load_fresh(partial + A.head_dim);
        words[s][2] = load_fresh(partial + A.head_dim + 1);
      }
#pragma unroll
      for (int s = 0; s < Core::kMergeWidth; s++) {
        if (split + s >= active) continue;
#pragma unroll
        for (int i = 0; i < 3; i++) old |= words[s][i] >> 32 != stamp;
      }
      if (old) poll.pause();
    } while (old);
#pragma unroll
    for (int s = 0; s < Core::kMergeWidth; s++) {
      if (split + s >= active) continue;
      parts.value[s] = bits_to_float(static_cast<std::uint32_t>(words[s][0]));
      parts.largest[s] = bits_to_float(static_cast<std::uint32_t>(words[s][1]));
      parts.total[s] = bits_to_float(static_cast<std::uint32_t>(words[s][2]));
    }
  }
};

}  // namespace imp
