"""What a gate goes through, by the C++ name: the formulas in float64, from their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _silu(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-x))


def _gelu(x: Array) -> Array:
    """x times the normal distribution's share below it (Hendrycks and Gimpel, arXiv 1606.08415)."""
    return np.array([0.5 * value * math.erfc(-value / math.sqrt(2)) for value in x.flat]).reshape(x.shape)


def _gelu_tanh(x: Array) -> Array:
    """The same paper's approximation."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


_FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {"Silu": _silu, "Gelu": _gelu, "GeluTanh": _gelu_tanh}


def gated(name: str, gate: Array, up: Array) -> Array:
    """What a gate leaves of up. ClampedSilu: https://huggingface.co/openai/gpt-oss-20b, modeling_gpt_oss.py."""
    if name == "ClampedSilu":
        gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
        return gate / (1 + np.exp(-1.702 * gate)) * (up + 1)
    return _FUNCTIONS[name](gate) * up
