"""Groups of layers with windows: what their sequences hold of the cache, and what others find of it.

The fake device reads the whole of what a window sees at every row and compares it with what was run.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from fake_device import FakeDevice, expected
from test_engine import check_memory, run_all
from test_prefix_cache import LONG, family, prefilled, prompt_of, watched
from tiny_artifact import ROWS, write_tiny

from imp_codegen.cache import cache_format
from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.graph import Graph, Value
from imp_codegen.kernels.state import CachePlan
from imp_codegen.models import load_architecture
from imp_codegen.ops import Attention
from imp_codegen.passes.plan_state import plan_state
from imp_runtime.artifact import Artifact
from imp_runtime.block_manager import BlockManager
from imp_runtime.engine import Engine
from imp_runtime.paging import Paging
from imp_runtime.sampling import SamplingParams
from imp_runtime.scheduler import Scheduler
from imp_runtime.sequence import Sequence
from imp_server.cli import execute

ROOT = Path(__file__).parents[2]
WINDOWS = (0, 40, 40, 17)
Make = Callable[..., Engine]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(*, seed: int = 0, kv_tokens: int = 5000, prefix_cache: bool = True) -> Engine:
        artifact = Artifact.open(write_tiny(tmp_path / "tiny.impc", windows=WINDOWS))
        device = FakeDevice(seed, table_blocks=artifact.plan.table_blocks, windows=WINDOWS)
        return watched(Engine(artifact, device, kv_tokens=kv_tokens, prefix_cache=prefix_cache))

    return build


def most(window: int) -> int:
    """Blocks of what `ROWS` rows see and of themselves, wherever they begin, at most."""
    return max((first + ROWS - 1) // 16 - (first - window + 1) // 16 + 1 for first in range(1000, 1016))


@pytest.mark.parametrize("rows", [1, 8, 24, 128])
@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, 1024])
def test_what_a_window_holds(window: int, rows: int) -> None:
    paging = Paging((0, window), rows, 10**6)
    for first in range(2000, 2032):
        seen = range((first - window + 1) // 16, (first + rows - 1) // 16 + 1)
        assert paging.first(1, first) == seen.start
        assert paging.end(1, first, first + rows) == seen.stop
        assert len(seen) <= paging.most(1)
        assert paging.end(0, first, first + rows) == seen.stop
    assert paging.most(1) <= (window + rows + 29) // 16
    for places in (1, 2, 5, 100, 10**6):
        blocks = places + min(places, paging.most(1))
        assert paging.blocks(places) == blocks
        assert paging.places(blocks, 10**9) == places
        assert paging.places(blocks - 1, 10**9) == places - 1
    assert paging.blocks(2 * 10**6 + 1) == 2 * paging.blocks(10**6) + 2


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in (1, 2))])
@pytest.mark.parametrize("kv_tokens", [176, 320, 5000])
def test_many_that_begin_alike_get_what_each_would_alone(make: Make, kv_tokens: int, seed: int) -> None:
    """With room for one sequence, for a few, for all: blocks are evicted and sequences preempted."""
    engine = make(seed=seed, kv_tokens=kv_tokens)
    sequences = run_all(engine, family(50, seed), check_every=1)
    assert sum(s.prompt_cached for s in sequences) > 100


def test_a_long_sequence_holds_what_its_windows_see(make: Make) -> None:
    engine = make(kv_tokens=1040)
    assert engine.context == 1040
    assert engine.runner.blocks == 1 + 65 + sum(map(most, WINDOWS[1:]))
    sequence = engine.add(prompt_of(700), SamplingParams(max_tokens=340, ignore_eos=True))
    held = []
    while engine.has_work:
        engine.step()
        held.append([sum(map(bool, blocks)) for blocks in sequence.blocks])
        check_memory(engine)
    assert sequence.generated == expected(sequence.prompt, sequence.params, sequence.seed, 340, ())[0]
    for group, window in list(enumerate(WINDOWS))[1:]:
        assert max(each[group] for each in held if each) <= most(window)
    assert engine._scheduler._manager.free_blocks == engine.runner.blocks - 1


@pytest.mark.parametrize("length", [15, 30, 41, 200, 300])
def test_the_same_prompt_again(make: Make, length: int) -> None:
    """Of a window's layers only the last blocks are there for it, and these are enough."""
    engine = make(kv_tokens=320)
    run_all(
        engine, [(prompt_of(length), LONG)] if length < 280 else [(prompt_of(length), SamplingParams(max_tokens=1))]
    )
    chunks = prefilled(engine)
    (again,) = run_all(engine, [(prompt_of(length), SamplingParams(max_tokens=1))])
    assert again.prompt_cached == (length - 1) // 16 * 16
    assert sum(chunks) == length - again.prompt_cached


