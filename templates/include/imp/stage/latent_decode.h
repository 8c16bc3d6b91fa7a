// Latent attention of one token, or of several, each over its sequence's cache: RoPE of its heads, append of the one key that all
// of them share, and attention over a split's blocks, which a CTA takes for up to 16 heads at once. Splits leave their parts to
// latent_merge.h, as one CTA would be busy with them for longer than all are with the cache.
#pragma once
#include "imp/stage/attention_core.h"
#include "imp/stage/latent_tile.h"
#include "imp/stage/ring.h"
#include "imp/stage/rows.h"

namespace imp {

// What a split leaves of a query: output, maximum, sum, in whole words of 16 bytes.
constexpr int latent_part(int latent) { return latent + 4; }

// `Slots`: blocks that four warps have on their way. `Tokens`: at most; `Stride`: floats from one token's heads to those of the next.
template <AttentionConfig C, class Row, int Slots, int Tokens = 1, int Stride = 0>
struct LatentDecode {
  static constexpr int kQueries = attention_group(C.heads, 16);
  using Tile = LatentTile<Row, C.latent, kQueries>;
  static constexpr int kTeams = C.warps / Tile::kWarps;
  // Scores lie where the queries were: two blocks' of each team, so that nobody writes what others still read.
  static constexpr int kScoresBytes = 2 * kTeams * Tile::kScoresBytes;
  using Core = AttentionCore<C, Row, C.head_dim, kScoresBytes>;
  using Ring = WarpRing<kTeams, Slots, Core::kTileBytes, Tile::kWarps>;
  static constexpr int kThreads = Core::kThreads;
  static constexpr int kPart = latent_part(C.latent);
  static constexpr int kOutputs = kQueries * C.latent;  // of a CTA
  static constexpr int kSharedBytes = Ring::kSharedBytes + Core::kNew + Row::kRowBytes;
  static_assert(C.latent > 0 && C.values == C.heads, "keys and values are one row");
  static_assert(C.kv_heads == 1 && C.window == 0 && C.soft_cap == 0 && !C.sinks, "all heads share all keys, with plain scores");
  static_assert(!C.qk_norm && !C.v_norm, "an earlier kernel has normed the latent");
  static_assert(C.warps % Tile::kWarps == 0, "four warps share a block");
  static_assert(kQueries * kPart * 4 <= Slots * Core::kTileBytes, "a team's part lies where its blocks were");

  struct Args {
    const float* qkv;  // [tokens]: heads of q, and k, [head_dim] each
    const std::uint64_t* turns;
    std::uint8_t* cache;  // this layer's part of block 0
    const StepRow* rows;
    const std::int32_t* positions;
    const std::int32_t* table;  // its group's entries
    float* partial;             // [tokens, items, splits, queries, part]
    const StepHeader* step = nullptr;  // of several tokens
  };

  static __device__ __forceinline__ void run(const Args& args) {
    grid_launch_next();
    const int token = block_index_y() / Core::kItems;
    const int item = block_index_y() % Core::kItems;
    if (Tokens > 1 && token >= args.step->rows) return;
    const StepRow row = Tokens > 1 ? args.rows[token] : StepRow{args.rows[0].slot, 0, 0, 0};
    const int position = args.positions[row.slot] + row.offset;
    const int split = block_index();
    const AttentionShare share = AttentionShare::of<C>(position, 0);
    if (split >= share.active) return;  // the CTAs that work wait for the kernel before this one
    std::uint8_t* shared = shared_memory();
    std::uint8_t* core = shared + Ring::kSharedBytes;
    const std::int32_t* table = args.table + row.slot * (C.table_blocks * C.block_groups);
    const typename Core::Args a{nullptr, nullptr, args.cache, table};
    const int begin = share.begin(split);
    const int end = share.end(split, C.block_tokens);
    // What earlier steps left in the cache, and the angles, need not wait for this step's q and k.
    Fetch fetch(shared, a, begin + team(), end, position);
    const typename Core::LaneAngles angles(args.turns, position);
    grid_wait();
    const bool append = end * C.block_tokens > position;
    const PlainInput qkv{args.qkv + static_cast<std::size_t>(token) * Stride};
    Core::prepare(a, qkv, angles, item, position, append, core);
    block_sync();
    Tile tile(core);
    block_sync();
    if (begin + team() < end) walk(position, begin + team(), end, fetch, tile, shared);
    block_sync();
    const int used = end - begin < kTeams ? end - begin : kTeams;
    const std::size_t first = static_cast<std::size_t>(token) * Core::kItems + item;
    for (int i = thread_index(); i < kOutputs; i += kThreads) {
      const int g = i / C.latent;
      const int d = i % C.latent;
      const auto m = merge_teams(shared, used, g, d);
      float* part = args.partial + ((first * C.splits + split) * kQueries + g) * kPart;
      part[d] = m.value;
      if (d == 0) {
        part[C.latent] = m.largest;
        part[C.latent + 1] = m.total;
      }
    }
  }

