// The numbers of the step kernel, and its products as types: which matrices each layer multiplies with a vector.
#pragma once
#include "imp/stage/encode.h"
#include "imp/stage/units.h"

namespace imp {

struct StepConfig {
  int warps;  // that compute; one more fetches
  int grid;
  int slots;
  int in_flight;    // tiles
  int lanes;        // that fetch
  int layer_bytes;  // of a cache block
};

// Which of a phase's variants each layer has.
template <int... Variants>
struct LayerOrder {
  static constexpr int kLayers = sizeof...(Variants);
  static __device__ __forceinline__ int at(int layer) {
    int index = 0;
    int variant = 0;
    ((variant = index++ == layer ? Variants : variant), ...);
    return variant;
  }
};

// A product with one encoded vector, the same in all layers but for the formats of its matrices. `Early`: how many CTAs
// may still be at work on that vector when the others begin to poll it.
template <EncodeConfig E, int Early, class Order, class... Units>
struct StepPhase {
  static constexpr int kEarly = Early;
  static constexpr EncodeConfig kEncode = E;
  static constexpr int kLayers = Order::kLayers;
  static constexpr int kEncodedBytes = Encoder<E>::kSharedBytes;
  static constexpr int kTileBytes = [] {
    int most = 0;
    ((most = Units::kMostBytes > most ? Units::kMostBytes : most), ...);
    return most;
  }();
  static_assert((Units::kUniform && ...), "all units of a phase have the same number of tiles");

  // f.operator()<Units>() for the units of the layer.
  template <class F>
  static __device__ __forceinline__ void with(int layer, const F& f) {
    if constexpr (sizeof...(Units) == 1) {
      (f.template operator()<Units>(), ...);
    } else {
      const int variant = Order::at(layer);
      int index = 0;
      ((index++ == variant ? f.template operator()<Units>() : void()), ...);
    }
  }
};

}  // namespace imp
