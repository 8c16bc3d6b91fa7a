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

from imp_codegen.comparison import Comparison, Tracer, VerifyRow
from imp_codegen.models import load_named
from imp_codegen.ops import Attention
from imp_codegen.spec import ModelSpec
from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError
from imp_runtime.paging import Paging, blocks_for
from imp_runtime.plan import NO_LEDGER, SAMPLING_DTYPE, DType, Program

PROMPT_TOKENS = 21
COMPARED, LAST = 24, 4  # of a longer part so many rows are compared, these of them its last ones
_SLOT = 0


class Runner(Tracer, Protocol):
    """What verify asks of a model runner."""

    @property
    def programs(self) -> Sequence[Program]:
        """Every program."""

    @property
    def kv_tokens(self) -> int:
        """Positions that the cache holds."""

    def write_slot(self, slot: int, position: int, table: Sequence[int], sampling: NDArray[np.void]) -> None:
        """Set up a sequence."""

    def write_step(self, slot: int) -> None:
        """The next programs run the slot's next row."""

    def write_rows(self, sequences: Sequence[tuple[int, Sequence[int], bool]]) -> None:
        """What the next program of several rows runs: slots, tokens, and whether one is chosen after them."""

    def write_end(self, row: int, slot: int) -> None:
        """The row and the slot of which a token is to be chosen."""

    def run(self, program: str) -> None:
        """Enqueue a program."""

    def read(self, buffer: str, dtype: DType, shape: tuple[int, ...], offset: int = 0) -> NDArray[np.generic]:
        """A buffer's content."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """All comparisons, in order; `first_failure` is the first that differs.

    `positions`: of the sequence that was run. `not_compared`: programs of which no result was. `not_reached`: windows,
    in positions, that are not behind the sequence's end.
    """

    rows: tuple[VerifyRow, ...]
    first_failure: VerifyRow | None
    positions: int
    not_compared: tuple[str, ...]
    not_reached: tuple[int, ...]


def verify(
    artifact: Artifact, runner: Runner, progress: Callable[[str, int, int], None], tokens: int | None = None
) -> VerifyReport:
    """One sequence through every program: prompts, a step, and one in each program for several sequences.

    First 21 tokens in the smallest program of prompts, all rows compared, then a part in each of them that does not
    quite fill it, of which some rows are: a matrix is read as often as programs are run, whatever their rows.
    `tokens`: positions of the sequence, which leaves parts out or runs the largest program again and again; ImpError
    where the context or the runner's cache holds fewer. Else each program has its part, as far as they hold it.

    Samples two tokens behind the back of an engine that owns the runner, which therefore must not go on afterwards.
    """
    spec = ModelSpec.from_json(artifact.read("spec.json"))
    graph = load_named(spec.architecture).build(spec)
    comparison = Comparison(graph, artifact, runner)
    names = [program.name for program in runner.programs]
    steps = ["step_r1", *(name for name in names if name.startswith("batch_r"))]
    room = min(spec.context, artifact.plan.context, runner.kv_tokens)
    if tokens is not None and tokens > room:
        raise ImpError(f"{artifact.path}: a sequence of {tokens:,} tokens is more than the {room:,} it has room for")
    parts = list(_parts(runner.programs, (tokens or room) - len(steps), again=tokens is not None))
    rng = np.random.default_rng(0)
    # Blocks in descending order: a kernel that ignores the block table reads the wrong ones.
    count = sum(rows for _, rows in parts) + len(steps)
    paging = Paging.of(artifact.plan)
    table = paging.table(count, range(paging.blocks(blocks_for(count)), 0, -1))
    greedy = np.zeros((), SAMPLING_DTYPE)
    greedy["top_p"] = greedy["repetition_penalty"] = 1
    greedy["ledger"] = NO_LEDGER
    runner.write_slot(_SLOT, 0, table, greedy)
    position, done = 0, 0
    for program, rows in parts:
        progress("verify", done, len(parts) + len(steps))
        prompt, last = rng.integers(0, spec.vocab, rows), done == len(parts) - 1
        runner.write_rows([(_SLOT, prompt.tolist(), last)])
        ended = [name for name in names if name == f"logits_r{program.rows}"]
        comparison.programs([program.name, *ended], prompt, position, _compared(rows, rng))
        position, done = position + rows, done + 1
    runner.write_end(parts[-1][1] - 1, _SLOT)
    runner.run("head_r1")
    runner.run("sample_r1")
    runner.write_step(_SLOT)
    for step in steps:
        progress("verify", done, len(parts) + len(steps))
        token = runner.read("seq.token", "i32", (1,), 4 * _SLOT).astype(np.int64)
        if step != "step_r1":
            runner.write_rows([(_SLOT, token.tolist(), False)])
        comparison.programs([step], token, position, np.arange(1))
        position, done = position + 1, done + 1
    progress("verify", done, done)
    compared = {row.program for row in comparison.rows}
    windows = sorted({op.window for op in graph.ops if isinstance(op, Attention) and op.window >= position})
    return VerifyReport(
        tuple(comparison.rows),
        next((row for row in comparison.rows if not row.ok), None),
        position,
        tuple(name for name in names if name not in compared),
        tuple(windows),
    )


def _parts(programs: Sequence[Program], rows: int, *, again: bool) -> Iterator[tuple[Program, int]]:
    """Programs of prompts, and how many of the next rows each runs, of at most `rows` and at least one.

    Each leaves some for those behind it, if there are any. `again`: the largest goes on until there are so many.
    """
    prompts = sorted((p for p in programs if p.name.startswith("forward_r") and p.rows > 1), key=lambda p: p.rows)
    left = max(1, rows)
    for at, (program, most) in enumerate([(prompts[0], PROMPT_TOKENS), *((p, _most_of(p)) for p in prompts)]):
        count = min(most, max(left - PROMPT_TOKENS * (len(prompts) - at), min(PROMPT_TOKENS, left)), program.rows)
        if count:
            yield program, count
        left -= count
    while again and left:
        count = min(_most_of(prompts[-1]), left)
        yield prompts[-1], count
        left -= count


def _most_of(program: Program) -> int:
    """Rows that do not fill a program, nor its last tile of any usual size."""
    return program.rows - program.rows // 16 - 3


def _compared(rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of a part that are compared, ascending: the first, the last, and between them some anywhere."""
    if rows <= COMPARED:
        return np.arange(rows)
    between = 1 + rng.choice(rows - LAST - 1, COMPARED - LAST - 1, replace=False)
    return np.concatenate([[0], np.sort(between), np.arange(rows - LAST, rows)])