 private:
  static __device__ __forceinline__ int team() { return warp_index() / Tile::kWarps; }
  static __device__ __forceinline__ void team_sync() { named_sync(1 + team(), Tile::kWarps * kWarp); }

  // The team's blocks through its ring.
  struct Fetch {
    Ring ring;
    const typename Core::Args& a;
    int next;
    int end;
    int position;
    __device__ __forceinline__ Fetch(std::uint8_t* shared, const typename Core::Args& args, int first, int last, int step)
        : ring(shared), a(args), next(first), end(last), position(step) {
      for (int s = 0; s < Slots; s++) fill();
    }
    __device__ __forceinline__ void fill() {
      if (next >= end) return;
      const auto piece = Core::written(Core::tile(a, 0, next), next * C.block_tokens, position);
      ring.fill(piece.data, piece.bytes);
      next += kTeams;
    }
  };

  // One team's blocks first, first + teams, ...; its part of the output then lies where its blocks were.
  static __device__ __forceinline__ void walk(int position, int first, int end, Fetch& fetch, Tile& tile,
                                              std::uint8_t* shared) {
    std::uint8_t* core = shared + Ring::kSharedBytes;
    std::uint8_t* scores = core + 2 * team() * Tile::kScoresBytes;
    bool second = false;
    for (int block = first; block < end; block += kTeams) {
      const int left = position + 1 - block * C.block_tokens;
      const int count = left < C.block_tokens ? left : C.block_tokens;
      const WholeTile<Row> rows{const_cast<std::uint8_t*>(fetch.ring.take())};
      if (left <= C.block_tokens) {
        if (Tile::part() == 0) {
          Core::clear_after(rows, count);
          Core::insert(rows, position, core + Core::kNew);
        }
        team_sync();
      }
      std::uint8_t* own = scores + (second ? Tile::kScoresBytes : 0);
      tile.multiply(rows, own);
      team_sync();
      if (block != first) fetch.fill();  // nobody reads the block before any more
      tile.add(rows, own, count);
      fetch.ring.release();
      second = !second;
    }
    team_sync();
    tile.store({part_of(shared, team()), kQueries, kPart});
  }

  static __device__ __forceinline__ float* part_of(std::uint8_t* shared, int team) {
    return reinterpret_cast<float*>(shared + team * Slots * Core::kTileBytes);
  }
  // Query g, column d, of the CTA's first `used` teams, in order.
  static __device__ __forceinline__ typename Core::Merged merge_teams(std::uint8_t* shared, int used, int g, int d) {
    return Core::merge(used, [&](int first, typename Core::Parts& parts) {
#pragma unroll
      for (int i = 0; i < Core::kMergeWidth; i++) {
        if (first + i >= used) continue;
        const float* part = part_of(shared, first + i) + g * kPart;
        parts.value[i] = part[d];
        parts.largest[i] = part[C.latent];
        parts.total[i] = part[C.latent + 1];
      }
    });
  }
};

}  // namespace imp
