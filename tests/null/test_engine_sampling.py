"""Masks, host sampling, logprobs, min_tokens, injection and hidden states, on the fake device."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_device import FakeDevice, Grammar, device_choice, expected, hidden_row, logit_row, surprised
from test_engine import check_memory
from tiny_artifact import HIDDEN, STOP, VOCAB, make_plan, write_tiny

from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine, StepOutput
from imp_runtime.errors import ImpError
from imp_runtime.host_sampler import HostSampler
from imp_runtime.sampling import SamplingParams
from imp_runtime.scheduler import Batch
from imp_runtime.sequence import Sequence

Make = Callable[..., Engine]
Request = tuple[list[int], SamplingParams, tuple[int, int] | None]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(*, seed: int = 0, kv_tokens: int = 5000, **sizes: int) -> Engine:
        artifact = Artifact.open(write_tiny(tmp_path / "tiny.impc", **sizes))
        plan = artifact.plan
        device = FakeDevice(seed, table_blocks=plan.table_blocks, context=plan.context, ledgers=plan.ledgers)
        return Engine(artifact, device, kv_tokens=kv_tokens)

    return build


def mixed_requests(count: int, seed: int, longest: int) -> list[Request]:
    """Of every kind: on the GPU alone, with a grammar, on the host, with logprobs, and of several kinds at once."""
    rng = random.Random(seed)
    requests: list[Request] = []
    for _ in range(count):
        knobs: dict[str, object] = {}
        if rng.random() < 0.3:
            knobs |= rng.choice(
                [{"typical_p": 0.7}, {"dry_multiplier": 2.0}, {"mirostat": 2}, {"xtc_probability": 0.5}]
            )
        if rng.random() < 0.3:
            knobs |= {"repetition_penalty": 1.5, "repeat_last_n": rng.choice([-1, 0, 1, 7, 30])}
        if rng.random() < 0.2:
            knobs |= {"dry_multiplier": 0.5, "dry_sequence_breakers": ((rng.randrange(VOCAB), 3), (4,))}
        if rng.random() < 0.2:
            knobs["sampled_logprobs"] = True
        if rng.random() < 0.3:
            knobs["top_logprobs"] = rng.randint(0, 4)
        if rng.random() < 0.3:
            knobs["min_tokens"] = rng.randint(1, 30)
        if rng.random() < 0.3:
            knobs["logit_bias"] = ((rng.randrange(VOCAB), 2.5), (rng.randrange(VOCAB), -1000.0))
        if rng.random() < 0.3:
            knobs["stop_tokens"] = (rng.randrange(VOCAB),)
        params = SamplingParams(
            temperature=rng.choice([0.0, 0.8]),
            seed=rng.randrange(2**64),
            max_tokens=rng.randint(1, 50),
            ignore_eos=rng.random() < 0.6,
            presence_penalty=rng.choice([0.0, 0.5]),
            **knobs,  # type: ignore[arg-type]  # each has its own type
        )
        grammar = (rng.randint(0, 4), rng.choice([10, 10**9])) if rng.random() < 0.4 else None
        requests.append(([rng.randrange(VOCAB) for _ in range(rng.randint(1, longest))], params, grammar))
    return requests


def check_logprobs(sequence: Sequence, index: int, output: StepOutput) -> None:
    count = sequence.params.top_logprobs
    if count is None:
        assert (output.logprob, output.top) == (None, ())
        return
    if sequence.params.sampled_logprobs:
        return  # tests/null/test_host_sampler.py has what these are
    row = logit_row([*sequence.prompt, *sequence.generated[:index]]).astype(np.float64)
    row -= np.log(np.exp(row).sum())
    assert output.logprob == pytest.approx(row[output.token])
    best = sorted(range(VOCAB), key=lambda token: -row[token])[:count]
    assert [token for token, _ in output.top] == best
    assert [value for _, value in output.top] == pytest.approx(row[best].tolist())


def run_all(engine: Engine, requests: list[Request]) -> None:
    sequences = [engine.add(p, params, Grammar(*g) if g else None) for p, params, g in requests]
    delivered: dict[int, list[StepOutput]] = {s.id: [] for s in sequences}
    steps = 0
    while engine.has_work:
        for output in engine.step():
            assert not any(o.finish for o in delivered[output.sequence.id]), "a token after the end"
            check_logprobs(output.sequence, len(delivered[output.sequence.id]), output)
            delivered[output.sequence.id].append(output)
        steps += 1
        if steps % 5 == 0:
            check_memory(engine)
        assert steps < 100_000
    for s, (prompt, params, grammar) in zip(sequences, requests, strict=True):
        want = expected(
            prompt, params, s.seed, s.limit, engine.plan.stop_tokens, Grammar(*grammar) if grammar else None
        )
        assert ([o.token for o in delivered[s.id]], delivered[s.id][-1].finish) == want
    assert engine._scheduler._manager.free_blocks == engine.runner.blocks - 1


@pytest.mark.parametrize("ledgers", [1, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 8, 30, 31, 32])
def test_sequences_of_all_kinds_together_generate_what_each_would_alone(make: Make, count: int, ledgers: int) -> None:
    run_all(make(seed=count, ledgers=ledgers), mixed_requests(count, count, 90))


@pytest.mark.parametrize("ledgers", [4, 8])
@pytest.mark.parametrize("kv_tokens", [160, 256])
def test_the_same_with_preemption(make: Make, kv_tokens: int, ledgers: int) -> None:
    engine = make(seed=kv_tokens, kv_tokens=kv_tokens, ledgers=ledgers)
    preempted = []
    original = engine._scheduler._preempt
    engine._scheduler._preempt = lambda s: (preempted.append(s), original(s))[1]  # type: ignore[method-assign]
    requests = [
        (prompt, dataclasses.replace(params, max_tokens=60, ignore_eos=True, stop_tokens=()))
        for prompt, params, _ in mixed_requests(40, 4, 20)
    ]
    run_all(engine, [(*request, (i, 10**9) if i % 3 == 0 else None) for i, request in enumerate(requests)])
    assert len(preempted) >= 3
    assert any(s.constraint for s in preempted)
    assert any(s.sampler for s in preempted)


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_waits_for_one_chunk_at_most(make: Make, seed: int) -> None:
    """From its prompt's last rows to its last token, whoever comes with whatever prompts; the tokens are its own."""
    engine, rng = make(seed=seed, slots=6, ledgers=4), random.Random(seed)
    launched: list[Batch] = []
    choose = engine._scheduler.next

    def recorded() -> Batch | None:
        batch = choose()
        launched.extend([batch] if batch else [])
        return batch

    engine._scheduler.next = recorded  # type: ignore[method-assign]
    waiting = [(p * 3, dataclasses.replace(params, max_tokens=40), g) for p, params, g in mixed_requests(20, seed, 60)]
    come: list[tuple[Sequence, Request]] = []
    while waiting or engine.has_work:
        while waiting and rng.random() < 0.2:
            prompt, params, grammar = waiting.pop()
            sequence = engine.add(prompt, params, Grammar(*grammar) if grammar else None)
            come.append((sequence, (prompt, params, grammar)))
        engine.step()
    longest = 0
    for sequence, (prompt, params, grammar) in come:
        rule = Grammar(*grammar) if grammar else None
        want = expected(prompt, params, sequence.seed, sequence.limit, [STOP], rule)
        assert (sequence.generated, sequence.finish) == want
        own = [n for n, b in enumerate(launched) if any(r.sequence is sequence and r.samples for r in b.sequences)]
        for before, after in itertools.pairwise(own):
            between = launched[before + 1 : after]
            longest = max(longest, sum(batch.rows > 1 for batch in between))
            steps = Counter(batch.sequences[0].sequence.id for batch in between if batch.rows == 1)
            assert max(steps.values(), default=0) <= 2, "all take turns"
    assert longest == 1
    assert len(launched) > 150


