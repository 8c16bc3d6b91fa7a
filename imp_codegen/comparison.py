"""comparison: outputs of kernels beside the reference's, each with a bound of what rounding can have moved it by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imp_codegen.cache import cache_format
from imp_codegen.graph import Floats, Graph, Op, inputs
from imp_codegen.ops import Add, Attention, ExpertLinear, Gated, Linear, Route
from imp_codegen.passes.plan_state import plan_state
from imp_codegen.reference import Reference, artifact_weights, round_fp4
from imp_runtime.artifact import Artifact
from imp_runtime.paging import Paging, blocks_for
from imp_runtime.plan import BLOCK_TOKENS, Kernel

# How far a result may be from the reference's, beside what codes that round the other way do to it: in units of the
# element (float32 with 23 bits, and what is added to it), and of the rms of what the kernel adds to its row.
ELEMENT = 4e-7
NOISE = 1e-4
# In its place for a chunk's attention, which rounds the softmax's weights to f16 (1.3e-4 on average).
WEIGHTS_NOISE = 8e-4
HALF_NOISE = 5e-3  # and for products of weights and activations that are rounded to f16 (8e-4 on average in Q4_K)
# The same where sums of 64 products are halfs, too, which may cancel (the demo's last down projection leaves 6.4e-3).
HALF_SUMS_NOISE = 2e-2
HALF_ELEMENT = 2**-10  # of what these add to an element: one product of two roundings may outweigh all others
SHARE, LEAST_SHARE = 1e-5, 1e-12  # of an expert's share, by how an exponential is rounded: of itself, and at least
# Which of the codes next to a half have rounded the other way is not known, but what all of them do together: an
# element may be off by that and so many rms of it, a row's rms by so many.
MOST = 10.0
MOST_RMS = 3.0


class Tracer(Protocol):
    """What runs a program kernel by kernel."""

    def trace(self, program: str) -> Iterator[tuple[Kernel, dict[str, NDArray[np.generic]]]]:
        """Run kernel by kernel, with each kernel's outputs."""


