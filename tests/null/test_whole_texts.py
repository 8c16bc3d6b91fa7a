"""Hidden states and logits of whole texts, beside sequences that go on meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import socket
from pathlib import Path

import numpy as np
import pytest
from fake_device import FakeDevice, Grammar, expected, hidden_row, logit_row
from linked_engine import hosted, linked
from tiny_artifact import ROWS, STOP, VOCAB, write_tiny

from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from imp_server.errors import ApiError
from imp_server.generation.request import Request

TEXT = [(5 * i) % VOCAB for i in range(5 * ROWS)]
KINDS = {
    "plain": ({}, False),
    "penalised": ({"presence_penalty": 0.5}, False),
    "grammar": ({}, True),
    "host": ({"sampled_logprobs": True}, False),
}


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    artifact = Artifact.open(write_tiny(tmp_path / "tiny.impc"))
    return Engine(artifact, FakeDevice(3), kv_tokens=2000)


@pytest.mark.parametrize("program", ["hidden", "logits"])
def test_every_answer_has_a_step_between_two_parts(engine: Engine, program: str) -> None:
    """Whatever it waits for, and although somebody's prompt is under way."""
    streams = [
        engine.add([n], SamplingParams(max_tokens=40, ignore_eos=True, seed=n, **knobs), Grammar() if rule else None)  # type: ignore[arg-type]
        for n, (knobs, rule) in enumerate(KINDS.values())
    ]
    for _ in range(9):
        engine.step()
    engine.add([9] * 300, SamplingParams(max_tokens=1, ignore_eos=True))
    launched = []

    def before_part() -> None:
        while engine.owes_steps:
            engine.step()
        launched.append([s.launched for s in streams])

    found = getattr(engine, program)(TEXT, before_part)
    row = {"hidden": hidden_row, "logits": logit_row}[program]
    np.testing.assert_array_equal(found, [row(TEXT[: i + 1]) for i in range(len(TEXT))])
    assert len(launched) == 5
    for before, after in itertools.pairwise(launched):
        assert all(1 <= b - a <= 2 for a, b in zip(before, after, strict=True))
    while engine.has_work:
        engine.step()
    for s in streams:
        rule = Grammar() if s.constraint else None
        assert s.generated == expected(s.prompt, s.params, s.seed, 40, [STOP], rule)[0]


def test_the_server_lets_answers_go_on(engine: Engine) -> None:
    ran = engine._device.ran  # type: ignore[attr-defined]

    async def both(link: socket.socket) -> None:
        server = await linked(link)
        request = Request((1, 2), SamplingParams(max_tokens=3000, ignore_eos=True))
        async with server.generate([request]) as admitted:
            async for _ in admitted.outputs():
                break
            ran.clear()
            assert len(await server.embed(TEXT, "none")) == len(TEXT)
            assert len(await server.score(TEXT, 1)) == len(TEXT) - 1
        await server.close()

    with hosted(engine) as link:
        asyncio.run(both(link))
    texts = [entry for entry in ran if entry in ("hidden", "logits", "step")]
    parts = [n for n, entry in enumerate(texts) if entry != "step"]
    assert len(parts) == 10
    assert all(after - before > 1 for before, after in itertools.pairwise(parts))


def test_a_text_waits_for_a_slot_as_an_answer_does(engine: Engine) -> None:
    """Although others wait for one, too; and a text for which there can be no room is refused."""
    borrow = engine._scheduler.borrow
    had = []

    def counted(tokens: int) -> tuple[int, list[int]] | None:
        found = borrow(tokens)
        had.append(found is not None)
        return found

    engine._scheduler.borrow = counted  # type: ignore[method-assign]

    async def many(link: socket.socket) -> None:
        server = await linked(link)
        params = SamplingParams(max_tokens=120, ignore_eos=True)
        async with server.generate([Request((1, 2), params)] * (3 * engine.plan.slots)) as admitted:
            async for _ in admitted.outputs():
                break
            texts = server.embed(TEXT, "none"), server.score(TEXT, 1), server.embed(TEXT[:ROWS], "none")
            found = await asyncio.gather(*texts)
            assert [len(each) for each in found] == [len(TEXT), len(TEXT) - 1, ROWS]
            assert had.count(True) == 3
            assert had.count(False) > 1
            assert engine.has_work
        engine._scheduler.borrow = lambda tokens: None  # type: ignore[method-assign]
        with pytest.raises(ApiError, match="no free slot or KV blocks"):
            await server.embed(TEXT, "none")
        await server.close()

    with hosted(engine) as link:
        asyncio.run(many(link))


def test_a_long_text_has_its_turn_among_many_short_answers(engine: Engine) -> None:
    """It needs more blocks than those that end together give back: who comes later must not have them."""
    long = [(5 * i) % VOCAB for i in range(1800)]
    answers = 12 * engine.plan.slots

    async def many(link: socket.socket) -> int:
        server = await linked(link)
        params = [SamplingParams(max_tokens=60 + 7 * n % 41, ignore_eos=True) for n in range(answers)]
        ended = 0
        async with server.generate([Request((1, 2), each) for each in params]) as admitted:

            async def count() -> None:
                nonlocal ended
                async for outputs in admitted.outputs():
                    ended += sum(getattr(output, "finish", None) is not None for _, output in outputs)
                    if ended == answers:
                        return

            counting = asyncio.create_task(count())
            await asyncio.sleep(0)
            assert len(await server.embed(long, "none")) == len(long)
            before = ended
            await counting
        await server.close()
        assert ended == answers
        return before

    with hosted(engine) as link:
        assert asyncio.run(many(link)) < answers // 2


@pytest.mark.parametrize("first", [0, 1, ROWS - 1, ROWS, ROWS + 3, 4 * ROWS, 5 * ROWS - 1])
def test_logits_come_in_parts_from_any_position_on(engine: Engine, first: int) -> None:
    parts = list(engine.logits_in_parts(TEXT, first))
    assert len(parts) == 5 - first // ROWS
    np.testing.assert_array_equal(np.concatenate(parts), [logit_row(TEXT[: i + 1]) for i in range(first, len(TEXT))])


def test_whoever_stops_reading_parts_gives_slot_and_blocks_back(engine: Engine) -> None:
    free = engine.free
    parts = engine.logits_in_parts(TEXT)
    next(parts)
    assert engine.free != free
    parts.close()
    assert engine.free == free
