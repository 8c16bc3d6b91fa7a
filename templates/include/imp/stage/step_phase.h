// The numbers of the step kernel, and its products as types: which matrices each layer multiplies with a vector.
#pragma once
#include <type_traits>

#include "imp/stage/encode.h"
#include "imp/stage/epilogue.h"
#include "imp/stage/exchange.h"
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

// The vectors of a product's arguments; what a phase has none of is no field of them.
template <class Product>
__device__ __forceinline__ const float* norm_of(const Product& product) {
  if constexpr (requires { product.norm; }) {
    return product.norm;
  } else {
    return nullptr;
  }
}
template <class Product>
__device__ __forceinline__ const float* post_of(const Product& product) {
  if constexpr (requires { product.post; }) {
    return product.post;
  } else {
    return nullptr;
  }
}
template <class Product>
__device__ __forceinline__ const float* const* bias_of(const Product& product) {
  if constexpr (requires { product.bias; }) {
    return product.bias;
  } else {
    return nullptr;
  }
}

struct PhaseConfig {
  int early;            // CTAs that may still be at work on the vector when the others begin to poll it
  unsigned biased = 0;  // bits of the matrices that have a bias
  float scale = 1.0f;   // of the sums, where they are added to the residual stream, or are logits
  float cap = 0.0f;     // soft cap of logits; 0: none
};

// Where a phase publishes what it makes, and the sum that it keeps on the way.
template <class Phase>
__device__ __forceinline__ auto published(std::uint32_t* words, std::uint32_t tag, const Phase& phase) {
  if constexpr (requires { phase.copy; }) {
    return Published<true>{words, tag, phase.copy};
  } else {
    return Published<false>{words, tag, nullptr};
  }
}
template <class Phase>
__device__ __forceinline__ auto published_sum(std::uint32_t* words, std::uint32_t tag, const Phase& phase) {
  if constexpr (requires { phase.sum_copy; }) {
    return Published<true>{words, tag, phase.sum_copy};
  } else {
    return Published<false>{words, tag, nullptr};
  }
}

// Whether a product's arguments have what its phase reads, and nothing else.
template <class Phase, class Product>
constexpr bool fits() {
  constexpr bool norm = requires(Product product) { product.norm; };
  constexpr bool bias = requires(Product product) { product.bias; };
  return norm == Encoder<Phase::kEncode>::kWeighted && bias == (Phase::kConfig.biased != 0);
}

// A product with one encoded vector, the same in all layers but for the formats of its matrices.
template <EncodeConfig E, PhaseConfig P, class Order, class... Units>
struct StepPhase {
  static constexpr PhaseConfig kConfig = P;
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