@dataclass(frozen=True, slots=True)
class VerifyRow:
    """One comparison. `error`, `allowed`: of the element that comes closest to its bound, or of the row whose rms does.

    `scale`: the reference's largest element.
    """

    program: str
    kernel: str
    op: str
    error: float
    allowed: float
    scale: float
    ok: bool


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows that are compared, int64[n] each, and where the part that they are of begins and ends."""

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    start: int
    end: int


class Comparison:
    """Walks a graph beside traced programs, with two references: one of them rounds ties the other way."""

    def __init__(self, graph: Graph, artifact: Artifact, tracer: Tracer) -> None:
        self.graph = graph
        self.tracer = tracer
        plan = artifact.plan
        rows = cache_format(plan.state[0].format)
        self.paging = Paging.of(plan)
        self.state = plan_state(graph, rows, plan.context, plan.rows)
        self.weights = artifact_weights(artifact)
        self.references = (
            Reference(self.weights, rounded=True, rows=rows),
            Reference(self.weights, rounded=True, rows=rows, ties=True),
        )
        self.rows: list[VerifyRow] = []

    def programs(
        self, names: Sequence[str], tokens: NDArray[np.int64], start: int, compared: NDArray[np.int64]
    ) -> None:
        """Trace programs that together run `tokens` from position `start` on; of their rows some are `compared`.

        Before each comparison the operations up to the compared value are evaluated. What the other rows append to the
        cache is taken from the device.
        """
        part = _Part(tokens[compared], start + compared, start, start + len(tokens))
        both: tuple[dict[str, Floats], dict[str, Floats]] = ({}, {})
        found: dict[str, Floats] = {}
        layers = {op.out.name + ".cache": op.layer for op in self.graph.ops if isinstance(op, Attention)}
        makers = {op.out.name: op for op in self.graph.ops}
        remaining = iter(self.graph.ops)
        steps = ((name, *step) for name in names for step in self.tracer.trace(name))
        for program, kernel, outputs in steps:
            caches = {
                value: self._cache(output, layers[value], part) for value, output in outputs.items() if value in layers
            }
            for value, cache in caches.items():
                self._take(layers[value], cache, part)
            for value, output in outputs.items():
                if value in layers:
                    self._compare_cache(program, kernel, value, layers[value], caches[value], part)
                    continue
                while value not in both[0]:
                    op: Op = next(remaining)
                    with np.errstate(invalid="ignore"):  # what a device made before may be no number
                        results = self._evaluate(op, both, part, kernel)
                    for values, result in zip(both, results, strict=True):
                        values[op.out.name] = result
                actual = output.reshape(-1, output.shape[-1])[compared].astype(np.float32)
                op = makers[value]
                known = [found[x.name] for x in inputs(op) if x.name in found] if isinstance(op, Add) else []
                before = known[0] if known else None
                noise = WEIGHTS_NOISE if isinstance(op, Attention) and program != "step_r1" else NOISE
                rounds = (_half_noise(kernel), HALF_ELEMENT) if _of_halfs(kernel) else (noise, 0.0)
                more = _gates(op, both[0], kernel) if _of_halfs(kernel) and isinstance(op, Gated) else 0.0
                if isinstance(op, Route):  # numbers of experts beside shares, of which none is a sum
                    rounds, more = (0.0, SHARE), LEAST_SHARE
                self._compare(program, kernel, value, both[0][value], both[1][value], actual, before, *rounds, more)
                both[0][value] = both[1][value] = found[value] = actual

    def _evaluate(
        self,
        op: Op,
        both: tuple[dict[str, Floats], dict[str, Floats]],
        part: _Part,
        kernel: Kernel,
    ) -> Sequence[Floats]:
        """The result of an operation of `kernel` in both references, a matrix read once for both."""
        pairs = zip(self.references, both, strict=True)
        if isinstance(op, Linear | ExpertLinear):
            read = {value.name: np.concatenate([values[value.name] for values in both]) for value in inputs(op)}
            x = op.x.name
            if _of_fp4(kernel):
                vectors = [(v[x].reshape(-1, op.weight.cols), reference.ties) for reference, v in pairs]
                read[x] = np.concatenate([round_fp4(*each).reshape(both[0][x].shape) for each in vectors])
            elif not _of_halfs(kernel):
                read[x] = np.concatenate([reference.given(v[x], op.weight) for reference, v in pairs])
            exact = Reference(self.weights, rounded=False)
            return np.split(exact.evaluate(op, read, part.tokens, part.positions), 2)
        if isinstance(op, Attention) and _of_half_queries(kernel):
            halfs = [(reference, {**v, op.q.name: _half_queries(v[op.q.name], op.scale)}) for reference, v in pairs]
            return [reference.evaluate(op, values, part.tokens, part.positions) for reference, values in halfs]
        return [reference.evaluate(op, values, part.tokens, part.positions) for reference, values in pairs]

    def _cache(self, output: NDArray[np.generic], layer: int, part: _Part) -> Floats:
        """A layer's cache as the device has it after a part."""
        return self.state.layers[layer].decode(output.astype(np.uint8))[:, : part.end]

    def _take(self, layer: int, actual: Floats, part: _Part) -> None:
        """Have the references know of the device's cache what the part's rows appended."""
        for reference in self.references:
            known = reference.cache.get(layer, actual[:, :0])
            reference.cache[layer] = np.concatenate([known[:, : part.start], actual[:, part.start :]], axis=1)

    def _compare_cache(self, program: str, kernel: Kernel, value: str, layer: int, actual: Floats, part: _Part) -> None:
        """Of what the device still holds: in place of what a window has left behind lies what came later."""
        held = max(0, blocks_for(part.end) - self.paging.most(self.state.layers[layer].group)) * BLOCK_TOKENS
        usual, ties, rows = (
            cache[:, held:].reshape(-1, cache.shape[2] * cache.shape[3])
            for cache in (*(reference.cache[layer] for reference in self.references), actual)
        )
        self._compare(program, kernel, value, usual, ties, rows)
        for reference in self.references:
            reference.cache[layer] = actual

    def _compare(
        self,
        program: str,
        kernel: Kernel,
        op: str,
        expected: Floats,
        ties: Floats,
        actual: Floats,
        before: Floats | None = None,
        noise: float = NOISE,
        half: float = 0.0,
        more: Floats | float = 0.0,
    ) -> None:
        error, allowed = closest(expected, ties, actual, before, noise, half, more)
        scale = float(np.abs(expected).max())
        self.rows.append(VerifyRow(program, kernel.name, op, error, allowed, scale, error <= allowed))


