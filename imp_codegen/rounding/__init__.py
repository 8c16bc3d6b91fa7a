"""Rounding weights to formats of fewer bits, as `imp compile --weights` does. One file a format.

Each exports `ROUNDING`, and its presence is its registration. A row is rounded by itself, so that a model streams
through in any pieces. Every operation is one that IEEE 754 defines to the last bit, and sums have one order: the same
weights give the same bytes on any machine, which `imp link` needs.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from imp_codegen.formats import Bytes, Floats, format_named
from imp_runtime.errors import ImpError

FLOATS = ("BF16", "F16", "F32")
"""The formats in which models are trained: what rounding them loses is all that is lost."""
_WORKING_SET = 1 << 16  # weights rounded at a time: with temporaries they stay within a core's L2 cache


@dataclass(frozen=True, slots=True)
class Rounding:
    """`name` is the word for `--weights`, `format` what rows then have, `block` what their length is a multiple of.

    `few(weights float32[n, cols])` rounds some rows. `again`: formats of fewer bits than FLOATS that it takes as well,
    though what it loses then comes on top of what they have lost. `largest` is the largest size of a weight that it can
    hold.
    """

    name: str
    format: str
    block: int
    few: Callable[[Floats], Bytes]
    again: tuple[str, ...] = ()
    largest: float = 3.4028235e38

    def round(self, weights: Floats) -> Bytes:
        """Rows of weights float32[n, cols], finite and at most `largest`, in the format: uint8[n, row bytes]."""
        rows, cols = weights.shape
        rounded = np.empty((rows, format_named(self.format).row_bytes(cols)), np.uint8)
        step = max(1, _WORKING_SET // cols)
        for start in range(0, rows, step):
            rounded[start : start + step] = self.few(weights[start : start + step])
        return rounded

    @property
    def takes(self) -> str:
        """What it can be made of, for people."""
        exact, again = f"{', '.join(FLOATS[:-1])} and {FLOATS[-1]}", " and ".join(self.again)
        return f"{exact}, and {again} as a second lossy step" if again else exact


@functools.cache
def roundings() -> Mapping[str, Rounding]:
    """Every rounding by name."""
    names = (entry.name for entry in pkgutil.iter_modules(__path__) if not entry.name.startswith("_"))
    found: list[Rounding] = [importlib.import_module(f"{__name__}.{name}").ROUNDING for name in names]
    return {rounding.name: rounding for rounding in sorted(found, key=lambda rounding: rounding.name)}


def rounding_named(name: str) -> Rounding:
    """The rounding called `name`, such as "nvfp4"."""
    if name not in roundings():
        raise ImpError(f"--weights {name!r:.60} is unknown; known: {', '.join(roundings())}")
    return roundings()[name]
