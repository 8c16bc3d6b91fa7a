"""Steps of several sequences in one program: who goes together, and that each gets its own tokens."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from unittest.mock import patch

import pytest
from fake_device import FakeDevice, Grammar, expected
from tiny_artifact import STOP, kernel, make_plan, write_tiny

from imp_runtime.artifact import Artifact
from imp_runtime.block_manager import BlockManager
from imp_runtime.chunk_times import Chunk, ChunkTimes
from imp_runtime.engine import Engine
from imp_runtime.plan import LAST_TOKEN, TOP_ENTRIES, Plan, Program
from imp_runtime.sampling import SamplingParams
from imp_runtime.scheduler import CHUNK_US, SHARED_ROWS, Batch, Scheduler
from imp_runtime.sequence import Sequence
from imp_server.cli import execute

PROGRAMS = ((4, 3), (16, 5))


def running(
    count: int,
    blocks: int = 1000,
    programs: tuple[tuple[int, int], ...] = PROGRAMS,
    times: ChunkTimes | None = None,
) -> tuple[Scheduler, list[Sequence]]:
    """`count` sequences whose prompts have been run."""
    scheduler = Scheduler(64, 1, 300, BlockManager(blocks), together=programs, times=times)
    every = [Sequence(i, tuple(range(3)), SamplingParams(), 0, 1000) for i in range(count)]
    for sequence in every:
        scheduler.add(sequence)
    with patch.object(scheduler, "_ends", count):  # all in one batch, more than those programs would take
        scheduler.next()
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


def rows_of(batch: Batch | None) -> dict[int, int]:
    assert batch is not None
    assert sum(len(run.tokens) for run in batch.sequences) <= batch.rows
    return {run.sequence.id: len(run.tokens) for run in batch.sequences}


def test_steps_ride_along_with_prompts() -> None:
    """Every part of a prompt has a row of each answer beside it, and the answers go on together."""
    scheduler, every = running(3)
    scheduler.add(Sequence(3, tuple(range(800)), SamplingParams(), 0, 1000))
    found = [scheduler.next() for _ in range(4)]
    assert [rows_of(batch) for batch in found] == [
        {3: 297, 0: 1, 1: 1, 2: 1},
        {3: 297, 0: 1, 1: 1, 2: 1},
        {3: 206, 0: 1, 1: 1, 2: 1},
        {0: 1, 1: 1, 2: 1, 3: 1},
    ]
    assert all(batch and batch.together for batch in found)
    assert [sequence.launched for sequence in every] == [5, 5, 5]


def test_steps_come_between_where_each_is_alone() -> None:
    """One step of all after each part of a prompt, and no more."""
    scheduler, _ = running(2, programs=())
    scheduler.add(Sequence(2, tuple(range(800)), SamplingParams(), 0, 1000))
    found = [scheduler.next() for _ in range(6)]
    assert [rows_of(batch) for batch in found] == [{2: 300}, {0: 1}, {1: 1}, {2: 300}, {0: 1}, {1: 1}]
    assert not any(batch and batch.together for batch in found)


def test_who_waits_for_the_host_has_a_step_between() -> None:
    """Its token is on its way when the next rows of a prompt are chosen; they wait until it has had its step."""
    scheduler, every = running(3)
    every[1].constraint = Grammar(1)
    scheduler.add(Sequence(3, tuple(range(800)), SamplingParams(), 0, 1000))
    assert rows_of(scheduler.next()) == {3: 298, 0: 1, 2: 1}
    assert rows_of(scheduler.next()) == {0: 1}, "others need not wait"
    every[1].generated.append(5)
    assert rows_of(scheduler.next()) == {1: 1}
    every[1].generated.append(5)
    assert rows_of(scheduler.next()) == {3: 297, 0: 1, 1: 1, 2: 1}


def test_answers_wait_for_as_many_rows_as_there_is_time_for() -> None:
    times = ChunkTimes([Chunk(64, 4_000, 8_000), Chunk(512, 30_000, 60_000)], 10_000)
    scheduler = Scheduler(64, 1, 512, BlockManager(1000), together=PROGRAMS, times=times)
    scheduler.add(Sequence(0, tuple(range(700)), SamplingParams(), 0, 1000))
    assert [rows_of(scheduler.next()) for _ in range(3)] == [{0: 512}, {0: 188}, {0: 1}], "nobody waits"
    time = CHUNK_US / 1000
    long = Sequence(1, tuple(range(1, 9_001)), SamplingParams(), 0, 10)
    scheduler.add(long)
    assert rows_of(scheduler.next()) == {1: 64 + int(448 * (time - 4) / (30 - 4)) - 1, 0: 1}
    while long.cached < 5_000:
        at, rows = long.cached / 10_000, rows_of(scheduler.next())
        least, most = 4 + 4 * at, 30 + 30 * at  # ms
        assert rows == {1: 64 + int(448 * (time - least) / (most - least)) - 1, 0: 1}


def test_a_prompt_by_itself_takes_all_rows_and_several_share_fewer() -> None:
    scheduler = Scheduler(2, 1, 2048, BlockManager(1000), together=PROGRAMS)
    first, second, third = (Sequence(i, tuple(range(i, 5_000 + i)), SamplingParams(), 0, 10) for i in range(3))
    scheduler.add(first)
    assert rows_of(scheduler.next()) == {0: 2048}
    scheduler.add(second)
    assert rows_of(scheduler.next()) == {1: SHARED_ROWS}, "who has had nothing yet"
    assert rows_of(scheduler.next()) == {0: SHARED_ROWS}
    scheduler.finish(second, "abort")
    scheduler.add(third)
    scheduler.finish(first, "abort")
    assert rows_of(scheduler.next()) == {2: 2048}


def test_what_chunks_take_corrects_what_is_expected() -> None:
    """The device takes 0.9 times what was predicted of a prompt's first rows, and 1.9 of its last."""
    times = ChunkTimes([Chunk(64, 4_000, 8_000), Chunk(128, 6_000, 12_000), Chunk(512, 25_000, 45_000)], 16_000)
    scheduler = Scheduler(64, 1, 512, BlockManager(2000), together=PROGRAMS, times=times)
    scheduler.add(Sequence(0, (1, 2, 3), SamplingParams(), 0, 1000))
    assert rows_of(scheduler.next()) == {0: 3}
    long = Sequence(1, tuple(range(16_000)), SamplingParams(), 0, 10)
    scheduler.add(long)
    taken = []
    while long.cached < 15_500:
        at = long.cached
        batch = scheduler.next()
        assert batch is not None
        predicted = times.predicted_us(sum(rows_of(batch).values()), at)
        assert batch.predicted_us == predicted
        taken.append(predicted * (0.9 + at / 16_000))
        scheduler.took(batch, taken[-1])
    assert len(taken) > 30
    assert max(taken) < 1.1 * CHUNK_US
    assert min(taken[1:]) > 0.9 * CHUNK_US
    small = Sequence(2, (5, 6, 7), SamplingParams(), 0, 10)
    scheduler.finish(long, "abort")
    scheduler.add(small)
    batch = scheduler.next()
    assert batch is not None
    assert (rows_of(batch), batch.predicted_us) == ({2: 3, 0: 1}, 0.0), "of whole programs only"


