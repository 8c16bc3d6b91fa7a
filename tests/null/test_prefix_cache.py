"""The prefix cache under the engine: tokens of the fake device are a hash of what lies in the blocks of a sequence."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_device import FakeDevice, expected, hidden_row, logit_row
from test_engine import check_memory, run_all
from tiny_artifact import STOP, VOCAB, write_tiny

from imp_runtime.artifact import Artifact
from imp_runtime.block_manager import BlockManager
from imp_runtime.engine import Engine
from imp_runtime.plan import LAST_TOKEN
from imp_runtime.sampling import SamplingParams
from imp_runtime.scheduler import Batch, Scheduler
from imp_runtime.sequence import Sequence, Status
from imp_server.commands import bench_batch, bench_speed
from imp_server.commands.bench_speed import Clocks

Make = Callable[..., Engine]
LONG = SamplingParams(max_tokens=40, ignore_eos=True)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(
        *, seed: int = 0, kv_tokens: int = 5000, prefix_cache: bool = True, deterministic: bool = False, **sizes: int
    ) -> Engine:
        artifact = Artifact.open(write_tiny(tmp_path / "tiny.impc", **sizes))
        device = FakeDevice(seed, table_blocks=artifact.plan.table_blocks, context=artifact.plan.context)
        return watched(
            Engine(artifact, device, kv_tokens=kv_tokens, prefix_cache=prefix_cache, deterministic=deterministic)
        )

    return build


def watched(engine: Engine) -> Engine:
    """Every piece of work writes into blocks that its sequence holds alone."""
    scheduler = engine._scheduler
    choose = scheduler.next

    def watch() -> object:
        batch = choose()
        for run in batch.sequences if batch else ():
            s = run.sequence
            places = slice(run.start // 16, (s.cached - 1) // 16 + 1)
            written = {block for blocks in s.blocks for block in blocks[places]}
            assert written
            assert 0 not in written
            own = {id(other.sequence): other.start // 16 for other in batch.sequences}  # type: ignore[union-attr]  # has runs
            for other in scheduler.running:
                # What one of a batch computes, others of it may already attend to.
                first = own.get(id(other), 0)
                assert other is s or all(written.isdisjoint(blocks[first:]) for blocks in other.blocks)
        return batch

    scheduler.next = watch  # type: ignore[assignment, method-assign]  # with a look at what it says
    return engine


def prompt_of(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(VOCAB) for _ in range(length)]


def prefilled(engine: Engine) -> list[int]:
    """How many tokens each chunk has that is run from now on."""
    chunks: list[int] = []
    write = engine.runner.write_rows

    def count(sequences: list[tuple[int, list[int], bool]], index: int) -> None:
        chunks.extend(len(tokens) for _, tokens, _ in sequences if tokens != (LAST_TOKEN,))
        write(sequences, index)

    engine.runner.write_rows = count  # type: ignore[method-assign]  # counts
    return chunks


def run(engine: Engine, prompt: list[int], params: SamplingParams = LONG) -> Sequence:
    (sequence,) = run_all(engine, [(prompt, params)])
    return sequence


@pytest.mark.parametrize(
    ("length", "cached"), [(1, 0), (15, 0), (16, 0), (17, 16), (32, 16), (33, 32), (100, 96), (160, 144)]
)
def test_the_same_prompt_again(make: Make, length: int, cached: int) -> None:
    """Whole blocks, and at least the last token is run: its logits are needed."""
    engine = make()
    assert run(engine, prompt_of(length)).prompt_cached == 0
    chunks = prefilled(engine)
    assert run(engine, prompt_of(length)).prompt_cached == cached
    assert sum(chunks) == length - cached


def test_a_conversation(make: Make) -> None:
    """The next turn begins with all of the one before, its answer included."""
    engine = make()
    prompt = prompt_of(50)
    for turn in range(8):
        chunks = prefilled(engine)
        sequence = run(engine, prompt)
        known = len(prompt) - 7 - 1 if turn else 0  # the last token of an answer is never run
        assert sequence.prompt_cached == known // 16 * 16
        assert sum(chunks) == len(prompt) - sequence.prompt_cached
        prompt = [*prompt, *sequence.generated, *prompt_of(7, turn)]


def test_what_an_answer_left_serves_nobody_where_bits_count(make: Make) -> None:
    """Of a conversation each turn finds what the prompt before it was, but not the answer to that."""
    engine = make(deterministic=True)
    prompt, before = prompt_of(50), 0
    for turn in range(4):
        sequence = run(engine, prompt)
        assert sequence.prompt_cached == before // 16 * 16
        before = len(prompt)
        prompt = [*prompt, *sequence.generated, *prompt_of(7, turn)]


def test_another_last_turn(make: Make) -> None:
    engine = make()
    run(engine, prompt_of(100))
    for seed in range(1, 5):
        assert run(engine, [*prompt_of(100)[:70], *prompt_of(30, seed)]).prompt_cached == 64


def test_blocks_with_the_same_tokens_behind_others_are_not_the_same(make: Make) -> None:
    engine = make()
    run(engine, [1] * 16 + [2] * 16 + [3] * 16)
    assert run(engine, [2] * 16 + [3] * 16 + [4]).prompt_cached == 0
    assert run(engine, [1] * 16 + [3] * 16 + [4]).prompt_cached == 16
    assert run(engine, [1] * 16 + [2] * 16 + [4]).prompt_cached == 32


def family(count: int, seed: int) -> list[tuple[list[int], SamplingParams]]:
    """Requests whose prompts are a few stems, cut anywhere, with something new behind."""
    rng = random.Random(seed)
    stems = [prompt_of(120, each) for each in range(3)]
    stems.append([*stems[0][:50], *prompt_of(60, 9)])
    requests = []
    for _ in range(count):
        stem = rng.choice(stems)
        prompt = stem[: rng.randint(1, len(stem))] + prompt_of(rng.randint(0, 12), rng.randrange(1000))
        params = SamplingParams(
            temperature=rng.choice([0.0, 0.0, 0.8]),
            seed=rng.randrange(2**64),
            max_tokens=rng.randint(1, 40),
            ignore_eos=rng.random() < 0.7,
            frequency_penalty=rng.choice([0.0, 0.0, 0.5]),
            logit_bias=rng.choice([(), ((3, 1.5),)]),
            top_logprobs=rng.choice([None, None, 2]),
        )
        requests.append((prompt, params))
    return requests


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kv_tokens", [176, 320, 5000])
def test_many_that_begin_alike_get_what_each_would_alone(make: Make, kv_tokens: int, seed: int) -> None:
    """With room for one sequence, for a few (blocks are evicted, sequences preempted), for all."""
    engine = make(seed=seed, kv_tokens=kv_tokens)
    manager = engine._scheduler._manager
    evict, evicted = manager._evict, []

    def counting() -> int:
        evicted.append(evict())
        return evicted[-1]

    manager._evict = counting  # type: ignore[method-assign]  # counts
    sequences = run_all(engine, family(60, seed), check_every=1)
    assert sum(s.prompt_cached for s in sequences) > 300
    assert (len(evicted) > 100) == (kv_tokens < 1000)


def test_of_several_with_one_prompt_each_computes_a_part(make: Make) -> None:
    scheduler = Scheduler(slots=3, ledgers=1, rows=32, manager=BlockManager(100))
    sequences = [Sequence(i, tuple(prompt_of(200)), SamplingParams(), 0, 1) for i in range(3)]
    for s in sequences:
        scheduler.add(s)
    batches = [scheduler.next() for _ in range(7)]
    runs = [run for batch in batches if batch for run in batch.sequences]
    assert [(run.sequence.id, run.start, len(run.tokens)) for run in runs] == [
        (0, 0, 32), (1, 32, 32), (2, 64, 32), (0, 96, 32), (1, 128, 32), (2, 160, 32), (0, 192, 8), (1, 192, 8),
        (2, 192, 8),
    ]  # fmt: skip
    assert batches[6] is not None
    assert len(batches[6].sequences) == 3, "the ends of their prompts go together"
    assert {s.prompt_cached for s in sequences} == {0}, "nothing was there when they came"

    engine = make()  # its chunks of 24 begin in the middle of blocks
    chunks = prefilled(engine)
    run_all(engine, [(prompt_of(480), SamplingParams(max_tokens=20, seed=i)) for i in range(4)], check_every=1)
    assert sum(chunks) < 2 * 480


def test_a_later_one_shares_what_a_running_one_has(make: Make) -> None:
    engine = make()
    first = engine.add(prompt_of(200), SamplingParams(max_tokens=100, ignore_eos=True))
    while len(first.generated) < 50:
        engine.step()
    second = engine.add(prompt_of(200), LONG)
    assert second.prompt_cached == 192, "known as soon as it has its slot"
    assert second.blocks[0][:12] == first.blocks[0][:12]
    while engine.has_work:
        engine.step()
        check_memory(engine)
    for s in (first, second):
        assert s.generated == expected(s.prompt, s.params, s.seed, s.limit, ())[0]


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 12, 30])
def test_an_abort_leaves_what_is_computed_and_no_more(make: Make, steps: int) -> None:
    for seed in range(5):
        engine = make(seed=seed)
        prompt = prompt_of(100)
        victim = engine.add(prompt, LONG)
        for _ in range(steps):
            engine.step()
        done = victim.cached
        engine.abort(victim)
        check_memory(engine)
        again = run(engine, [*prompt, *victim.generated, 5])
        assert again.prompt_cached == min(done, 100 + len(victim.generated)) // 16 * 16


def test_tokens_put_into_its_mouth_count_as_its_own(make: Make) -> None:
    """What was on its way when they came is void and must not be found."""
    for steps in range(4, 30):
        engine = make(seed=steps)
        sequence = engine.add(prompt_of(30), SamplingParams(max_tokens=60, ignore_eos=True))
        for _ in range(steps):
            engine.step()
        engine.inject(sequence, prompt_of(20, 3))
        while engine.has_work:
            engine.step()
        whole = [*sequence.prompt, *sequence.generated]
        assert run(engine, [*whole, 1, 2]).prompt_cached == (len(whole) - 1) // 16 * 16


def test_logits_and_hidden_states_take_and_leave_nothing(make: Make) -> None:
    engine = make(kv_tokens=200)
    tokens = prompt_of(90)
    for rows, row in ((engine.logits, logit_row), (engine.hidden, hidden_row)):
        result = rows(tokens)
        assert run(engine, [*tokens, 1], SamplingParams(max_tokens=1)).prompt_cached == (80 if row is hidden_row else 0)
        for i in range(90):
            np.testing.assert_array_equal(result[i], row(tokens[: i + 1]))
    assert run(engine, [*tokens, 2]).prompt_cached == 80
    engine.logits(prompt_of(190, 1))  # needs the blocks of others
    assert run(engine, [*tokens, 2]).prompt_cached < 80
    check_memory(engine)


def test_cached_blocks_count_as_free(make: Make) -> None:
    engine = make(kv_tokens=320)
    for seed in range(6):
        run(engine, prompt_of(250, seed))
        assert engine._scheduler._manager.free_blocks == engine.runner.blocks - 1
    assert run(engine, prompt_of(250, 5)).prompt_cached == 240
    assert run(engine, prompt_of(250, 0)).prompt_cached == 0


def test_a_waiting_prompt_does_not_lose_what_it_will_find(make: Make) -> None:
    """Blocks that it is going to share are taken before others are evicted for it."""
    engine = make(kv_tokens=320)
    run(engine, prompt_of(200), SamplingParams(max_tokens=1))
    run(engine, prompt_of(100, 1), SamplingParams(max_tokens=1))
    assert run(engine, [*prompt_of(200), *prompt_of(100, 2)], SamplingParams(max_tokens=1)).prompt_cached == 192


def test_preempted_sequences_find_their_own(make: Make) -> None:
    engine = make(kv_tokens=256)
    first = engine.add(prompt_of(60), SamplingParams(max_tokens=150, ignore_eos=True))
    second = engine.add(prompt_of(60, 1), SamplingParams(max_tokens=100, ignore_eos=True))
    starts = []
    launch = engine._launcher.launch

    def noting(batch: Batch) -> object:
        starts.extend((run.sequence.id, run.start) for run in batch.sequences if batch.rows > 1)
        return launch(batch)

    engine._launcher.launch = noting  # type: ignore[assignment, method-assign]  # looks on
    while engine.has_work:
        engine.step()
        check_memory(engine)
    for s in (first, second):
        assert s.generated == expected(s.prompt, s.params, s.seed, s.limit, ())[0]
        assert s.prompt_cached == 0
    again = [start for each, start in starts if each == second.id and start > 60]
    assert again, "it came back behind its prompt"


def test_switched_off(make: Make) -> None:
    engine = make(prefix_cache=False)
    for _ in range(3):
        assert run(engine, prompt_of(100)).prompt_cached == 0


def test_the_bench_measures_prompts_of_which_only_the_depth_is_cached(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_speed, "read_bandwidth", lambda runner: None)
    engine = make()
    sequences = noted(engine)
    chunks = prefilled(engine)
    bench_speed.measure(engine, prompt=100, generate=5, repetitions=3, depth=64)
    assert [len(s.prompt) for s in sequences] == [64, 164] * 4 + [64] * 5
    assert [s.prompt_cached for s in sequences] == [0, 64] * 4 + [0] * 5
    assert sum(chunks) == 4 * 164 + 5 * 64


@pytest.mark.parametrize("depth", [0, 20])
def test_the_bench_of_several_sequences_computes_prompts_once_and_times_steps_of_all(
    make: Make, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts run before any step, their last blocks once more; then all run, until the last token that counts."""
    monkeypatch.setattr(bench_speed, "read_bandwidth", lambda runner: None)
    monkeypatch.setattr(bench_batch, "with_bandwidth", lambda engine, result, start, generate: result)
    engine = make(slots=4)
    sequences = noted(engine)
    chunks = prefilled(engine)
    running: list[int] = []
    now = Clocks.now

    def look(clocks: type[Clocks]) -> Clocks:
        running.append(sum(s.answering for s in engine._scheduler.running))
        return now()

    monkeypatch.setattr(Clocks, "now", classmethod(look))
    before = engine._scheduler._manager.free_blocks
    results = bench_batch.measure_batches(engine, [3], 40, 6, 1, depth)
    end = f" @ d{depth}" if depth else ""
    assert [result.test for result in results] == [f"pp40 b3{end}", f"tg6 b3 @ d{40 + depth}"]
    assert all(result.each == pytest.approx(result.mean / 3) for result in results)
    # Twice: the depth, the prompts behind it, and what is asked for again.
    lengths = ([depth] * 3 if depth else []) + [40 + depth] * 6
    assert [len(s.prompt) for s in sequences] == 2 * lengths
    cached = (40 + depth - 1) // 16 * 16
    assert [s.prompt_cached for s in sequences[-6:]] == [depth // 16 * 16] * 3 + [cached] * 3
    once = 3 * depth + 3 * (40 + depth - depth // 16 * 16) + 3 * (40 + depth - cached)
    assert sum(chunks) == 2 * once
    # Around the prompts nobody answers, around the steps all do.
    assert running == [0, 0, 3, 3] * 2
    assert not engine.has_work
    assert engine._scheduler._manager.free_blocks == before


def noted(engine: Engine) -> list[Sequence]:
    """Every sequence that is added from now on."""
    sequences: list[Sequence] = []
    add = engine.add

    def noting(prompt: list[int], params: SamplingParams) -> Sequence:
        sequences.append(add(prompt, params))
        return sequences[-1]

    engine.add = noting  # type: ignore[assignment, method-assign]  # looks on
    return sequences


def test_a_stop_token_of_an_answer_counts_where_it_was_run(make: Make) -> None:
    """A chat's next turn has it; it is in the cache if the step after it had been launched already."""
    engine = make()
    for seed in range(40):
        prompt = prompt_of(40, seed)
        first = run(engine, prompt, SamplingParams(max_tokens=40))
        if first.finish == "stop":
            assert first.generated[-1] == STOP
        run(engine, [*prompt, *first.generated, *prompt_of(20, seed + 1)])


def test_the_scheduler_never_gives_a_block_of_unread_tokens_a_name() -> None:
    """Their values are not known: others must not find them."""
    manager = BlockManager(100)
    scheduler = Scheduler(slots=1, ledgers=1, rows=100, manager=manager)
    s = Sequence(0, tuple(range(30)), SamplingParams(), 0, 100)
    scheduler.add(s)
    scheduler.next()
    s.generated.append(7)
    for _ in range(40):
        scheduler.next()
    assert s.cached > 64
    assert s.unread == 40
    scheduler.finish(s, "abort")
    assert s.status is Status.FINISHED
    assert len(s.names) == 1
    assert len(manager._named) == 1
