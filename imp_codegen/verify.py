"""verify: run the programs kernel by kernel and compare each result with the reference.

Every comparison starts from what the device itself computed before, so that the first operation that differs is the one
that is wrong, and errors do not add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imp_codegen.graph import Attention, Graph, Op
from imp_codegen.models import load_named
from imp_codegen.reference import Floats, Reference, artifact_weights
from imp_codegen.spec import ModelSpec
from imp_runtime.artifact import Artifact
from imp_runtime.plan import SAMPLING_DTYPE, DType, Kernel, Program

# Share of the largest element. int8 codes may round the other way (1/127 of a block's largest, damped by the sum over
# many blocks) and float16 may too; a wrong nibble, scale or index is off by tens of percent.
TOLERANCE = 5e-3
# The same of the step kernel, whose logits are all that can be seen of it: one code that is rounded the other way
# changes those of every layer behind it. Measured 1e-6 without such a code and 1 to 4 % with one, from 2 to 16 layers;
# 20 % and more with a position left out of attention or turned by one too many, or a word of codes taken twice.
STEP_TOLERANCE = 0.1
PROMPT_TOKENS = 21
_SLOT = 0


class Runner(Protocol):
    """What verify asks of a model runner."""

    def chunk_program(self, prefix: str, tokens: int) -> Program:
        """The program that takes a chunk of that many tokens."""

    def write_slot(
        self,
        slot: int,
        position: int,
        table: Sequence[int],
        sampling: NDArray[np.void],
        seen: NDArray[np.uint32] | None,
    ) -> None:
        """Set up a sequence."""

    def write_step(self, slot: int, tokens: Sequence[int]) -> None:
        """Say what the next program works on."""

    def run(self, program: str) -> None:
        """Enqueue a program."""

    def read(self, buffer: str, dtype: DType, shape: tuple[int, ...], offset: int = 0) -> NDArray[np.generic]:
        """A buffer's content."""

    def trace(self, program: str) -> Iterator[tuple[Kernel, dict[str, NDArray[np.generic]]]]:
        """Run kernel by kernel, with each kernel's outputs."""


@dataclass(frozen=True, slots=True)
class VerifyRow:
    """One comparison: the largest difference, and the reference's largest element."""

    program: str
    kernel: str
    op: str
    max_abs: float
    scale: float
    tolerance: float
    ok: bool


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """All comparisons, in order; `first_failure` is the first that differs."""

    rows: tuple[VerifyRow, ...]
    first_failure: VerifyRow | None


def verify(artifact: Artifact, runner: Runner, progress: Callable[[str, int, int], None]) -> VerifyReport:
    """A prompt through prefill, then one decode step, each kernel's outputs against the reference.

    Samples two tokens behind the back of an engine that owns the runner, which therefore must not go on afterwards.
    """
    spec = ModelSpec.from_json(artifact.read("spec.json"))
    comparison = _Comparison(load_named(spec.architecture).build(spec), artifact, runner)
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, spec.vocab, min(PROMPT_TOKENS, spec.context - 2, artifact.plan.chunk_tokens))
    # Blocks in descending order: a kernel that ignores the block table reads the wrong ones.
    blocks = range(1 + (len(prompt) + 1) // 16, 0, -1)
    greedy = np.zeros((), SAMPLING_DTYPE)
    greedy["top_p"] = greedy["repetition_penalty"] = 1
    seen = np.zeros(spec.vocab, np.uint32)
    runner.write_slot(_SLOT, 0, blocks, greedy, seen)
    runner.write_step(_SLOT, prompt.tolist())
    prefill = runner.chunk_program("prefill", len(prompt)).name
    progress("verify", 0, 2)
    comparison.program(prefill, prompt, 0)
    runner.run("sample_b1")
    token = runner.read("seq.token", "i32", (1,), 4 * _SLOT).astype(np.int64)
    runner.write_step(_SLOT, ())
    progress("verify", 1, 2)
    comparison.program("decode_b1", token, len(prompt))
    progress("verify", 2, 2)
    failures = [row for row in comparison.rows if not row.ok]
    return VerifyReport(tuple(comparison.rows), failures[0] if failures else None)


class _Comparison:
    """Walks a graph beside a traced program."""

    def __init__(self, graph: Graph, artifact: Artifact, runner: Runner) -> None:
        self.graph = graph
        self.runner = runner
        self.reference = Reference(artifact_weights(artifact), rounded=True)
        self.rows: list[VerifyRow] = []

    def program(self, name: str, tokens: NDArray[np.int64], start: int) -> None:
        """Trace one program; before each comparison the operations up to the compared value are evaluated."""
        values: dict[str, Floats] = {}
        layers = {op.k.name: op.layer for op in self.graph.ops if isinstance(op, Attention)}
        remaining = iter(self.graph.ops)
        for kernel, outputs in self.runner.trace(name):
            for value, found in outputs.items():
                if value in layers:
                    self._compare_cache(name, kernel, value, layers[value], found)
                    continue
                while value not in values:
                    op: Op = next(remaining)
                    values[op.out.name] = self.reference.evaluate(op, values, tokens, start)
                actual = found.reshape(-1, found.shape[-1])[: len(tokens)].astype(np.float32)
                self._compare(name, kernel, value, values[value], actual)
                values[value] = actual

    def _compare_cache(self, program: str, kernel: Kernel, value: str, layer: int, found: NDArray[np.generic]) -> None:
        actual = found.astype(np.float32)
        self._compare(program, kernel, f"{value} in the cache", self.reference.cache[layer], actual)
        self.reference.cache[layer] = actual

    def _compare(self, program: str, kernel: Kernel, op: str, expected: Floats, actual: Floats) -> None:
        difference = float(np.abs(expected - actual).max()) if np.isfinite(actual).all() else float("inf")
        scale = float(np.abs(expected).max())
        allowed = scale * (STEP_TOLERANCE if kernel.phases > 1 else TOLERANCE)
        self.rows.append(VerifyRow(program, kernel.name, op, difference, scale, allowed, difference <= allowed))
