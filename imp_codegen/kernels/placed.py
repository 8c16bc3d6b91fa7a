"""Where a weight lies in the artifact."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Weight
from imp_codegen.quant import QuantFormat, Tile
from imp_runtime.plan import Plane

VECTOR = "vector"  # the layout of 1-D tensors: plain float32


@dataclass(frozen=True, slots=True)
class Placed:
    """A weight and its plane. `tile` is None for a vector."""

    weight: Weight
    format: QuantFormat
    tile: Tile | None
    plane: Plane
