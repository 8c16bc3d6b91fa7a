from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fake_device import FakeDevice, expected, logit_row
from tiny_artifact import CONTEXT, STOP, VOCAB, make_plan, plane_bytes, with_kernel, write_tiny

from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine
from imp_runtime.errors import ImpError
from imp_runtime.plan import NO_LEDGER, RING, Binding
from imp_runtime.sampling import SamplingParams
from imp_runtime.scheduler import Batch
from imp_runtime.sequence import Sequence, Status

Make = Callable[..., Engine]
PLENTY = 5000


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(*, seed: int = 0, kv_tokens: int | None = PLENTY, **sizes: int) -> Engine:
        artifact = Artifact.open(write_tiny(tmp_path / "tiny.impc", **sizes))
        plan = artifact.plan
        device = FakeDevice(seed, table_blocks=plan.table_blocks, context=plan.context, ledgers=plan.ledgers)
        return Engine(artifact, device, kv_tokens=kv_tokens)

    return build


def random_requests(count: int, seed: int, longest: int = 90) -> list[tuple[list[int], SamplingParams]]:
    rng = random.Random(seed)
    requests = []
    for _ in range(count):
        prompt = [rng.randrange(VOCAB) for _ in range(rng.randint(1, longest))]
        params = SamplingParams(
            temperature=rng.choice([0.0, 0.8]),
            seed=rng.randrange(2**64),
            max_tokens=rng.randint(1, 70),
            ignore_eos=rng.random() < 0.7,
            frequency_penalty=rng.choice([0.0, 0.5]),
        )
        requests.append((prompt, params))
    return requests


def check_memory(engine: Engine) -> None:
    """Sequences share a block only where all their tokens so far are the same; the device's tables are the host's.

    Who wants a ledger has one of its own.
    """
    running = engine._scheduler.running
    lent = [s.ledger for s in running if s.wants_ledger]
    assert sorted([*lent, *engine._scheduler._free_ledgers]) == list(range(engine.plan.ledgers))
    assert all(s.ledger == NO_LEDGER for s in (*running, *engine._scheduler.waiting) if s.ledger not in lent)
    windows = [group.window for group in engine.plan.state]
    holders: dict[int, set[tuple[int, ...]]] = {}
    for s in running:
        held = [block for blocks in s.blocks for block in blocks if block]
        assert len(set(held)) == len(held)
        for group, (blocks, window) in enumerate(zip(s.blocks, windows, strict=True)):
            for i, block in enumerate(blocks):
                if not block:
                    assert window
                    assert 16 * (i + 1) <= min(s.cached, s.known) - window + 1, "nobody will see it"
                    continue
                # A block that is not yet full, or has unread tokens, belongs to one sequence.
                full = 16 * (i + 1) <= min(s.cached, s.known)
                content = s.tokens(0, 16 * (i + 1)) if full else (-s.id,)
                holders.setdefault(block, set()).add((group, *content))
            if window:
                assert sum(map(bool, blocks)) <= (window + engine.plan.rows) // 16 + 2
    assert {len(contents) for contents in holders.values()} <= {1}
    assert len({s.slot for s in running}) == len(running)
    free = engine._scheduler._manager.free_blocks
    assert free + len(holders) == engine.runner.blocks - 1
    for s in running:
        if s.cached and not s.moved:
            table = engine.runner.read_table(s.slot, s.told)
            for group, blocks in enumerate(s.blocks):
                # Who has given a block back need not be told.
                assert all(told == block for told, block in zip(table[:, group], blocks, strict=False) if block)


def run_all(engine: Engine, requests: list[tuple[list[int], SamplingParams]], check_every: int = 7) -> list[Sequence]:
    sequences = [engine.add(prompt, params) for prompt, params in requests]
    delivered: dict[int, list[int]] = {s.id: [] for s in sequences}
    finishes: dict[int, str | None] = {}
    steps = 0
    while engine.has_work:
        for output in engine.step():
            assert output.sequence.id not in finishes, "a token after the end"
            delivered[output.sequence.id].append(output.token)
            if output.finish:
                finishes[output.sequence.id] = output.finish
        steps += 1
        if steps % check_every == 0:
            check_memory(engine)
        assert steps < 100_000
    for s, (prompt, params) in zip(sequences, requests, strict=True):
        tokens, finish = expected(prompt, params, s.seed, s.limit, engine.plan.stop_tokens)
        assert (delivered[s.id], finishes[s.id]) == (tokens, finish)
        assert s.generated == tokens
    check_memory(engine)
    assert engine._scheduler._manager.free_blocks == engine.runner.blocks - 1
    return sequences


