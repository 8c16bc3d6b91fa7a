// Tiles of keys and values on their way from the paged cache to shared memory, which has two of each; all threads copy.
#pragma once
#include "imp/layout/cache.h"
#include "imp/layout/tile.h"
#include "imp/stage/attention_queries.h"

namespace imp {

template <AttentionPrefillConfig C, class Row>
struct AttentionCopies {
  using Products = AttentionProducts<C>;
  static constexpr int kTileKeys = Products::kTileKeys;
  static constexpr int kTileBytes = Products::kTileBytes;
  static constexpr int kThreads = C.groups * Products::kParts * kWarp;
  static constexpr int kHeadBytes = kCacheTokens * Row::kRowBytes;
  static constexpr int kChunks = C.head_dim / 8;                           // of a row
  static constexpr int kCopies = ceil_div(kTileKeys * kChunks, kThreads);  // of a thread
  static constexpr int kBufferBytes = 2 * kTileBytes;                      // keys, values
  static constexpr int kSharedBytes = 2 * kBufferBytes;
  static_assert(Row::kHeadDim == C.head_dim, "the cache has other heads");

  const std::uint8_t* head_cache;  // the kv head's part of block 0
  const std::int32_t* blocks;      // the sequence's entries
  int seen;                        // positions from here on, by one of the queries
  int end;                         // the first position that none of them sees

  // A tile's keys, and values behind them. Those that no query sees, or that nothing has written yet, are zeros: an old value
  // times weight 0 could still be NaN.
  __device__ __forceinline__ void copy(int tile, std::uint8_t* to) const {
    const int first = tile * kTileKeys;
    const int begin = seen, behind = end;  // known before either is asked for
    if (first + kTileKeys <= behind && (C.window == 0 || first >= begin)) {
      copy_rows<true>(first, 0, kTileKeys, to);
    } else {
      copy_rows<false>(first, begin - first, behind - first, to);
    }
    cp_async_commit();
  }
  // What has been asked for has come, of all threads, and these are done with the tile before it.
  static __device__ __forceinline__ void wait() {
    cp_async_wait<0>();
    Products::landed();
    block_sync();
  }

 private:
  // Of a tile's rows all, or those from `begin` on, before `end`. Where threads copy whole rows side by side, the compiler knows in
  // which block each of a thread's rows lies.
  template <bool All>
  __device__ __forceinline__ void copy_rows(int first, int begin, int end, std::uint8_t* buffer) const {
    constexpr bool kWhole = kThreads % kChunks == 0;
    constexpr int kPass = kThreads / kChunks;  // rows
    constexpr bool kWithin = kWhole && kCacheTokens % kPass == 0;
#pragma unroll
    for (int i = 0; i < kCopies; i++) {
      const int own = thread_index() / kChunks;
      const int row = kWhole ? own + i * kPass : (thread_index() + i * kThreads) / kChunks;
      const int chunk = (kWhole ? thread_index() : thread_index() + i * kThreads) % kChunks;
      if (kTileKeys * kChunks % kThreads != 0 && row >= kTileKeys) break;
      std::uint8_t* to = buffer + Products::place(row, chunk);
      if (All || (row < end && (C.window == 0 || row >= begin))) {
        const int block = kWithin ? i * kPass / kCacheTokens : row / kCacheTokens;
        const int position = kWithin ? own + i * kPass % kCacheTokens : row % kCacheTokens;
        const std::uint8_t* from =
            head_cache + static_cast<std::size_t>(blocks[(first / kCacheTokens + block) * C.block_groups]) * C.block_bytes;
        from += Row::place(position, chunk);
        Row::fetch(to, from, chunk);
        Row::fetch(to + kTileBytes, from + C.kv_heads * kHeadBytes, chunk);
      } else {
        *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0);
        *reinterpret_cast<uint4*>(to + kTileBytes) = make_uint4(0, 0, 0, 0);
      }
    }
  }
};

}  // namespace imp
