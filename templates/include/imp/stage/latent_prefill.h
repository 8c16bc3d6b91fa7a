// Latent attention of several rows over the cache, which already holds their own. Two tokens that follow one another in a
// sequence, each with up to 16 heads, share the blocks that a CTA streams; four warps take one of them. Softmax weights are rounded to
// f16, as those of other prompts are (attention_prefill.h). A token goes through all blocks before it, in order, so its result depends
// on its position alone.
#pragma once
#include "imp/stage/attention_core.h"
#include "imp/stage/latent_tile.h"
#include "imp/stage/ring.h"
#include "imp/stage/rows.h"

namespace imp {

// `Slots`: blocks on their way; `Stride`: floats from one row's queries to those of the next.
template <AttentionConfig C, class Row, int Slots, int Stride>
struct LatentPrefill {
  static constexpr int kQueries = attention_group(C.heads, 16);
  static constexpr int kItems = C.heads / kQueries;
  using Tile = LatentTile<Row, C.latent, kQueries, true>;
  using Core = AttentionCore<C, Row>;
  static constexpr int kTokens = C.warps / Tile::kWarps;  // of a CTA
  using Ring = WarpRing<1, Slots, Core::kTileBytes, C.warps>;
  static constexpr int kThreads = Core::kThreads;
  static constexpr int kSharedBytes = Ring::kSharedBytes + 2 * kTokens * Tile::kScoresBytes;  // of two blocks
  static_assert(C.latent > 0 && C.values == 0, "an earlier kernel has appended what is both key and value");
  static_assert(C.kv_heads == 1 && C.window == 0 && C.soft_cap == 0 && !C.sinks, "all heads share all keys, with plain scores");
  static_assert(Stride % 2 == 0, "queries are read two elements at a time");

  struct Args {
    const float* q;       // [rows, stride]: heads of head_dim each, turned and scaled
    std::uint8_t* cache;  // this layer's part of block 0
    const std::int32_t* positions;
    const std::int32_t* table;  // its group's entries
    float* out;                 // [rows, heads, latent]
    const StepHeader* step;
    const StepSequence* sequences;
  };

  static __device__ __forceinline__ void run(const Args& args) {
    grid_launch_next();
    int item = block_index();
    const int sequences = args.step->sequences;
    grid_wait();
    for (int i = 0; i < sequences; i++) {
      const StepSequence s = args.sequences[i];
      const int tiles = (s.rows + kTokens - 1) / kTokens;
      if (item < tiles) {
        attend(args, s, (tiles - 1 - item) * kTokens);  // the longest first
        return;
      }
      item -= tiles;
    }
  }

 private:
  // Tokens of the sequence from its row `first` on.
  static __device__ __forceinline__ void attend(const Args& args, const StepSequence& s, int first) {
    std::uint8_t* shared = shared_memory();
    const typename Core::Args a{nullptr, nullptr, args.cache, args.table + s.slot * (C.table_blocks * C.block_groups)};
    const int start = args.positions[s.slot] + first;
    const int team = warp_index() / Tile::kWarps;
    const int last = start + min(kTokens, s.rows - first) - 1;  // position
    const int end = last / C.block_tokens + 1;
    Ring ring(shared);
    int next = 0;
    const auto fill = [&] {
      if (next >= end) return;
      const auto piece = Core::written(Core::tile(a, 0, next), next * C.block_tokens, last);
      ring.fill(piece.data, piece.bytes);
      next++;
    };
    for (int slot = 0; slot < Slots; slot++) fill();
    const int token = s.first + first + min(team, last - start);  // a team without one does the last one's work
    Tile tile(args.q + static_cast<std::size_t>(token) * Stride + block_index_y() * kQueries * C.head_dim);
    block_sync();  // the ring is ready
    std::uint8_t* scores = shared + Ring::kSharedBytes + 2 * team * Tile::kScoresBytes;
    for (int block = 0; block < end; block++) {
      const WholeTile<Row> rows{const_cast<std::uint8_t*>(ring.take())};
      if (block == end - 1) {
        if (warp_index() == 0) Core::clear_after(rows, last + 1 - block * C.block_tokens);
        block_sync();
      }
      std::uint8_t* own = scores + block % 2 * Tile::kScoresBytes;
      tile.multiply(rows, own);
      block_sync();
      if (block > 0) fill();  // nobody reads the block before any more
      const int left = start + team + 1 - block * C.block_tokens;
      if (left > 0) tile.add(rows, own, min(left, C.block_tokens));
      ring.release();
    }
    if (start + team > last) return;
    const std::size_t query = static_cast<std::size_t>(token) * C.heads + block_index_y() * kQueries;
    tile.finish(args.out + query * C.latent);
  }
};

}  // namespace imp