def test_the_engine_takes_the_time_of_chunks(tmp_path: Path) -> None:
    """A device that is half as fast as predicted gets half as many rows at a time."""
    plan, us = make_plan(), {8: 0.1 * CHUNK_US, 24: 1.1 * CHUNK_US}
    programs = tuple(
        dataclasses.replace(p, first_us=us[p.rows], last_us=us[p.rows])
        if p.name.startswith("forward_r") and p.rows > 1
        else p
        for p in plan.targets[0].programs
    )
    plan = dataclasses.replace(plan, targets=(dataclasses.replace(plan.targets[0], programs=programs),))
    device = FakeDevice(2)
    engine = Engine(Artifact.open(write_tiny(tmp_path / "tiny.impc", plan)), device)
    greedy = SamplingParams(max_tokens=1000, ignore_eos=True)
    engine.add((1, 2, 3), greedy)
    while not engine.step():
        pass
    chunks: list[int] = []

    def elapsed(_begin: object, _end: object) -> float:
        chunks.append(len(device.forwarded))
        return 2 * CHUNK_US / 1000 * (0.1 + (chunks[-1] - 8) / 16)

    with patch.object(device, "elapsed_ms", elapsed):
        engine.add(tuple(n % 5 + 8 for n in range(400)), greedy)
        while len(chunks) < 9:
            engine.step()
    assert chunks[0] == 8 + int(16 * 0.9)
    assert chunks[6:] == [8 + int(16 * 0.4)] * 3


def test_a_slow_model_takes_the_least_rows() -> None:
    scheduler, _ = running(40, times=ChunkTimes([Chunk(64, 50_000, 90_000), Chunk(512, 300_000, 600_000)], 1000))
    scheduler.add(Sequence(40, tuple(range(800)), SamplingParams(), 0, 1000))
    assert rows_of(scheduler.next()) == {40: 49, **dict.fromkeys(range(15), 1)}


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
    """The plan with programs for steps of up to 4 and 8 sequences, which are worth it for so many."""
    target = plan.targets[0]
    kernels = target.program("forward_r8").kernels + target.program(f"logits_r{plan.rows}").kernels
    ends = (
        Program(f"{name}_r{rows}", rows, (kernel(f"{name}_several", ends=rows),))
        for name in ("head", "sample", "sieve", "export", "top")
        for rows in (4, 8)
    )
    programs = (*target.programs, *(Program(f"batch_r{rows}", rows, kernels, worth) for rows in (4, 8)), *ends)
    return dataclasses.replace(plan, targets=(dataclasses.replace(target, programs=programs),))


@pytest.mark.parametrize(
    ("seed", "longest"),
    [
        *((seed, 20) for seed in range(6)),
        *(pytest.param(seed, 260, marks=pytest.mark.thorough) for seed in range(6, 46)),
    ],
)
def test_everybody_gets_their_own_tokens(tmp_path: Path, seed: int, longest: int) -> None:
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
    with Engine(artifact, device, kv_tokens=20 * longest) as engine:
        every: list[Sequence] = []
        rules: list[int | None] = []
        while len(every) < 24 or engine.has_work:
            if len(every) < 24 and rng.random() < 0.5:
                params = dataclasses.replace(rng.choice(kinds), max_tokens=rng.randint(1, longest), seed=len(every))
                rule = rng.randint(0, 9) if rng.random() < 0.2 else None
                prompt = [rng.randrange(2, 30) for _ in range(rng.randint(1, 30))]
                every.append(engine.add(prompt, params, None if rule is None else Grammar(rule)))
                rules.append(rule)
            if every and rng.random() < 0.6 / longest:
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