def test_a_fast_sequence_stays_pipelined_beside_slow_ones(make: Make) -> None:
    engine = make()
    fast = engine.add([1, 2], SamplingParams(max_tokens=60, ignore_eos=True))
    engine.add([3], SamplingParams(max_tokens=60, ignore_eos=True), Grammar())
    engine.add([4], SamplingParams(max_tokens=60, ignore_eos=True, sampled_logprobs=True))
    for _ in range(12):
        engine.step()
    engine._device.rng.random = lambda: 1.0  # type: ignore[attr-defined]  # nothing runs before somebody waits
    launched_unread = 0
    for _ in range(60):
        before = fast.launched
        engine.step()
        launched_unread += fast.launched > before and len(engine._in_flight) > 0
    assert launched_unread >= 15


@pytest.mark.parametrize(
    "knobs",
    [
        {"min_tokens": 50, "logit_bias": ((5, 1.0),)},
        {"temperature": 0.8, "typical_p": 0.9},
        {"temperature": 0.8, "mirostat": 2},
        {"dry_multiplier": 1.0, "repetition_penalty": 1.1, "repeat_last_n": 20},
    ],
    ids="+".join,
)
def test_the_next_token_is_launched_before_the_last_is_read(make: Make, knobs: dict[str, Any]) -> None:
    alone = make()
    sequence = alone.add([1], SamplingParams(max_tokens=50, ignore_eos=True, **knobs))
    alone._device.rng.random = lambda: 1.0  # type: ignore[attr-defined]
    alone.step()
    ahead = []
    while alone.has_work:
        ahead.append(sequence.unread)
        alone.step()
    assert ahead[:40] == [1] * 40