def test_a_shorter_prompt_finds_what_windows_gave_back_as_long_as_nobody_needs_it(make: Make) -> None:
    plenty, tight = make(), make(kv_tokens=336)
    for engine in (plenty, tight):
        run_all(
            engine, [(prompt_of(300), LONG) if engine is plenty else (prompt_of(300), SamplingParams(max_tokens=1))]
        )
    for length in (250, 100, 50):
        (found,) = run_all(plenty, [(prompt_of(length), LONG)])
        assert found.prompt_cached == (length - 1) // 16 * 16
    # What the long one did not need any more has been used again, by itself.
    (found,) = run_all(tight, [(prompt_of(150), SamplingParams(max_tokens=1))])
    assert found.prompt_cached == 0
    check_memory(tight)


def test_the_next_turn_of_a_conversation(make: Make) -> None:
    engine = make()
    prompt = prompt_of(50)
    for turn in range(6):
        chunks = prefilled(engine)
        (sequence,) = run_all(engine, [(prompt, LONG)])
        known = len(prompt) - 7 - 1 if turn else 0
        assert sequence.prompt_cached == known // 16 * 16
        assert sum(chunks) == len(prompt) - sequence.prompt_cached
        prompt = [*prompt, *sequence.generated, *prompt_of(7, turn)]


@pytest.mark.parametrize("steps", [1, 4, 9, 15, 40])
def test_nothing_leaks_after_an_abort_or_tokens_put_into_its_mouth(make: Make, steps: int) -> None:
    for seed in range(3):
        engine = make(seed=seed, kv_tokens=600)
        prompt = prompt_of(170)
        victim, other = engine.add(prompt, SamplingParams(max_tokens=99, ignore_eos=True)), engine.add(prompt, LONG)
        for _ in range(steps):
            engine.step()
        engine.inject(victim, prompt_of(30, 3))
        check_memory(engine)
        for _ in range(steps):
            engine.step()
            check_memory(engine)
        engine.abort(victim)
        check_memory(engine)
        while engine.has_work:
            engine.step()
        assert other.generated == expected(prompt, LONG, other.seed, 40, ())[0]
        assert engine._scheduler._manager.free_blocks == engine.runner.blocks - 1
        whole = [*prompt, *victim.generated]
        (again,) = run_all(engine, [([*whole, 5], SamplingParams(max_tokens=1))])
        assert again.prompt_cached >= 160


def test_logits_of_a_long_text_go_round_in_what_windows_need(make: Make) -> None:
    """They fit where one sequence of that length fits."""
    engine = make(kv_tokens=1040)
    tokens = prompt_of(1000)
    assert engine.logits(tokens).shape == (1000, 61)
    assert engine._scheduler._manager.free_blocks == engine.runner.blocks - 1


def test_who_finds_no_block_waits_for_the_youngest_to_make_room() -> None:
    """Two prompts whose windows begin in shared blocks: giving these back frees nothing."""
    paging = Paging((0, 32), 16, 64)
    manager = BlockManager(1 + 29)
    scheduler = Scheduler(4, 1, 16, manager, paging)
    stem = tuple(range(100))
    sequences = [Sequence(i, (*stem, *[i] * 60), SamplingParams(), 0, 40) for i in range(3)]
    for s in sequences:
        scheduler.add(s)
    for _ in range(2000):
        if not scheduler.has_work:
            break
        scheduler.next()
        for s in sequences:
            s.generated += [1] * s.unread
            if len(s.generated) == s.limit:
                scheduler.finish(s, "length")
    assert {s.finish for s in sequences} == {"length"}
    assert manager.free_blocks == 29


def test_layers_that_all_have_windows_need_none_of_what_lies_before() -> None:
    """No group has all positions; a prompt that comes again goes on behind its last block."""
    manager = BlockManager(1 + 40)
    scheduler = Scheduler(1, 1, 16, manager, Paging((32,), 16, 10**6))
    for number, cached in enumerate((0, 2992)):
        s = Sequence(number, tuple(i % 977 for i in range(3000)), SamplingParams(), 0, 1)
        scheduler.add(s)
        assert s.cached == cached
        while s.prefilling:
            scheduler.next()
            assert sum(map(bool, s.blocks[0])) <= 4
        s.generated.append(1)
        scheduler.finish(s, "length")
    assert manager.free_blocks == 40


