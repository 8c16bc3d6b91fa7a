"""The graph in numpy: twin of every kernel, and oracle of the tests.

Values are float32[tokens, width]. With `rounded` activations a product sees what the kernels see: int8 codes with a
scale per 32 before integer formats, and what the cache keeps. Without, everything is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from imp_codegen.cache import CacheFormat
from imp_codegen.cache.f16 import FORMAT as F16
from imp_codegen.formats import E2M1, E4M3, format_named
from imp_codegen.graph import Floats, Graph, Op, Weight, floats, inputs
from imp_codegen.kernels.placed import VECTOR
from imp_codegen.layouts import Activation, placement
from imp_codegen.stored import Stored
from imp_runtime.artifact import Artifact
from imp_runtime.plan import Plane

_WEIGHTS_AT_A_TIME = 1 << 24  # 64 MB as float32, several times that while they are decoded
_FP4_PEAK = 6 * 448  # what a row's largest value becomes: the largest e2m1 times the largest e4m3
_TIE = 5e-4  # of the step between two codes: what float32 sums in another order move a value by, and several times that
# Digits of activations that move products about as far as sums of eight that are halfs: 4e-4 and 5e-4 of their rms.
_HALF_SUMS = 10
_FP4_TIE = 1e-4  # the same of codes of four bits, which have no more than 16 steps below them


@dataclass(frozen=True, slots=True)
class Weights:
    """Where the reference finds dequantised weights: rows(weight, start, stop) -> float32[stop - start, cols]."""

    rows: Callable[[Weight, int, int], Floats]
    activation: Callable[[Weight], Activation]  # what the kernels of one row multiply a matrix with

    def vector(self, weight: Weight) -> Floats:
        """A norm weight or bias, float32[cols]."""
        vector: Floats = self.rows(weight, 0, 1)[0]
        return vector

    def product(self, x: Floats, weight: Weight, expert: int | None = None) -> Floats:
        """x[tokens, cols] @ weight.T, a few rows of the weight at a time; of a stack one expert's matrix."""
        begin, end = (0, weight.rows) if expert is None else (weight.each * expert, weight.each * (expert + 1))
        step = max(1, _WEIGHTS_AT_A_TIME // weight.cols)
        parts = [x @ self.rows(weight, at, min(at + step, end)).T for at in range(begin, end, step)]
        return np.concatenate(parts, axis=1)


def stored_weights(stored: Mapping[str, Stored]) -> Weights:
    """The weights as a checkpoint has them; all are multiplied with floats, as nothing is known of kernels."""

    def rows(weight: Weight, start: int, stop: int) -> Floats:
        found = stored[weight.name]
        return found.format.dequantize(found.rows(start, stop))

    return Weights(rows, lambda weight: "bf16")


def artifact_weights(artifact: Artifact) -> Weights:
    """The weights as the artifact's planes hold them."""
    planes: Mapping[str, Plane] = {plane.name: plane for plane in artifact.plan.planes}

    def rows(weight: Weight, start: int, stop: int) -> Floats:
        plane, data = planes[weight.name], artifact.plane(weight.name)
        if plane.layout == VECTOR:
            return data.view("<f4").reshape(1, -1)
        layout, tile = placement(plane)
        unit = plane.nbytes // -(-plane.rows // tile.rows)
        first, last = start // tile.rows, -(-stop // tile.rows)
        packed = np.ascontiguousarray(data[first * unit : last * unit])
        count = min(last * tile.rows, plane.rows) - first * tile.rows
        whole = layout.unpack(format_named(plane.format), packed, count, plane.cols, tile)
        return whole[start - first * tile.rows : stop - first * tile.rows]

    return Weights(rows, lambda weight: placement(planes[weight.name])[0].activation)


@dataclass(slots=True)
class Reference:
    """Evaluates operations for a sequence. `cache` holds what every layer keeps.

    Of a layer [k and v, or k, positions, kv heads, head_dim].
    Where rounded, its rows have the format `rows`, and with `ties` what lies next to the middle between two codes takes
    the farther one, as it may in a kernel; where sums are halfs this one is about as far off as those.
    """

    weights: Weights
    rounded: bool
    ties: bool = False
    rows: CacheFormat = F16
    cache: dict[int, Floats] = field(default_factory=dict)

    def run(self, graph: Graph, tokens: NDArray[np.int64], start: int = 0) -> dict[str, Floats]:
        """Every value of the graph for `tokens` at positions start, start + 1, ...; the cache grows."""
        values: dict[str, Floats] = {}
        positions = np.arange(start, start + len(tokens))
        for op in graph.ops:
            values[op.out.name] = self.evaluate(op, values, tokens, positions)
        return values

    def evaluate(
        self, op: Op, values: Mapping[str, Floats], tokens: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> Floats:
        """The result of one operation from the values that it reads, rows at ascending `positions` of a sequence.

        What the cache lacks of those before them, it takes for zeros.
        """
        return op.evaluate(_Rows(self, tokens, positions), *(values[value.name] for value in inputs(op)))

    def given(self, x: Floats, weight: Weight) -> Floats:
        """x[tokens, cols] as the matrix multiplies them."""
        match self.weights.activation(weight) if self.rounded else "bf16":
            case "q8":
                return round_activations(x, self.ties)
            case "f16" if self.ties:
                return _with_bits(x, _HALF_SUMS)
            case _:
                return x

    def append(self, layer: int, new: Floats, positions: NDArray[np.int64]) -> Floats:
        """Put `new` [k and v, or k, tokens, kv heads, head_dim] into a layer's cache; all that it then holds."""
        kept = self.rows.keep(new, self.ties) if self.rounded else new
        known = self.cache.get(layer, kept[:, :0])
        count = max(known.shape[1], int(positions[-1]) + 1)
        self.cache[layer] = np.zeros((len(kept), count, *kept.shape[2:]), np.float32)
        self.cache[layer][:, : known.shape[1]] = known
        self.cache[layer][:, positions] = kept
        return self.cache[layer]


@dataclass(frozen=True, slots=True)
class _Rows:
    """What an operation may ask for (graph.Evaluation)."""

    reference: Reference
    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]

    def rows(self, weight: Weight, begin: int, end: int) -> Floats:
        return self.reference.weights.rows(weight, begin, end)

    def vector(self, weight: Weight) -> Floats:
        return self.reference.weights.vector(weight)

    def product(self, x: Floats, weight: Weight, expert: int | None = None) -> Floats:
        return self.reference.weights.product(self.reference.given(x, weight), weight, expert)

    def append(self, layer: int, new: Floats) -> Floats:
        return self.reference.append(layer, new, self.positions)

    def kept(self, layer: int) -> Floats:
        return self.reference.cache[layer]


def round_activations(x: Floats, ties: bool = False) -> Floats:
    """What int8 codes with one scale per 32 keep of x[tokens, cols]; `ties` as in Reference."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    peak = np.abs(blocks).max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = np.where(peak > 0, blocks * (np.float32(127) / peak), 0)
    codes = np.rint(exact)
    if ties:
        codes += np.sign(exact - codes) * (np.abs(exact - codes) > 0.5 - _TIE)
    return floats((codes * (peak / np.float32(127))).reshape(x.shape))


def _with_bits(x: Floats, bits: int) -> Floats:
    """Each number rounded to so many binary digits."""
    parts, exponents = np.frexp(x)
    return floats(np.ldexp(np.rint(np.ldexp(parts, bits)), exponents - bits))


def round_fp4(x: Floats, ties: bool = False) -> Floats:
    """What e2m1 codes with an e4m3 scale per 16 and a factor a row keep of x[tokens, cols] (kernels/gemm_fp4.py).

    `ties` as in Reference, of scales and of codes.
    """
    row = np.abs(x).max(axis=-1, keepdims=True)
    factor = np.where(row > 0, row, np.float32(1)) / np.float32(_FP4_PEAK)
    blocks = (x / factor).reshape(*x.shape[:-1], -1, 16)
    scales = _nearest(floats(np.abs(blocks).max(axis=-1, keepdims=True) / 6), E4M3[:127], ties)
    codes = blocks / np.where(scales > 0, scales, np.float32(np.inf))
    sizes = floats(np.array(E2M1[:8]) / 2)
    kept = np.copysign(_nearest(floats(np.abs(codes)), sizes, ties), codes) * scales
    return floats(kept.reshape(x.shape) * factor)


def _nearest(values: Floats, table: Floats, ties: bool) -> Floats:
    """The number of an ascending table next to each value, its last for what is beyond."""
    steps = np.diff(table)
    middles = table[:-1] + steps / 2
    at = np.searchsorted(middles, values)
    if ties:
        below, above = np.maximum(at - 1, 0), np.minimum(at, len(middles) - 1)
        near_below = np.abs(values - middles[below]) < _FP4_TIE * steps[below]
        near_above = np.abs(values - middles[above]) < _FP4_TIE * steps[above]
        at = np.where(near_below, below, np.where(near_above, above + 1, at))
    return table[at]
