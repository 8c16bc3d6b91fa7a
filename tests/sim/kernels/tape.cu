// How a CTA counts its tiles (tape.h) and its blocks of cache (attention_core.h), for comparison with schedule.py.
#include "imp/stage/attention_core.h"
#include "imp/stage/tape.h"

namespace imp {

constexpr int kGrid = 5, kWarps = 3, kSplits = 4;

template <class Order>
__device__ __forceinline__ int* write(int* out, const Order& order) {
  for (int i = 0; i < order.tiles(); i++) {
    const auto at = order.place(i);
    *out++ = at.unit;
    *out++ = at.k;
    *out++ = static_cast<int>(order.index(at.unit, at.k));
  }
  return out;
}
template <int Units, int Tiles, class Count>
__device__ __forceinline__ int* phase(int* out, Count& count) {
  const TapeShare s = count.template next<Units, Tiles>();
  *out++ = s.first;
  *out++ = s.units;
  *out++ = static_cast<int>(s.tile);
  *out++ = s.warp;
  *out++ = TapeSweeps<kWarps, Tiles>::lead(s.units);
  out = write(out, TapeRounds<kWarps, Tiles>{s.tile, s.units});
  return write(out, TapeSweeps<kWarps, Tiles>{s.tile, s.units});
}
// out [grid][4096]: of each phase its share, how far its sweeps lead, then unit, tile and index of every tile in both orders
extern "C" __global__ void shares(int* out) {
  int* line = out + 4096 * block_index();
  TapeCount<kGrid, kWarps> count;
  line = phase<7, 1>(line, count);
  line = phase<3, 4>(line, count);
  line = phase<61, 3>(line, count);
  line = phase<20, 2>(line, count);
  line = phase<1, 5>(line, count);
  line = phase<64, 1>(line, count);
}

template <int Window>
__device__ __forceinline__ void share(int* out, const int* positions) {
  constexpr AttentionConfig config = [] {
    AttentionConfig c{};
    c.window = Window;
    c.block_tokens = 16;
    c.splits = kSplits;
    c.warps = kWarps;
    return c;
  }();
  const AttentionShare share = AttentionShare::of<config>(positions[block_index()], Window);
  int* line = out + block_index() * (1 + kSplits);
  *line++ = share.active;
  for (int s = 0; s < share.active; s++) *line++ = share.end(s, 16) - share.begin(s);
}
// out [positions][1 + splits]: splits that have blocks, and the blocks of each
extern "C" __global__ void splits_0(int* out, const int* positions) { share<0>(out, positions); }
extern "C" __global__ void splits_7(int* out, const int* positions) { share<7>(out, positions); }
extern "C" __global__ void splits_100(int* out, const int* positions) { share<100>(out, positions); }

}  // namespace imp
