// Attention over the paged cache, of one token, or of several, whose sequences' cache holds all but the own one of each, as a
// kernel: QK-norm and RoPE of
// its heads, append to the cache, split-KV attention, and the merge of the splits by whichever CTA comes last. Splits depend on
// a sequence's own length alone.
//
// Where a product reads what is attended to, it is left as halfs, too, in the product's order, and the row's factor is one: of what
// lies in the cache as halfs a weighted mean is no larger than the largest.
#pragma once
#include <type_traits>

#include "imp/stage/attention_core.h"
#include "imp/stage/ring.h"
#include "imp/stage/rows.h"

namespace imp {

// `Tokens`: at most; `Stride`: floats from one token's heads to those of the next. `Order`: of the halfs; void: there are none.
template <AttentionConfig C, class Row, int Slots, int Tokens = 1, int Stride = 0, class Order = void>
struct AttentionDecode {
  using Core = AttentionCore<C, Row>;
  using Ring = WarpRing<C.warps, Slots, Core::kTileBytes>;
  static constexpr int kThreads = Core::kThreads;
  static constexpr int kColumns = C.head_dim;  // of a head's result
  static constexpr int kFlag = Ring::kSharedBytes + Core::kSharedBytes;
  static constexpr int kSharedBytes = kFlag + 16;
  static_assert(C.latent == 0, "what is both key and value has a stage of its own");
  static_assert(Slots >= 2, "a block's keys and values are in flight together");

  struct Args {
    const float* qkv;  // [tokens]: heads of q, k and v, where there are k and v, [head_dim] each
    const float* q_norm;
    const float* k_norm;
    const std::uint64_t* turns;
    std::uint8_t* cache;  // this layer's part of block 0
    const StepRow* rows;
    const std::int32_t* positions;
    const std::int32_t* table;  // its group's entries
    float* partial;
    std::uint32_t* arrived;  // [tokens, items], zero between launches
    float* out;              // [tokens, heads, columns]
    const StepHeader* step = nullptr;  // of several tokens
    const float* sinks = nullptr;      // [heads]
    std::uint8_t* halfs = nullptr;     // [tokens, heads * columns], in Order
    float* factors = nullptr;          // [tokens]: what they are to be multiplied with
  };

  static __device__ __forceinline__ void run(const Args& args) {
    grid_launch_next();
    if constexpr (Tokens == 1) {
      attend(args, {args.rows[0].slot, 0, 0, 0}, 0, block_index_y());
    } else {
      const int token = block_index_y() / Core::kItems;
      if (token >= args.step->rows) return;
      Args of = args;
      of.qkv += token * Stride;
      of.partial += static_cast<std::size_t>(token) * Core::kItems * C.splits * Core::kGroup * Core::kPart;
      of.arrived += token * Core::kItems;
      of.out += token * (C.heads * kColumns);
      attend(of, args.rows[token], token, block_index_y() % Core::kItems);
    }
  }

 private:
  static __device__ __forceinline__ void attend(const Args& args, const StepRow& row, int token, int item) {
    const int slot = row.slot;
    const int position = args.positions[slot] + row.offset;
    const int split = block_index();
    const AttentionShare share = AttentionShare::of<C>(position, C.window);
    if (split >= share.active) return;  // the CTAs that work wait for the kernel before this one
    std::uint8_t* shared = shared_memory();
    std::uint8_t* core = shared + Ring::kSharedBytes;
    const typename Core::Args a{args.q_norm, args.k_norm, args.cache, args.table + slot * (C.table_blocks * C.block_groups)};
    const int begin = share.begin(split);
    const int end = share.end(split, C.block_tokens);
    // What earlier steps left in the cache, and the angles, need not wait for this step's q, k and v; what an earlier kernel
    // of this step has appended must.
    if constexpr (C.values == 0) grid_wait();
    Fetch fetch(shared, a, item / Core::kShares, begin + warp_index(), end, position);
    const typename Core::LaneAngles angles(args.turns, position);
    if constexpr (C.values > 0) grid_wait();
    const bool append = C.values > 0 && end * C.block_tokens > position;
    const PlainInput qkv{args.qkv};
    typename Core::Factors factors;
    if constexpr (C.whole_norm) factors = Core::whole_factors(qkv, core);
    Core::prepare(a, qkv, angles, item, position, append, core, factors);
    block_sync();
    Core::walk(position, C.window, begin + warp_index(), end, fetch, core);
    block_sync();

    const int used = end - begin < C.warps ? end - begin : C.warps;
    if (share.active == 1) {
      for (int i = thread_index(); i < Core::kGroup * kColumns; i += kThreads) {
        const auto m = Core::merge_warps(core, used, i / kColumns, i % kColumns);
        leave(args, token, item, i, m);
      }
      return;
    }
    for (int i = thread_index(); i < Core::kGroup * kColumns; i += kThreads) {
      const int g = i / kColumns;
      const int d = i % kColumns;
      const auto m = Core::merge_warps(core, used, g, d);
      float* partial = partial_of(args, item, split, g);
      partial[d] = m.value;
      if (d == 0) {
        partial[kColumns] = m.largest;
        partial[kColumns + 1] = m.total;
      }
    }
    if (last_to_arrive(args, shared, item, share.active)) merge(args, token, item, share.active);
  }

