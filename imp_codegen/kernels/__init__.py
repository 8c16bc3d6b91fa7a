"""Kernels as the compiler sees them: families, each a module found by its function `match`, and what they share."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import Protocol, cast

from imp_codegen.graph import Edges, Op
from imp_codegen.kernels.family import Match


class Family(Protocol):
    """What a family's module offers (family.py)."""

    def match(self, edges: Edges, op: Op, rows: int) -> Match | None:
        """The operations that it takes, `op` the first of them."""


@functools.cache
def families() -> tuple[Family, ...]:
    """Every family, by name."""
    names = sorted(module.name for module in pkgutil.walk_packages(__path__, f"{__name__}."))
    modules = map(importlib.import_module, names)
    return tuple(cast(Family, module) for module in modules if hasattr(module, "match"))