@pytest.mark.parametrize("count", [1, 8, 30])
def test_sequences_together_generate_what_each_would_alone(make: Make, count: int) -> None:
    run_all(make(seed=count), random_requests(count, count))


@pytest.mark.parametrize("kv_tokens", [160, 256])
def test_preempted_sequences_generate_the_same(make: Make, kv_tokens: int) -> None:
    engine = make(seed=kv_tokens, kv_tokens=kv_tokens)
    preempted = 0
    original = engine._scheduler._preempt

    def counting(sequence: Sequence) -> None:
        nonlocal preempted
        preempted += 1
        assert sequence is max(engine._scheduler.running, key=lambda s: s.id)
        original(sequence)

    engine._scheduler._preempt = counting  # type: ignore[method-assign]  # counts calls
    run_all(engine, random_requests(40, 3, longest=20), check_every=1)
    assert preempted >= 3


def test_chunk_boundaries(make: Make) -> None:
    engine = make()
    lengths = [1, 7, 8, 9, 15, 16, 17, 23, 24, 25, 47, 48, 49, 72]
    prompts = [[(i * n) % VOCAB for i in range(n)] for n in lengths]
    run_all(engine, [(p, SamplingParams(max_tokens=20, ignore_eos=True)) for p in prompts])


def test_the_ring_wraps_around(make: Make) -> None:
    engine = make()
    run_all(engine, [([1, 2, 3], SamplingParams(max_tokens=1100, ignore_eos=True))], check_every=50)
    assert engine._launcher.chosen == 1100 > RING


def test_context_end_is_a_length_finish(make: Make) -> None:
    engine = make(context=64)
    (sequence,) = run_all(engine, [([5] * 40, SamplingParams(max_tokens=1000, ignore_eos=True))])
    assert (len(sequence.generated), sequence.finish) == (24, "length")
    assert len(list(engine.generate([1] * 63, SamplingParams(ignore_eos=True)))) == 1


def test_a_cache_smaller_than_the_context_limits_it(make: Make) -> None:
    engine = make(kv_tokens=100)
    assert engine.context == 112
    (sequence,) = run_all(engine, [([5] * 90, SamplingParams(max_tokens=1000, ignore_eos=True))])
    assert len(sequence.generated) == 22
    with pytest.raises(ImpError, match=r"prompt has 112 tokens, the context holds 112"):
        engine.add([1] * 112, SamplingParams())


def test_decode_is_launched_before_the_token_before_it_is_read(make: Make) -> None:
    engine = make()
    sequence = engine.add([1, 2, 3], SamplingParams(max_tokens=50, ignore_eos=True))
    engine._device.rng.random = lambda: 1.0  # type: ignore[attr-defined]  # nothing runs before somebody waits
    engine.step()
    ahead = []
    while engine.has_work:
        ahead.append(sequence.unread)
        engine.step()
    assert ahead[:40] == [1] * 40
    assert engine._launcher.chosen == 50, "nothing may be launched beyond max_tokens"


def test_a_stop_token_ends_and_overshoot_is_dropped(make: Make) -> None:
    engine = make()
    found = 0
    for first in range(VOCAB):
        tokens, finish = expected([first], SamplingParams(), 0, 30, [STOP])
        if finish == "stop":
            found += 1
            assert list(engine.generate([first], SamplingParams(max_tokens=30))) == tokens[:-1]
    assert found > 5
    assert not engine.has_work


@pytest.mark.parametrize("steps", range(0, 14, 2))
def test_abort_at_any_time(make: Make, steps: int) -> None:
    engine = make(slots=2)
    requests = random_requests(5, 9)
    victims = [engine.add([3] * 80, SamplingParams(max_tokens=50, ignore_eos=True)) for _ in range(4)]
    for _ in range(steps):
        engine.step()
    for victim in victims:
        engine.abort(victim)
        engine.abort(victim)
        assert (victim.status, victim.finish) == (Status.FINISHED, "abort")
    assert not engine.has_work
    known = [list(victim.generated) for victim in victims]
    run_all(engine, requests)
    assert [victim.generated for victim in victims] == known


