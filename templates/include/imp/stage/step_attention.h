// The attention of the step kernel's layers: kinds, which differ in what a query sees and in how heads turn.
#pragma once
#include <utility>

#include "imp/stage/attention_core.h"
#include "imp/stage/step_phase.h"

namespace imp {

template <AttentionConfig A, int Table>
struct StepAttentionKind {
  static constexpr AttentionConfig kConfig = A;
  using Core = AttentionCore<A>;
  static constexpr int kTable = Table;  // of the angles by which it turns, if it does
};

// The frequencies of each table.
template <int Tables>
struct StepTurns {
  const std::uint64_t* of[Tables];
};
template <>
struct StepTurns<0> {};

template <class Order, AttentionConfig... Kinds>
struct StepAttention {
  static constexpr AttentionConfig kKinds[] = {Kinds...};
  static constexpr AttentionConfig kFirst = kKinds[0];
  static constexpr int kTables = ((Kinds.rope_dim > 0 ? 1 : 0) + ...);
  static_assert(((Kinds.heads == kFirst.heads && Kinds.kv_heads == kFirst.kv_heads && Kinds.head_dim == kFirst.head_dim &&
                  Kinds.splits == kFirst.splits && Kinds.warps == kFirst.warps && Kinds.qk_norm == kFirst.qk_norm) && ...),
                "all layers have the same heads, cut alike");

  // f.operator()<Kind>(its number) for every kind.
  template <class F>
  static __device__ __forceinline__ void each(const F& f) {
    each(f, std::make_integer_sequence<int, static_cast<int>(sizeof...(Kinds))>());
  }
  // f.operator()<Kind>() for that of the layer.
  template <class F>
  static __device__ __forceinline__ void with(int layer, const F& f) {
    if constexpr (sizeof...(Kinds) == 1) {
      f.template operator()<StepAttentionKind<kFirst, 0>>();
    } else {
      const int kind = Order::at(layer);
      each([&]<class Kind>(int number) {
        if (number == kind) f.template operator()<Kind>();
      });
    }
  }

 private:
  static constexpr int table(int kind) {
    int before = 0;
    for (int i = 0; i < kind; i++) before += kKinds[i].rope_dim > 0 ? 1 : 0;
    return before;
  }
  template <class F, int... Numbers>
  static __device__ __forceinline__ void each(const F& f, std::integer_sequence<int, Numbers...>) {
    (f.template operator()<StepAttentionKind<kKinds[Numbers], table(Numbers)>>(Numbers), ...);
  }
};

}  // namespace imp
