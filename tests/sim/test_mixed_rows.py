"""Rows of several sequences in one program: each gets what it would get alone, bit for bit, whoever else is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from imp_codegen.compiler import CompileOptions, compile_model
from imp_runtime.artifact import Artifact
from imp_runtime.device import open_device
from imp_runtime.model_runner import ModelRunner
from imp_runtime.plan import BLOCK_TOKENS, LAST_TOKEN, NO_LEDGER
from imp_runtime.sampling import SamplingParams
from model_checks import quiet
from prefix_checks import prompt_of

ROOT = Path(__file__).parents[2]
PROMPTS = [prompt_of(length, length) for length in (37, 1, 80, 19, 53)]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelRunner]:
    output = tmp_path_factory.mktemp("demo") / "demo.impc"
    compile_model(ROOT / "models" / "demo.gguf", output, ("sim",), CompileOptions(), quiet)
    runner = ModelRunner(Artifact.open(output), open_device("sim", simulated=True))
    yield runner
    runner.close()


def begin(runner: ModelRunner) -> None:
    """Every slot is an empty sequence; blocks in descending order."""
    each = -(-max(map(len, PROMPTS)) // BLOCK_TOKENS) + 1
    for slot in range(len(PROMPTS)):
        table = range((slot + 1) * each, slot * each, -1)
        runner.write_slot(slot, 0, table, SamplingParams().record(0, NO_LEDGER))


def logits_of(runner: ModelRunner, rows: Sequence[tuple[int, Sequence[int]]]) -> list[NDArray[np.float32]]:
    """Of slots and their next tokens, run together, the logits of each."""
    runner.write_rows([(slot, tokens, False) for slot, tokens in rows])
    for kind in ("forward", "logits"):
        runner.run(runner.program_for(kind, 128).name)
    total = sum(len(tokens) for _, tokens in rows)
    found = runner.read("logits.all", "f32", (total, runner.plan.vocab)).astype(np.float32)
    return np.split(found, np.cumsum([len(tokens) for _, tokens in rows])[:-1])


def alone(runner: ModelRunner) -> list[NDArray[np.float32]]:
    begin(runner)
    return [logits_of(runner, [(slot, prompt)])[0] for slot, prompt in enumerate(PROMPTS)]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in (1, 2, 3))])
def test_prompts_in_any_mix(runner: ModelRunner, seed: int) -> None:
    """Odd parts of all prompts, in any order, until all are through; parts of one token may be the last one chosen."""
    truth = alone(runner)
    begin(runner)
    rng = np.random.default_rng(seed)
    found: list[list[NDArray[np.float32]]] = [[] for _ in PROMPTS]
    done = [0] * len(PROMPTS)
    while any(at < len(prompt) for at, prompt in zip(done, PROMPTS, strict=True)):
        rows, left = [], 128
        for slot in rng.permutation(len(PROMPTS)).tolist():
            tokens = PROMPTS[slot][done[slot] : done[slot] + int(min(left, rng.integers(0, 60)))]
            if not tokens:
                continue
            done[slot] += len(tokens)
            left -= len(tokens)
            if len(tokens) == 1:
                runner.write_token(slot, tokens[0])
                tokens = [LAST_TOKEN]
            rows.append((slot, tokens))
        for (slot, _), part in zip(rows, logits_of(runner, rows) if rows else (), strict=True):
            found[slot].append(part)
    for parts, expected in zip(found, truth, strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_tokens_after_prompts_that_end_together(runner: ModelRunner) -> None:
    """Every one of several has its head and its end: the likeliest token of its last row, its own place to go on."""
    truth = alone(runner)
    begin(runner)
    slots = [3, 0, 4]
    before = int(runner.read("out.count", "u32", (1,))[0])
    runner.write_rows([(slot, PROMPTS[slot], slot != 0) for slot in slots])
    runner.run(runner.program_for("forward", 128).name)
    row, chosen = -1, {}
    for slot in slots:
        row += len(PROMPTS[slot])
        if slot != 0:
            runner.write_end(row, slot)
            runner.run("head_r1")
            runner.run("sample_r1")
            chosen[slot] = int(runner.read("seq.token", "i32", (1,), 4 * slot)[0])
    assert chosen == {slot: int(truth[slot][-1].argmax()) for slot in (3, 4)}
    entries = [int(runner.ring[(before + i) % len(runner.ring)]) for i in range(2)]
    assert entries == [before + i + 1 << 32 | chosen[slot] for i, slot in enumerate((3, 4))]
    positions = runner.read("seq.position", "i32", (5,)).tolist()
    assert [positions[slot] for slot in slots] == [len(PROMPTS[slot]) for slot in slots]
