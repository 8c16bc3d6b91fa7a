// What IQ2_XXS, IQ2_XS and IQ2_S share: points of eight weights, each 8, 25 or 43 or minus that.
#pragma once
#include "imp/layout/grid.h"

namespace imp {

using Iq2Points = PointsOf8<8, 25, 43, 0, -8, -25, -43, 0>;

__device__ __forceinline__ WordsOf32 iq2_words(const uint4& points, std::uint32_t signs) {
  return Iq2Points::words({Iq2Points::turned<0>(points.x, signs), Iq2Points::turned<1>(points.y, signs),
                           Iq2Points::turned<2>(points.z, signs), Iq2Points::turned<3>(points.w, signs)});
}

}  // namespace imp