def test_closing_generate_early_frees_everything(make: Make) -> None:
    engine = make()
    stream = engine.generate([1, 2], SamplingParams(ignore_eos=True))
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # generators have close
    assert not engine.has_work
    check_memory(engine)


def test_prefill_and_decode_take_turns(make: Make) -> None:
    engine = make()
    device = engine._device
    short = engine.add([1], SamplingParams(max_tokens=200, ignore_eos=True))
    for _ in range(4):
        engine.step()
    engine.add([2] * 480, SamplingParams(max_tokens=1, ignore_eos=True))
    device.synchronize()
    device.ran.clear()  # type: ignore[attr-defined]
    while engine._scheduler.waiting or any(s.prefilling for s in engine._scheduler.running):
        engine.step()
    device.synchronize()
    ran = device.ran  # type: ignore[attr-defined]
    assert ran.count("rows") == 20
    assert ran.count("step") >= 19
    assert all(pair != ("rows", "rows") for pair in pairwise(ran))
    engine.abort(short)


def test_input_is_uploaded_only_when_the_slot_changes(make: Make) -> None:
    engine = make()
    engine.add([1, 2, 3], SamplingParams(max_tokens=100, ignore_eos=True))
    for _ in range(3):
        engine.step()
    uploads = engine._device.uploads  # type: ignore[attr-defined]
    before = len(uploads)
    for _ in range(64):
        engine.step()
    assert len(uploads) - before == 4, "one table entry for every 16 tokens, nothing else"


@pytest.mark.parametrize("length", [1, 8, 23, 24, 25, 100])
def test_logits_at_every_position(make: Make, length: int) -> None:
    engine = make()
    running = engine.add([4], SamplingParams(max_tokens=40, ignore_eos=True))
    for _ in range(5):
        engine.step()
    tokens = [(3 * i) % VOCAB for i in range(length)]
    result = engine.logits(tokens)
    assert result.shape == (length, VOCAB)
    assert result.dtype == np.float32
    for i in range(length):
        np.testing.assert_array_equal(result[i], logit_row(tokens[: i + 1]))
    while engine.has_work:
        engine.step()
    assert running.generated == expected([4], running.params, running.seed, 40, [])[0]
    assert engine._scheduler._manager.free_blocks == engine.runner.blocks - 1


def test_seeds(make: Make) -> None:
    engine = make()
    params = SamplingParams(temperature=1.0, max_tokens=12, ignore_eos=True)
    assert list(engine.generate([1], params)) != list(engine.generate([1], params))
    fixed = SamplingParams(temperature=1.0, max_tokens=12, ignore_eos=True, seed=5)
    assert list(engine.generate([1], fixed)) == list(engine.generate([1], fixed))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "prompt is empty"),
        ([1, VOCAB], rf"prompt\[1\] is {VOCAB}, expected a token id from 0 to {VOCAB - 1}"),
        ([-1], r"prompt\[0\] is -1"),
        ([1] * CONTEXT, f"prompt has {CONTEXT} tokens"),
    ],
)
def test_bad_prompts(make: Make, prompt: list[int], message: str) -> None:
    engine = make()
    with pytest.raises(ImpError, match=message):
        engine.add(prompt, SamplingParams())
    assert not engine.has_work


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("top_p", 1.5),
        ("min_p", -0.1),
        ("top_k", -1),
        ("top_k", 1.5),
        ("repetition_penalty", 0.0),
        ("frequency_penalty", 3.0),
        ("presence_penalty", float("inf")),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("seed", 2**64),
    ],
)
def test_bad_sampling_parameters_name_field_and_value(field: str, value: object) -> None:
    with pytest.raises(ImpError, match=f"^{field} is {value!r}"):
        SamplingParams(**{field: value})  # type: ignore[arg-type]  # wrong on purpose


