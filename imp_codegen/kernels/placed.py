"""Where a weight lies in the artifact."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.formats import Format
from imp_codegen.graph import Weight
from imp_codegen.layouts import Layout, Tile
from imp_runtime.plan import Plane

VECTOR = "vector"  # the layout of 1-D tensors: plain float32


@dataclass(frozen=True, slots=True)
class Placed:
    """A weight, its format in the file, and its plane. `layout` and `tile` are None for a vector."""

    weight: Weight
    format: Format
    layout: Layout | None
    tile: Tile | None
    plane: Plane