def gemma(layers: int, context: int) -> CachePlan:
    """The cache of Gemma-3-12B, with so many of its layers, of which every sixth sees all and the others 1,024."""
    with closing(random_checkpoint(ROOT / "models" / "shapes" / "gemma-3-12b.json", "Q8_0")) as checkpoint:
        architecture = load_architecture(checkpoint)
        spec = architecture.read_spec(checkpoint)
        graph = architecture.build(dataclasses.replace(spec, layers=spec.layers[:layers]))
        return plan_state(graph, cache_format("f16"), context, 128)


POSITION_BYTES = 2 * 8 * 256 * 2  # of one of its layers: keys and values of 8 heads of 256 halves


def bytes_of(state: CachePlan, context: int) -> int:
    """Of one sequence."""
    paging = Paging(tuple(group.window for group in state.groups), 128, context // 16)
    return paging.blocks(context // 16) * state.block_bytes


def test_gemma_3_12b_at_32k_takes_what_its_global_layers_and_windows_need() -> None:
    context = 32768
    state = gemma(48, context)
    assert sorted(layer for group in state.groups for layer in group.layers) == list(range(48))
    assert bytes_of(state, context) <= POSITION_BYTES * (8 * context + 40 * (1024 + 128 + 16))
    assert bytes_of(state, context) < 0.2 * POSITION_BYTES * 48 * context


@pytest.mark.parametrize("layers", [7, 26, 34, 47])
def test_numbers_of_layers_that_do_not_divide_lose_little(layers: int) -> None:
    context, wide = 32768, layers // 6
    state = gemma(layers, context)
    needed = POSITION_BYTES * (wide * context + (layers - wide) * 73 * 16)
    assert needed <= bytes_of(state, context) <= 17 / 16 * needed
    assert len(state.groups) <= 2 + -(-(layers - wide) // wide)
    assert sorted(layer for group in state.groups for layer in group.layers) == list(range(layers))
    for index, group in enumerate(state.groups):
        ends = [0]
        for layer in group.layers:
            part = state.layers[layer]
            assert (part.group, part.offset) == (index, ends[-1])
            ends.append(part.offset + part.nbytes)
        assert ends[-1] == group.nbytes <= state.block_bytes


def test_a_window_that_nothing_leaves_is_none() -> None:
    """In a context as short as a window and what programs run at once."""
    (group,) = gemma(12, 1024 + 128).groups
    assert (group.window, group.layers) == (0, tuple(range(12)))


def test_who_reads_the_cache_of_another_layer_may_see_farther() -> None:
    """Gemma 4's last layers have none of their own."""

    def attention(layer: int, window: int, own: bool) -> Attention:
        q, k, v = (Value(name, 64) for name in "qkv")
        return Attention(
            Value(f"{layer} {window} {own}", 64),
            q,
            k if own else None,
            v if own else None,
            layer,
            1,
            1,
            64,
            1.0,
            window,
        )

    near, far = [attention(layer, 100, own=True) for layer in range(3)], attention(1, 200, own=False)
    whole = attention(2, 0, own=False)
    state = plan_state(Graph((*near, far, whole)), cache_format("f16"), 4096, 128)
    assert [(group.window, group.layers) for group in state.groups] == [(100, (0,)), (200, (1,)), (0, (2,))]


def test_inspect_says_what_windows_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_tiny(tmp_path / "tiny.impc", windows=WINDOWS)
    assert execute(["inspect", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    windows = 64 * sum(map(most, WINDOWS[1:]))
    assert found["kv_bytes_per_token"] == 64 // 16
    assert found["kv_bytes_for_windows"] == windows
    assert found["kv_bytes_of_context"] == 64 * 4096 // 16 + windows


def test_what_unread_tokens_do_not_see_any_more_may_be_needed_again() -> None:
    """Tokens put into a sequence's mouth take it back to what was known, whatever had been launched."""
    manager = BlockManager(1 + 40)
    paging = Paging((0, 20), 100, 64)
    scheduler = Scheduler(1, 1, 100, manager, paging)
    s = Sequence(0, tuple(range(50)), SamplingParams(), 0, 500)
    scheduler.add(s)
    scheduler.next()
    s.generated.append(1)
    for _ in range(60):
        scheduler.next()
    assert s.cached == 110
    scheduler.inject(s, [2, 3])
    assert s.cached == 51
    batch = scheduler.next()
    assert batch is not None
    (run,) = batch.sequences
    assert (run.start, run.tokens) == (51, (2, 3))
    first = (51 - 20 + 1) // 16
    assert all(run.table[2 * place + 1] for place in range(first, 4))
    assert not any(run.table[2 * place + 1] for place in range(first))