def test_the_mask_is_made_while_the_device_works(make: Make) -> None:
    engine = make()
    ran = engine._device.ran  # type: ignore[attr-defined]
    when: list[int] = []

    class Watching(Grammar):
        def mask(self) -> np.ndarray | None:
            engine._device.synchronize()
            when.append(len(ran))
            return super().mask()

    engine.add([1, 2], SamplingParams(max_tokens=9, ignore_eos=True), Watching())
    while engine.has_work:
        engine.step()
    assert [ran[n - 1] for n in when] == ["head"] + ["forward"] * 8
    assert [ran[n] for n in when] == ["sample"] * 9


@pytest.mark.parametrize("ledgers", [1, 3])
@pytest.mark.parametrize("steps", range(0, 24, 3))
def test_abort_at_any_time(make: Make, steps: int, ledgers: int) -> None:
    engine = make(slots=3, ledgers=ledgers)
    params = [
        SamplingParams(max_tokens=40, ignore_eos=True, top_logprobs=1),
        SamplingParams(max_tokens=40, ignore_eos=True, sampled_logprobs=True),
        SamplingParams(max_tokens=40, ignore_eos=True, min_tokens=3),
    ]
    victims = [engine.add([3] * 30, p, Grammar() if i == 2 else None) for i, p in enumerate(params * 2)]
    for _ in range(steps):
        engine.step()
    for victim in victims:
        engine.abort(victim)
    assert not engine.has_work
    run_all(engine, mixed_requests(6, steps, 40))


@pytest.mark.parametrize("kv_tokens", [5000, 112])
@pytest.mark.parametrize("kind", ["fast", "grammar", "host", "penalty", "window", "dry", "mirostat"])
@pytest.mark.parametrize("steps", [0, 1, 3, 4, 9, 20, 41])
def test_inject_goes_on_after_the_tokens(make: Make, kv_tokens: int, kind: str, steps: int) -> None:
    engine = make(seed=steps, kv_tokens=kv_tokens)
    knobs = {
        "host": {"sampled_logprobs": True},
        "penalty": {"frequency_penalty": 0.7},
        "window": {"repetition_penalty": 1.1, "repeat_last_n": 9},
        "dry": {"dry_multiplier": 1.0},
        "mirostat": {"mirostat": 2},
    }.get(kind, {})
    params = SamplingParams(max_tokens=60, ignore_eos=True, seed=3, temperature=0.5, **knobs)  # type: ignore[arg-type]
    grammar = Grammar(free=3) if kind == "grammar" else None
    prompt = [5] * 30
    sequence = engine.add(prompt, params, grammar)
    others = [engine.add([n], SamplingParams(max_tokens=30, ignore_eos=True)) for n in range(2)]
    delivered: list[int] = []

    def step() -> None:
        delivered.extend(o.token for o in engine.step() if o.sequence is sequence)

    for _ in range(steps):
        step()
    before = list(delivered)
    injected = [9, 8, STOP, 7, 6] * 4
    engine.inject(sequence, injected)
    assert sequence.generated == before + injected
    while engine.has_work:
        step()
    assert sequence.generated == before + injected + delivered[len(before) :]
    assert len(sequence.generated) == 60
    check_continuation(sequence, params, range(len(before), len(before) + len(injected)), grammar)
    for n, other in enumerate(others):
        assert other.generated == expected([n], other.params, other.seed, 30, [STOP])[0]
    assert engine._scheduler._manager.free_blocks == engine.runner.blocks - 1


def check_continuation(sequence: Sequence, params: SamplingParams, foreign: range, grammar: Grammar | None) -> None:
    """Each token but those at the places `foreign` is what the history before it calls for."""
    if grammar is not None:
        assert grammar.accepted == sequence.generated[:-1]
    sampler, surprise = HostSampler(params, sequence.seed), 2 * params.mirostat_tau
    for index, token in enumerate(sequence.generated):
        done = sequence.generated[:index]
        rule = Grammar(free=3)
        rule.accepted = done
        allowed = (rule.allowed() if grammar else None) or range(VOCAB)
        if rule.allowed() == [] and grammar:
            allowed = [STOP]
        if index in foreign:
            continue  # told, not chosen: what the state of a sampler was before is what it is now
        if params.on_host:
            assert token == sampler.choose(logit_row([*sequence.prompt, *done]), None, sequence.prompt, done)
            continue
        assert token == device_choice(sequence.prompt, done, params, sequence.seed, surprise, allowed)
        surprise = surprised(surprise, token)


