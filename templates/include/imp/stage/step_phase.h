// The numbers of the step kernel, and its products as types: which matrices each layer multiplies with a vector.
#pragma once
#include <type_traits>

#include "imp/stage/encode.h"
#include "imp/stage/epilogue.h"
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
  static constexpr int kMost = [] {
    int most = 0;
    ((most = Variants > most ? Variants : most), ...);
    return most;
  }();
  static __device__ __forceinline__ int at(int layer) {
    if constexpr (((Variants == kMost) && ...)) {
      return kMost;
    } else {
      int index = 0;
      int variant = 0;
      ((variant = index++ == layer ? Variants : variant), ...);
      return variant;
    }
  }
};

// A float vector that a layer may have.
template <bool Has>
struct StepVector {
  const float* data;
};
template <>
struct StepVector<false> {
  static constexpr const float* data = nullptr;
};

// A field of the kernel's arguments, as a base of them: where its type is empty it takes no bytes, whatever the compiler
// (nvcc 13.0 gives [[no_unique_address]] members some).
template <int Place, class T, bool Empty = std::is_empty_v<T>>
struct StepField {
  T value;
};
template <int Place, class T>
struct StepField<Place, T, true> {};

template <int Place, class T, bool Empty>
__device__ __forceinline__ T step_field(const StepField<Place, T, Empty>& field) {
  if constexpr (Empty) {
    return T{};
  } else {
    return field.value;
  }
}

struct PhaseConfig {
  int early;            // CTAs that may still be at work on the vector when the others begin to poll it
  unsigned biased = 0;  // bits of the matrices that have a bias
  float scale = 1.0f;   // of the sums, where they are added to the residual stream, or are logits
  float cap = 0.0f;     // soft cap of logits; 0: none
};

// A product with one encoded vector, the same in all layers but for the formats of its matrices.
template <EncodeConfig E, PhaseConfig P, class Order, class... Units>
struct StepPhase {
  static constexpr PhaseConfig kConfig = P;
  static constexpr EncodeConfig kEncode = E;
  using Bias = Biases<P.biased>;
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
