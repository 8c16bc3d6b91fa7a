// The numbers of the step kernel, and its products as types: which matrices each layer multiplies with a vector.
#pragma once
#include <tuple>
#include <type_traits>
#include <utility>

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

// A number of each layer, often which of several variants it has.
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
  // Whether another layer has the number `layer`.
  static __device__ __forceinline__ bool others(int layer) {
    int index = 0;
    bool found = false;
    ((found |= index++ != layer && Variants == layer), ...);
    return found;
  }
};

// What layers have in different variants.
template <class Order, class... Ts>
struct ByLayer {
  using First = std::tuple_element_t<0, std::tuple<Ts...>>;
  static constexpr int kLayers = Order::kLayers;
  static_assert(Order::kMost < static_cast<int>(sizeof...(Ts)), "a layer has a variant that there is not");
  // f.operator()<T>() for that of the layer.
  template <class F>
  static __device__ __forceinline__ void with(int layer, const F& f) {
    if constexpr (sizeof...(Ts) == 1) {
      f.template operator()<First>();
    } else {
      const int variant = Order::at(layer);
      int index = 0;
      ((index++ == variant ? f.template operator()<Ts>() : void()), ...);
    }
  }
  // The largest `of(T*)`.
  template <class Of>
  static constexpr int most(const Of& of) {
    int most = 0;
    ((most = of(static_cast<Ts*>(nullptr)) > most ? of(static_cast<Ts*>(nullptr)) : most), ...);
    return most;
  }
  template <class Is>
  static constexpr bool all(const Is& is) {
    return (is(static_cast<Ts*>(nullptr)) && ...);
  }
};

// The vectors that phases hand on. The embedding begins x anew in each step; the others go on from the step before.
enum class Vector { none, x, sum, middle, branch, qkv, attention, gated, extra };

// What a phase reads and writes. It reads `From`; with a `Branch` the sum of both, which it publishes as `Kept` on the way.
// It writes `To`, or adds to it.
template <Vector From, Vector To, Vector Branch = Vector::none, Vector Kept = Vector::none, bool Adds = false>
struct Flow {
  static constexpr Vector kFrom = From;
  static constexpr Vector kTo = To;
  static constexpr Vector kBranch = Branch;
  static constexpr Vector kKept = Kept;
  static constexpr bool kAdds = Adds;
  static_assert(From != To || Adds, "what a phase reads, other CTAs may still read when it is written");
  static_assert(Kept == Vector::none || (Kept != From && Kept != Branch), "a sum is kept where nobody reads");
  static constexpr int writes(Vector vector) {
    return vector == Vector::none ? 0 : static_cast<int>(Kept == vector) + static_cast<int>(To == vector);
  }
};

// Where the arguments of a phase are.
struct AtQkv {
  static __device__ __forceinline__ const auto& of(const auto& layer) { return layer.qkv; }
};
struct AtOut {
  static __device__ __forceinline__ const auto& of(const auto& layer) { return layer.out; }
};
struct AtGateUp {
  static __device__ __forceinline__ const auto& of(const auto& layer) { return layer.gate_up; }
};
struct AtDown {
  static __device__ __forceinline__ const auto& of(const auto& layer) { return layer.down; }
};
// A gate of the token's own input to the layer, through F, and what that becomes.
template <class F>
struct AtGate {
  using Gate = F;
  static __device__ __forceinline__ const auto& of(const auto& layer) { return layer.gate; }
};
struct AtProj {
  static __device__ __forceinline__ const auto& of(const auto& layer) { return layer.proj; }
};
struct AtHead {
  static __device__ __forceinline__ const auto& of(const auto& args) { return args.head; }
};

// The phases of a layer, in order.
template <class... Ps>
struct Phases {
  static constexpr int kCount = sizeof...(Ps);
  template <int I>
  using At = std::tuple_element_t<I, std::tuple<Ps...>>;
  // How often a layer writes a vector, and how often before phase `index`.
  static constexpr int writes(Vector vector) { return (Ps::Flow::writes(vector) + ...); }
  static constexpr int writes_before(Vector vector, int index) {
    int i = 0;
    int count = 0;
    ((count += i++ < index ? Ps::Flow::writes(vector) : 0), ...);
    return count;
  }
  static constexpr int kAttention = [] {
    int i = 0;
    int at = -1;
    ((at = Ps::kAttends ? i : at, i++), ...);
    return at;
  }();
  static_assert((static_cast<int>(Ps::kAttends) + ...) == 1, "a layer attends once");
  static constexpr int kLayers = At<0>::kLayers;
  static constexpr int kTileBytes = [] {
    int most = 0;
    ((most = Ps::kTileBytes > most ? Ps::kTileBytes : most), ...);
    return most;
  }();
  static constexpr int kScratchBytes = [] {
    int most = 0;
    ((most = Ps::kScratchBytes > most ? Ps::kScratchBytes : most), ...);
    return most;
  }();
  // f.operator()<I>() for each phase.
  template <class F>
  static __device__ __forceinline__ void each(const F& f) {
    each(f, std::make_integer_sequence<int, kCount>{});
  }

 private:
  template <class F, int... I>
  static __device__ __forceinline__ void each(const F& f, std::integer_sequence<int, I...>) {
    (f.template operator()<I>(), ...);
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
__device__ __forceinline__ const float* const* bias_of(const Product& product) {
  if constexpr (requires { product.bias; }) {
    return product.bias;
  } else {
    return nullptr;
  }
}

template <class Product>
__device__ __forceinline__ const float* scale_of(const Product& product) {
  if constexpr (requires { product.scale; }) {
    return product.scale;
  } else {
    return nullptr;
  }
}

struct PhaseConfig {
  int early;            // CTAs that may still be at work on the vector when the others begin to poll it
  int first_turns = 0;  // of the encoder, which do not wait for that
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
  constexpr bool post = requires(Product product) { product.post; };
  constexpr bool scale = requires(Product product) { product.scale; };
  return norm == Encoder<Phase::kEncode>::kWeighted && bias == (Phase::kConfig.biased != 0) &&
         scale == Phase::kEncode.scaled &&
         post == Phase::kEncode.post && post == (Phase::Flow::kBranch != Vector::none);
}

// A product with one encoded vector: how it is encoded, which only differs in its length, and the units of the matrices.
template <class Place, class Moves, PhaseConfig P, class Inputs, class Units>
struct StepPhase : Place {
  using Flow = Moves;
  using Encoders = Inputs;
  using Matrices = Units;
  static constexpr bool kAttends = false;
  static constexpr PhaseConfig kConfig = P;
  static constexpr EncodeConfig kEncode = Inputs::First::kConfig;
  static constexpr int kLayers = Units::kLayers;
  static constexpr int kScratchBytes = Inputs::most([]<class E>(E*) { return E::kSharedBytes; });
  static constexpr int kTileBytes = Units::most([]<class U>(U*) { return U::kMostBytes; });
  static_assert(Units::all([]<class U>(U*) { return U::kUniform; }), "all units of a phase have the same number of tiles");
  static_assert(Inputs::all([]<class E>(E*) {
    return E::kConfig.cols == kEncode.cols || (!E::kConfig.norm && !E::kConfig.post);
  }), "the residual stream has one length");
};

}  // namespace imp
