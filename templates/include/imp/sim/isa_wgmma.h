// Twins of imp/ptx/isa_wgmma.h (engine_products.cpp).
#pragma once

#include <cstdint>

#include "engine.h"
#include "types.h"

namespace imp {

template <int>
__forceinline__ void registers_keep() {}
template <int>
__forceinline__ void registers_take() {}

__forceinline__ void wgmma_fence() {}
inline void wgmma_commit(sim::Location where = sim::Location::current()) { sim::product_commit(where); }
template <int Left, int N>
inline void wgmma_wait(float (&)[N], sim::Location where = sim::Location::current()) {
  sim::product_wait(Left, where);
}
template <int N>
inline void wgmma_f16(float (&d)[N / 2], const std::uint32_t (&a)[4], const std::uint8_t* panel, int step,
                      sim::Location where = sim::Location::current()) {
  sim::product_issue({{d}, {a}, panel, step, N}, where);
}

}  // namespace imp
