"""Steps of several sequences in one program: who goes together, and that each gets its own tokens."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
from fake_device import FakeDevice, Grammar, expected
from tiny_artifact import STOP, kernel, make_plan, write_tiny

from imp_runtime.artifact import Artifact
from imp_runtime.block_manager import BlockManager
from imp_runtime.engine import Engine
from imp_runtime.plan import LAST_TOKEN, TOP_ENTRIES, Plan, Program
from imp_runtime.sampling import SamplingParams
from imp_runtime.scheduler import Batch, Scheduler
from imp_runtime.sequence import Sequence
from imp_server.cli import execute

PROGRAMS = ((4, 3), (16, 5))


def running(
    count: int, blocks: int = 1000, programs: tuple[tuple[int, int], ...] = PROGRAMS
) -> tuple[Scheduler, list[Sequence]]:
    """`count` sequences whose prompts have been run."""
    scheduler = Scheduler(64, 1, 300, BlockManager(blocks))
    every = [Sequence(i, tuple(range(3)), SamplingParams(), 0, 1000) for i in range(count)]
    for sequence in every:
        scheduler.add(sequence)
    scheduler.next()
    scheduler._together = programs  # only now, since a batch ends no more prompts than a program takes
    return scheduler, every


def ids(batch: Batch | None) -> list[int]:
    assert batch is not None
    assert batch.together == (batch.rows > 1)
    assert all((run.tokens, run.samples) == ((LAST_TOKEN,), True) for run in batch.sequences)
    return [run.sequence.id for run in batch.sequences]


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (2, 1), (3, 4), (4, 4), (5, 16), (16, 16), (40, 16)])
def test_together_where_it_is_worth_it(count: int, rows: int) -> None:
    scheduler, _ = running(count)
    batch = scheduler.next()
    assert batch is not None
    assert (batch.rows, len(batch.sequences)) == (rows, min(count, rows))
    assert {i for _ in range(-(-count // rows) - 1) for i in ids(scheduler.next())} | set(ids(batch)) == set(
        range(count)
    )


def test_never_without_such_programs() -> None:
    scheduler, _ = running(8, programs=())
    assert [ids(scheduler.next()) for _ in range(8)] == [[i] for i in range(8)]


def test_who_has_waited_longest_goes_first() -> None:
    scheduler, _ = running(20)
    assert ids(scheduler.next()) == list(range(16))
    assert ids(scheduler.next())[:4] == [16, 17, 18, 19]


def test_prompts_come_between() -> None:
    """One step of all after each part of a prompt, and no more."""
    scheduler, _ = running(3)
    scheduler.add(Sequence(3, tuple(range(800)), SamplingParams(), 0, 1000))
    found = [scheduler.next() for _ in range(6)]
    assert [batch and len(batch.sequences) for batch in found] == [1, 3, 1, 3, 1, 3]


def test_as_many_as_there_are_blocks_for() -> None:
    """Whoever finds none waits until all that is on its way is read; then the youngest gives its own."""
    scheduler, every = running(4, blocks=8)  # one is nobody's
    for _ in range(13):
        assert ids(scheduler.next()) == [0, 1, 2, 3]
    assert ids(scheduler.next()) == [0, 1, 2]
    assert scheduler.next() is None
    for sequence in every:
        sequence.generated += [1] * sequence.unread
    assert ids(scheduler.next()) == [0, 1, 2]
    assert scheduler.running == every[:3]


def test_a_batch_chooses_no_more_tokens_than_can_be_on_their_way() -> None:
    scheduler = Scheduler(256, 1, 512, BlockManager(1000))
    for i in range(256):
        scheduler.add(Sequence(i, (1,), SamplingParams(), 0, 10))
    batch = scheduler.next()
    assert batch is not None
    assert len(batch.sequences) == TOP_ENTRIES // 2


def together(plan: Plan, worth: int) -> Plan:
    """The plan with a program for steps of up to 8 sequences, which is worth it for so many."""
    target = plan.targets[0]
    kernels = target.program("forward_r8").kernels + target.program(f"logits_r{plan.rows}").kernels
    ends = (
        Program(f"{name}_r8", 8, (kernel(f"{name}_several"),)) for name in ("head", "sample", "sieve", "export", "top")
    )
    programs = (*target.programs, Program("batch_r8", 8, kernels, worth), *ends)
    return dataclasses.replace(plan, targets=(dataclasses.replace(target, programs=programs),))


@pytest.mark.parametrize("seed", range(6))
def test_everybody_gets_their_own_tokens(tmp_path: Path, seed: int) -> None:
    """Sequences that come, end and are aborted at random times, with all kinds of sampling."""
    rng = random.Random(seed)
    device = FakeDevice(seed)
    artifact = Artifact.open(write_tiny(tmp_path / "m.impc", together(make_plan(), rng.choice((2, 3)))))
    kinds = (
        SamplingParams(ignore_eos=True),
        SamplingParams(temperature=1.0, ignore_eos=True),
        SamplingParams(temperature=0.9, presence_penalty=0.5, ignore_eos=True),
        SamplingParams(temperature=1.0, typical_p=0.8, ignore_eos=True),
        SamplingParams(top_logprobs=3, ignore_eos=True),
    )
    with Engine(artifact, device, kv_tokens=400) as engine:
        every: list[Sequence] = []
        rules: list[int | None] = []
        while len(every) < 24 or engine.has_work:
            if len(every) < 24 and rng.random() < 0.5:
                params = dataclasses.replace(rng.choice(kinds), max_tokens=rng.randint(1, 20), seed=len(every))
                rule = rng.randint(0, 9) if rng.random() < 0.2 else None
                prompt = [rng.randrange(2, 30) for _ in range(rng.randint(1, 30))]
                every.append(engine.add(prompt, params, None if rule is None else Grammar(rule)))
                rules.append(rule)
            if every and rng.random() < 0.03:
                engine.abort(rng.choice(every))
            engine.step()
        assert {"sample_several", "sieve_several", "top_several", "head_several"} <= set(device.ran)
        for one, rule in zip(every, rules, strict=True):
            if one.finish != "abort":
                grammar = None if rule is None else Grammar(rule)
                wanted, _ = expected(one.prompt, one.params, one.seed, one.limit, (STOP,), grammar)
                assert one.generated == wanted, one.params


def test_inspect_says_from_how_many_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_tiny(tmp_path / "m.impc", together(make_plan(), 3))
    assert execute(["inspect", str(file)]) == 0
    assert "batch_r8: up to 8 rows, 2 kernels, for steps of 3 sequences and more" in capsys.readouterr().out
