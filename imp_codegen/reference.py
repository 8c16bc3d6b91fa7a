"""The graph in numpy: twin of every kernel, and oracle of the tests.

Values are float32[tokens, width]. With `rounded` activations a product sees what the kernels see: int8 codes with a
scale per 32 before integer formats, and a cache of float16. Without, everything is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from imp_codegen.graph import (
    Add,
    Attention,
    Embed,
    Gated,
    Graph,
    HeadNorm,
    Linear,
    Op,
    RmsNorm,
    Rope,
    Sample,
    Weight,
    inputs,
)
from imp_codegen.pack import rope_turns
from imp_codegen.passes.place_weights import VECTOR
from imp_codegen.quant import Tile, formats
from imp_codegen.spec import RopeSpec
from imp_runtime.artifact import Artifact
from imp_runtime.plan import Plane

Floats = NDArray[np.float32]
_ROWS_AT_A_TIME = 8192
# Of the step between two codes, or two float16: what float32 sums in another order move a value by, and several times
# that.
_TIE = 5e-4
_HALF_TIE = 5e-2


@dataclass(frozen=True, slots=True)
class Weights:
    """Where the reference finds dequantised weights: rows(weight, start, stop) -> float32[stop - start, cols]."""

    rows: Callable[[Weight, int, int], Floats]
    integer: Callable[[Weight], bool]

    def vector(self, weight: Weight) -> Floats:
        """A norm weight or bias, float32[cols]."""
        vector: Floats = self.rows(weight, 0, 1)[0]
        return vector

    def product(self, x: Floats, weight: Weight) -> Floats:
        """x[tokens, cols] @ weight.T, a few thousand rows of the weight at a time."""
        starts = range(0, weight.rows, _ROWS_AT_A_TIME)
        parts = [x @ self.rows(weight, start, min(start + _ROWS_AT_A_TIME, weight.rows)).T for start in starts]
        return np.concatenate(parts, axis=1)

    def linear(self, op: Linear, x: Floats) -> Floats:
        """The operation's result from x[tokens, cols] as it multiplies them."""
        y = self.product(x, op.weight)
        return y + self.vector(op.bias) if op.bias else y


def artifact_weights(artifact: Artifact) -> Weights:
    """The weights as the artifact's planes hold them."""
    planes: Mapping[str, Plane] = {plane.name: plane for plane in artifact.plan.planes}

    def rows(weight: Weight, start: int, stop: int) -> Floats:
        plane, data = planes[weight.name], artifact.plane(weight.name)
        if plane.layout == VECTOR:
            return data.view("<f4").reshape(1, -1)
        tile = Tile(*(int(n) for n in plane.layout.partition(":")[2].split("x")))
        unit = plane.nbytes // -(-plane.rows // tile.rows)
        first, last = start // tile.rows, -(-stop // tile.rows)
        packed = np.ascontiguousarray(data[first * unit : last * unit])
        whole = formats()[plane.format].unpack(
            packed, min(last * tile.rows, plane.rows) - first * tile.rows, plane.cols, tile
        )
        return whole[start - first * tile.rows : stop - first * tile.rows]

    return Weights(rows, lambda weight: formats()[planes[weight.name].format].activation == "q8")


