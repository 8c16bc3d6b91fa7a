// Twin of imp/ptx/isa_wgmma_lines.h (engine_products.cpp).
#pragma once

#include "isa_wgmma.h"

namespace imp {

template <int N>
inline void wgmma_f16_lines(float (&d)[N / 2], const std::uint32_t (&a)[4], const std::uint8_t* panels, int between,
                            int step, sim::Location where = sim::Location::current()) {
  sim::product_issue({{d}, {a}, panels, step, N, between}, where);
}

}  // namespace imp