def test_a_step_delivers_at_most_one_token_of_a_sequence(make: Make) -> None:
    engine = make()
    sequences = [engine.add([1], SamplingParams(max_tokens=30, ignore_eos=True))]
    late = itertools.cycle((1.0, 0.0))
    while engine.has_work:
        # By turns nothing runs before somebody waits, and everything at once.
        now = next(late)
        engine._device.rng.random = lambda now=now: now  # type: ignore[attr-defined]
        outputs = engine.step()
        assert len({o.sequence.id for o in outputs}) == len(outputs)
    assert all(len(s.generated) == 30 for s in sequences)


def test_inject_needs_room_and_leaves_a_finished_sequence_alone(make: Make) -> None:
    engine = make()
    sequence = engine.add([1], SamplingParams(max_tokens=5, ignore_eos=True))
    with pytest.raises(ImpError, match="5 tokens to inject, room for 4; ask for more max_tokens"):
        engine.inject(sequence, [1] * 5)
    with pytest.raises(ImpError, match=r"is 61, expected a token id from 0 to 60"):
        engine.inject(sequence, [VOCAB])
    engine.inject(sequence, [1] * 4)
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    assert [o.finish for o in outputs] == ["length"]
    engine.inject(sequence, [2])
    assert len(sequence.generated) == 5


@pytest.mark.parametrize("length", [1, 23, 24, 25, 100])
def test_hidden_states_at_every_position(make: Make, length: int) -> None:
    engine = make()
    tokens = [(5 * i) % VOCAB for i in range(length)]
    result = engine.hidden(tokens)
    assert (result.shape, result.dtype) == ((length, HIDDEN), np.float32)
    for i in range(length):
        np.testing.assert_array_equal(result[i], hidden_row(tokens[: i + 1]))


def test_a_finished_grammar_ends_the_sequence_even_with_ignore_eos(make: Make) -> None:
    engine = make()
    sequence = engine.add([1, 2], SamplingParams(max_tokens=50, ignore_eos=True), Grammar(free=0, end=0))
    while engine.has_work:
        engine.step()
    assert (sequence.generated, sequence.finish) == ([STOP], "stop")


def test_a_grammar_without_stop_tokens_is_refused(tmp_path: Path) -> None:
    plan = dataclasses.replace(make_plan(), stop_tokens=())
    engine = Engine(Artifact.open(write_tiny(tmp_path / "tiny.impc", plan)), FakeDevice(), kv_tokens=500)
    with pytest.raises(ImpError, match="a grammar needs a stop token"):
        engine.add([1], SamplingParams(), Grammar())
    engine.add([1], SamplingParams(stop_tokens=(3,)), Grammar())


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (SamplingParams(logit_bias=((VOCAB, 1.0),)), f"logit_bias names token {VOCAB}, expected a token id from 0 to"),
        (SamplingParams(stop_tokens=(99,)), "stop_tokens names token 99"),
    ],
)
def test_token_ids_of_parameters_are_checked(make: Make, params: SamplingParams, message: str) -> None:
    with pytest.raises(ImpError, match=message):
        make().add([1], params)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("typical_p", 1.1),
        ("repeat_last_n", -2),
        ("dry_multiplier", -1.0),
        ("dry_base", 0.5),
        ("dry_allowed_length", 0),
        ("dry_penalty_last_n", "all"),
        ("mirostat", 1),
        ("mirostat_tau", float("inf")),
        ("xtc_probability", 2),
        ("xtc_threshold", -1),
        ("min_tokens", -1),
        ("top_logprobs", 1001),
        ("top_logprobs", True),
    ],
)
def test_bad_parameters_name_field_and_value(field: str, value: object) -> None:
    with pytest.raises(ImpError, match=f"^{field} is {value!r}"):
        SamplingParams(**{field: value})  # type: ignore[arg-type]  # wrong on purpose


def test_bad_bias_and_stop_tokens() -> None:
    with pytest.raises(ImpError, match=r"logit_bias\[3\] is -1001.0, expected a number from -1000 to 1000"):
        SamplingParams(logit_bias=((3, -1001.0),))
    with pytest.raises(ImpError, match="stop_tokens is -1"):
        SamplingParams(stop_tokens=(-1,))