@dataclass(slots=True)
class Reference:
    """Evaluates operations for a sequence. `cache` holds [k and v, positions, kv heads, head_dim] of every layer.

    `ties`: where rounded, what lies next to the middle between two codes takes the farther one, as it may in a kernel.
    """

    weights: Weights
    rounded: bool
    ties: bool = False
    cache: dict[int, Floats] = field(default_factory=dict)

    def run(self, graph: Graph, tokens: NDArray[np.int64], start: int = 0) -> dict[str, Floats]:
        """Every value of the graph for `tokens` at positions start, start + 1, ...; the cache grows."""
        values: dict[str, Floats] = {}
        for op in graph.ops:
            values[op.out.name] = self.evaluate(op, values, tokens, start)
        return values

    def evaluate(self, op: Op, values: Mapping[str, Floats], tokens: NDArray[np.int64], start: int) -> Floats:
        """The result of one operation from the values that it reads."""
        read = [values[value.name] for value in inputs(op)]
        match op:
            case Embed(weight=weight):
                return np.concatenate([self.weights.rows(weight, int(t), int(t) + 1) for t in tokens])
            case RmsNorm(weight=weight, eps=eps):
                return _rms_norm(read[0], self.weights.vector(weight), eps)
            case HeadNorm(weight=weight, head_dim=dim, eps=eps):
                heads = read[0].reshape(len(tokens), -1, dim)
                return _rms_norm(heads, self.weights.vector(weight), eps).reshape(read[0].shape)
            case Linear():
                return self.weights.linear(op, self.given(op, read[0]))
            case Rope(head_dim=dim, rope=rope):
                return _rotate(read[0], dim, rope, start)
            case Attention():
                return self._attend(op, read[0], read[1], read[2])
            case Gated():
                return _floats(read[0] / (1 + np.exp(-read[0])) * read[1])
            case Add():
                return read[0] + read[1]
            case Sample():
                return _floats(read[0].argmax(axis=1, keepdims=True))

    def given(self, op: Linear, x: Floats) -> Floats:
        """x[tokens, cols] as the matrix multiplies them."""
        return round_activations(x, self.ties) if self.rounded and self.weights.integer(op.weight) else x

    def _attend(self, op: Attention, q: Floats, k: Floats, v: Floats) -> Floats:
        new = np.stack([k, v]).reshape(2, len(k), op.kv_heads, op.head_dim)
        if self.rounded:
            new = _round_half(new, self.ties)
        before = self.cache.get(op.layer, np.zeros((2, 0, op.kv_heads, op.head_dim), np.float32))
        self.cache[op.layer] = keys_values = np.concatenate([before, new], axis=1)
        start, length = before.shape[1], keys_values.shape[1]
        group = op.heads // op.kv_heads
        queries = q.reshape(len(q), op.kv_heads, group, op.head_dim)
        scores = np.einsum("tkgd,lkd->kgtl", queries, keys_values[0]) * op.scale
        causal = np.arange(length)[None, :] <= start + np.arange(len(q))[:, None]
        scores = np.where(causal, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return _floats(np.einsum("kgtl,lkd->tkgd", weights, keys_values[1]).reshape(len(q), -1))


def _floats(x: NDArray[np.generic]) -> Floats:
    result: Floats = x.astype(np.float32)
    return result


def _rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    return _floats(x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + np.float32(eps)) * weight)


def _rotate(x: Floats, dim: int, rope: RopeSpec, start: int) -> Floats:
    positions = np.arange(start, start + len(x), dtype=np.uint64)
    fraction = (rope_turns(rope)[None, :] * positions[:, None]).astype(np.uint64)  # wraps: a fraction of a turn
    angle = fraction.astype(np.float64) * (2 * np.pi / 2**64)
    cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    heads = x.reshape(len(x), -1, dim).astype(np.float64)
    out = np.empty_like(heads)
    if rope.interleaved:
        first, second = heads[..., 0::2], heads[..., 1::2]
        out[..., 0::2], out[..., 1::2] = first * cos - second * sin, second * cos + first * sin
    else:
        first, second = heads[..., : dim // 2], heads[..., dim // 2 :]
        out[..., : dim // 2], out[..., dim // 2 :] = first * cos - second * sin, second * cos + first * sin
    return _floats(out.reshape(x.shape))


def round_activations(x: Floats, ties: bool = False) -> Floats:
    """What int8 codes with one scale per 32 keep of x[tokens, cols]; `ties` as in Reference."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    peak = np.abs(blocks).max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = np.where(peak > 0, blocks * (np.float32(127) / peak), 0)
    codes = np.rint(exact)
    if ties:
        codes += np.sign(exact - codes) * (np.abs(exact - codes) > 0.5 - _TIE)
    return _floats((codes * (peak / np.float32(127))).reshape(x.shape))


def _round_half(x: Floats, ties: bool) -> Floats:
    """What float16 keeps of x; `ties` as in Reference."""
    half = x.astype(np.float16)
    if ties:
        rest = x - half.astype(np.float32)
        farther = np.abs(rest) > (0.5 - _HALF_TIE) * np.abs(np.spacing(half).astype(np.float32))
        half = np.where(farther, np.nextafter(half, np.copysign(np.float16(np.inf), rest).astype(np.float16)), half)
    return half.astype(np.float32)
