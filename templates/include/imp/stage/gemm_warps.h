// Products of panels by warps: see gemm_panels.h. Each warp has some of a tile's rows and of its tokens, one more has panels
// copied; none waits for all.
#pragma once
#include "imp/stage/gemm_panels.h"

namespace imp {

struct MmaConfig {
  int cols;          // K
  int tokens;        // of a full chunk
  int block_tokens;  // of a tile
  int stride;        // floats from one token of y to the next
  int offset;        // y's first column
  bool accumulate;   // y += (the residual stream) instead of y =
  unsigned biased;   // bits of the matrices that have a bias
  float scale;       // of the sums, their bias included
  float cap;         // soft cap; 0: none
  int warps;         // that multiply
  int token_warps;   // of them, that share a tile's rows, each with its part of the tokens
  int row_tiles;     // 16 rows each, of a warp
  int stages;        // panels in shared memory
  bool half_sums;    // of a panel, of halfs
  bool paired = false;  // y = F(first matrix's) * second one's
  int experts = 0;      // of each matrix; 0: it is none of experts
  int used = 0;         // of them, by a token
  bool halves = false;  // as GemmPanels has them, of which there is no case
};

constexpr int mma_rows(MmaConfig c) { return c.warps / c.token_warps * c.row_tiles * 16; }  // of a tile

// `Kernel` and `Order` as GemmPanels has them.
template <class Kernel, class Order, MmaConfig C, class... Ms>
struct GemmWarps : GemmPanels<Kernel, Order, C, mma_rows(C), Ms...> {
  using Base = GemmPanels<Kernel, Order, C, mma_rows(C), Ms...>;
  using typename Base::Args;
  using Base::kBytes;
  static constexpr int kWarps = C.warps;
  static constexpr int kThreads = (kWarps + 4) * kWarp;  // registers are given to four warps at a time
  static constexpr int kTokens = C.block_tokens / C.token_warps;  // of a warp
  static constexpr int kColumns = kTokens / 8;                    // tensor-core tiles of them
  // A multiprocessor has 64K registers, of which those that only copy leave the others theirs.
  static constexpr int kIdle = 24;
  static constexpr int kRegisters = (65536 / kThreads / 8 * 8 * kThreads - 4 * kWarp * kIdle) / (kWarps * kWarp) / 8 * 8;
  using Ring = PanelRing<kBytes, C.stages, kWarps>;
  static constexpr int kSharedBytes = Ring::kSharedBytes;
  static_assert(kWarps % C.token_warps == 0 && C.block_tokens % (8 * C.token_warps) == 0, "warps share tokens evenly");

  static __device__ __forceinline__ void run(const Args& a) {
    Ring ring(shared_memory());
    grid_launch_next();
    if (thread_index() == 0) ring.prepare();
    block_sync();
    if (warp_index() >= kWarps) {
      registers_keep<kIdle>();
      if (warp_index() == kWarps) Base::fetch_tiles(a, ring);
    } else {
      registers_take<kRegisters>();
      Base::multiply_tiles(a, ring);
    }
  }
};

}  // namespace imp