def closest(
    expected: Floats,
    ties: Floats,
    actual: Floats,
    before: Floats | None = None,
    noise: float = NOISE,
    half: float = 0.0,
    more: Floats | float = 0.0,
) -> tuple[float, float]:
    """The error of float32[rows, width] that comes closest to its bound or goes farthest beyond it, and that bound.

    Every element and the rms of every row has one. `ties`: what is expected if ties are rounded the other way.
    `before`: what the kernel has added to, known from the device. `noise`: of the rms of what it adds, `half` of each
    element of that; `more`: of each element itself.
    """
    flips = ties - expected
    error = np.where(np.isfinite(actual), actual - expected, np.float32(np.inf))
    sums = expected if before is None else expected - before
    added = noise * _rms(sums)
    elements = ELEMENT * np.abs(expected) + half * np.abs(sums) + added + np.abs(flips) + MOST * _rms(flips) + more
    rows = ELEMENT * _rms(expected) + added + MOST_RMS * _rms(flips)
    errors = np.concatenate([np.abs(error), _rms(error)], axis=1)
    allowed = np.concatenate([elements, rows], axis=1)
    at = np.unravel_index(np.argmax(errors / np.maximum(allowed, np.finfo(np.float32).tiny)), errors.shape)
    return float(errors[at]), float(allowed[at])


def _gates(op: Gated, values: dict[str, Floats], kernel: Kernel) -> Floats:
    """How far each element of a gate's product may be off if both factors are products of halfs.

    No function of a gate leaves more of it than it was, or has a slope above 1.13.
    """
    gate, up = values[op.gate.name], values[op.up.name]
    factor = np.abs(up) + (1 if op.activation == "clamped_silu" else 0)
    found = _half_noise(kernel) * (1.13 * factor * _rms(gate) + np.abs(gate) * _rms(up))
    return found.astype(np.float32)


def _of_halfs(kernel: Kernel) -> bool:
    """Whether it multiplies halfs."""
    return kernel.tiles is not None and kernel.tiles.kind.startswith("half")


def _of_half_queries(kernel: Kernel) -> bool:
    """Whether it attends for several rows of a sequence, whose queries it rounds."""
    return kernel.tiles is not None and kernel.tiles.kind.startswith("attention")


def _half_queries(q: Floats, scale: float) -> Floats:
    """Queries as such a kernel has them: rounded to float16 once the softmax's scale is in them, for exponents of 2."""
    factor = np.float32(scale * np.log2(np.e))
    found: Floats = (q * factor).astype(np.float16).astype(np.float32) / factor
    return found


def _of_fp4(kernel: Kernel) -> bool:
    """Whether it multiplies e2m1 with scales on both sides."""
    return kernel.tiles is not None and kernel.tiles.mma == "nvfp4"


def _half_noise(kernel: Kernel) -> float:
    return HALF_SUMS_NOISE if kernel.tiles is not None and kernel.tiles.mma == "half" else HALF_NOISE


def _rms(rows: Floats) -> Floats:
    rms: Floats = np.sqrt(np.mean(np.square(rows), axis=1, keepdims=True))
    return rms