def test_planes_and_arguments_are_where_the_plan_says(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imp_runtime.model_runner._UPLOAD_BYTES", 128)
    engine = make()
    artifact, runner = engine.artifact, engine.runner
    for plane in artifact.plan.planes:
        address = runner.address(Binding(f"weights/{plane.name}"))
        assert address % 256 == 0
        np.testing.assert_array_equal(engine._device.download(address, plane.nbytes), artifact.plane(plane.name))
    (launch,) = runner._launches["step_r1"]
    assert launch.args[-2:] == (runner.address(Binding("weights/embed")) + 4, runner.address(Binding("weights/head")))
    assert (launch.grid, launch.block, launch.shared_bytes) == ((3, 2, 1), 64, 1024)


def test_trace_returns_declared_outputs(make: Make) -> None:
    engine = make()
    engine.add([1, 2], SamplingParams(max_tokens=9, ignore_eos=True))
    for _ in range(2):
        engine.step()
    values = np.arange(7, dtype=np.float32)
    engine.runner.write("logits.all", values)
    ((kernel, outputs),) = engine.runner.trace("step_r1")
    assert kernel.name == "step"
    np.testing.assert_array_equal(outputs["x"], values[1:].reshape(2, 3))


def test_too_little_memory(tmp_path: Path) -> None:
    artifact = Artifact.open(write_tiny(tmp_path / "tiny.impc"))
    device = FakeDevice(memory=100)
    with pytest.raises(ImpError, match=r"tiny.impc: the weights need 556 bytes, fake has 100 free; close"):
        Engine(artifact, device)
    assert device.closed
    with pytest.raises(ImpError, match=r"a KV cache of 512 tokens needs 2,112 bytes, fake has 0 left"):
        Engine(artifact, FakeDevice(memory=100_000))
    with pytest.raises(ImpError, match=r"kv_tokens is 3, expected at least 32"):
        Engine(artifact, FakeDevice(), kv_tokens=3)


def test_the_cache_takes_what_is_free(tmp_path: Path) -> None:
    artifact = Artifact.open(write_tiny(tmp_path / "tiny.impc"))
    assert Engine(artifact, FakeDevice()).runner.kv_tokens == 8 * CONTEXT
    some = Engine(artifact, FakeDevice(memory=(256 << 20) + 775_000)).runner.kv_tokens
    assert 512 < some < 8 * CONTEXT


def test_the_cache_takes_no_more_than_its_share(tmp_path: Path) -> None:
    """A block has 64 bytes: of a whole and of a half as many, but for the one that nobody gets."""
    artifact = Artifact.open(write_tiny(tmp_path / "tiny.impc"))

    def blocks(**more: float) -> int:
        return Engine(artifact, FakeDevice(memory=(256 << 20) + 775_000), **more).runner.blocks  # type: ignore[arg-type]

    assert blocks(kv_share=1.0) == blocks()
    assert blocks(kv_share=0.5) == pytest.approx(blocks() / 2, abs=1)
    assert blocks(kv_share=0.5, kv_tokens=320) == blocks(kv_tokens=320) == 21
    with pytest.raises(ImpError, match=r"a KV cache of 1024 tokens needs 4,160 bytes, fake has \d,\d\d\d left"):
        blocks(kv_share=0.03, kv_tokens=1024)
    for share in (0.0, -1.0, 1.01, float("nan")):
        with pytest.raises(ImpError, match=r"kv_share is .*, expected more than 0 and at most 1"):
            blocks(kv_share=share)


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    plan = make_plan()
    target = plan.targets[0]
    for gone, message in (
        ("step_r1", "no program step_r1"),
        (("forward_r8", "forward_r25"), "has no forward_r program of several rows"),
    ):
        programs = tuple(p for p in target.programs if not p.name.startswith(gone))
        changed = type(plan)(
            **{
                **{f: getattr(plan, f) for f in plan.__slots__},
                "targets": (replace(target, programs=programs),),
            }
        )
        device = FakeDevice()
        with pytest.raises(ImpError, match=message):
            Engine(Artifact.open(write_tiny(tmp_path / "tiny.impc", changed)), device)
        assert device.closed


def test_a_program_that_samples_nothing_is_an_error_not_a_hang(make: Make) -> None:
    engine = make()
    engine.add([1], SamplingParams(max_tokens=1))
    engine.runner._replays["sample_r1"] = engine._device.capture(())
    assert engine.step() == []
    with pytest.raises(ImpError, match="ended without a token"):
        engine.step()


def test_load_of_a_missing_target_says_what_to_do(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.impc")
    with pytest.raises(ImpError, match=r"no code for sm_90a; it carries fake; compile with --target sm_90a"):
        Engine.load(path, target="sm_90a")
    with pytest.raises(ImpError, match=r"target fake does not run on this machine"):
        Engine.load(path, target="fake")


def test_a_damaged_plane_is_refused_by_name(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.impc")
    data = bytearray(path.read_bytes())
    data[data.index(plane_bytes(make_plan())["head"]) + 100] ^= 4
    path.unlink()
    path.write_bytes(data)
    device = FakeDevice()
    with pytest.raises(ImpError, match=r"tiny.impc: plane 'head' is not what its checksum says"):
        Engine(Artifact.open(path), device)
    assert device.closed
    Engine(Artifact.open(path), FakeDevice(), check_weights=False).close()


def test_with_kernel_is_checked_on_the_way_in(tmp_path: Path) -> None:
    with pytest.raises(ImpError, match=r"grid.x is 0"):
        write_tiny(tmp_path / "tiny.impc", with_kernel(make_plan(), grid=(0, 1, 1)))


@pytest.mark.parametrize("seed", range(6))
def test_an_abort_while_work_is_launched_frees_at_once_and_harms_nobody(make: Make, seed: int) -> None:
    """As another thread does it: between the choice of work and its launch, and at any write to the device."""
    engine = make(seed=seed)
    rng = random.Random(seed)
    requests = random_requests(24, seed + 50)
    sequences = [engine.add(prompt, params) for prompt, params in requests]
    victims = {sequences[i] for i in rng.sample(range(24), 12)}
    manager, scheduler = engine._scheduler._manager, engine._scheduler
    aborted = []

    def perhaps(victim: Sequence, chance: float) -> None:
        if victim in victims and victim.status is not Status.FINISHED and rng.random() < chance:
            held, free = sum(map(len, victim.blocks)), manager.free_blocks
            engine.abort(victim)
            assert (victim.status, victim.slot, victim.blocks) == (Status.FINISHED, -1, [])
            assert manager.free_blocks == free + held
            aborted.append(held)

    def choosing(choose: Callable[[], Batch | None]) -> Callable[[], Batch | None]:
        def run() -> Batch | None:
            if (batch := choose()) is not None:
                for each in batch.sequences:
                    perhaps(each.sequence, 0.2 if batch.rows > 1 else 0.02)
            return batch

        return run

    def writing(write: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: object) -> None:
            perhaps(rng.choice(sequences), 0.1)
            write(*arguments)

        return run

    scheduler.next = choosing(scheduler.next)  # type: ignore[method-assign]  # with somebody in between
    for name in ("run", "write", "write_step", "write_rows", "write_slot", "write_table"):
        setattr(engine.runner, name, writing(getattr(engine.runner, name)))
    while engine.has_work:
        engine.step()
    assert sum(map(bool, aborted)) >= 3
    for s, (prompt, params) in zip(sequences, requests, strict=True):
        tokens, _ = expected(prompt, params, s.seed, s.limit, engine.plan.stop_tokens)
        assert s.generated == tokens[: len(s.generated)]
        assert s in victims or len(s.generated) == len(tokens)
    check_memory(engine)
    assert manager.free_blocks == engine.runner.blocks - 1


@pytest.mark.parametrize("least", [0, 3])
@pytest.mark.parametrize("prompt", [1, 30])
def test_an_abort_between_a_first_tokens_choice_and_its_launch(make: Make, prompt: int, least: int) -> None:
    """The sequence is no longer what it was when its work was chosen."""
    engine = make()
    other = engine.add([5], SamplingParams(max_tokens=9, ignore_eos=True))
    victim = engine.add([1] * prompt, SamplingParams(max_tokens=9, min_tokens=least, ignore_eos=True))
    choose = engine._scheduler.next

    def chosen() -> Batch | None:
        batch = choose()
        if batch is not None and any(run.sequence is victim and run.samples for run in batch.sequences):
            engine.abort(victim)
        return batch

    engine._scheduler.next = chosen  # type: ignore[method-assign]
    while engine.has_work:
        engine.step()
    assert (victim.finish, victim.generated) == ("abort", [])
    assert other.generated == expected([5], other.params, other.seed, 9, [STOP])[0]
    check_memory(engine)