  // The warp's blocks through its ring: keys and values in turn, as many in flight as there are slots.
  struct Fetch {
    Ring ring;
    const typename Core::Args& a;
    int head;
    int next;
    int end;
    int position;
    bool values = false;  // is what comes next
    __device__ __forceinline__ Fetch(std::uint8_t* shared, const typename Core::Args& args, int kv_head, int first,
                                     int last, int step)
        : ring(shared), a(args), head(kv_head), next(first), end(last), position(step) {
      for (int s = 0; s < Slots; s++) fill();
    }
    __device__ __forceinline__ WholeTile<Row> take() { return {const_cast<std::uint8_t*>(ring.take())}; }
    __device__ __forceinline__ void release() {
      ring.release();
      fill();
    }
    __device__ __forceinline__ void fill() {
      if (next >= end) return;
      const std::uint8_t* tile = Core::tile(a, head, next) + (values ? Core::kValues : 0);
      const auto piece = Core::written(tile, next * C.block_tokens, position);
      ring.fill(piece.data, piece.bytes);
      next += values ? C.warps : 0;
      values = !values;
    }
  };

  static __device__ __forceinline__ float* partial_of(const Args& a, int item, int split, int g) {
    return a.partial + ((item * C.splits + split) * Core::kGroup + g) * Core::kPart;
  }

  static __device__ __forceinline__ bool last_to_arrive(const Args& a, std::uint8_t* shared, int item, int active) {
    auto* flag = reinterpret_cast<std::uint32_t*>(shared + kFlag);
    fence_gpu();
    block_sync();
    if (thread_index() == 0) {
      *flag = atomic_add(a.arrived + item, 1u) == static_cast<std::uint32_t>(active - 1);
      fence_gpu();
    }
    block_sync();
    if (*flag == 0) return false;
    if (thread_index() == 0) a.arrived[item] = 0;
    return true;
  }

  // Splits in order: the result does not depend on which CTA does this.
  static __device__ __forceinline__ void merge(const Args& a, int token, int item, int active) {
    for (int i = thread_index(); i < Core::kGroup * kColumns; i += kThreads) {
      const auto m = Core::merge(active, [&](int first, typename Core::Parts& parts) {
#pragma unroll
        for (int s = 0; s < Core::kMergeWidth; s++) {
          if (first + s >= active) continue;
          const float* partial = partial_of(a, item, first + s, i / kColumns);
          parts.value[s] = load_fresh(partial + i % kColumns);
          parts.largest[s] = load_fresh(partial + kColumns);
          parts.total[s] = load_fresh(partial + kColumns + 1);
        }
      });
      leave(a, token, item, i, m);
    }
  }

  // Element i of the item's heads.
  static __device__ __forceinline__ void leave(const Args& a, int token, int item, int i, const typename Core::Merged& m) {
    const int column = item * Core::kGroup * kColumns + i;
    const float value = untagged(Core::output(m, a.sinks, column / kColumns));
    a.out[column] = value;
    if constexpr (!std::is_void_v<Order>) {
      Order::store(a.halfs, round_up(Tokens, 8), token, column, value);
      if (column == 0) a.factors[token] = 1.0f;
    }
  }
};

}  // namespace imp
