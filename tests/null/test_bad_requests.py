"""One bad request among others: it is told why, the others do not notice, and nothing stays taken."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from fake_device import FakeDevice, expected
from linked_engine import hosted, linked
from tiny_artifact import STOP, VOCAB, write_tiny

from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from imp_server.engine.client import AsyncEngine
from imp_server.errors import ApiError
from imp_server.generation.output import Output
from imp_server.generation.request import Request

KV_TOKENS = 320
GREEDY = SamplingParams(max_tokens=40, ignore_eos=True)
BAD = {
    "longer than the cache": (Request((3,) * (KV_TOKENS + 1), GREEDY), "320"),
    "no such token": (Request((3, VOCAB), GREEDY), str(VOCAB)),
    "a bias for no such token": (Request((3,), SamplingParams(logit_bias=((VOCAB, 1.0),))), "logit_bias"),
}


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(Artifact.open(write_tiny(tmp_path / "tiny.impc")), FakeDevice(3), kv_tokens=KV_TOKENS)


async def answer(client: AsyncEngine, request: Request) -> list[int]:
    tokens: list[int] = []
    async with client.generate([request]) as admitted:
        async for outputs in admitted.outputs():
            for _, output in outputs:
                assert isinstance(output, Output)
                tokens.append(output.token)
                if output.finish is not None:
                    return tokens
    raise AssertionError("no end")


@pytest.mark.parametrize("bad", BAD)
def test_the_others_do_not_notice(engine: Engine, bad: str) -> None:
    request, words = BAD[bad]
    free = engine.free
    good = [Request((n + 1, 2, 5), GREEDY) for n in range(6)]

    async def ask(link: socket.socket) -> list[Any]:
        client = await linked(link)
        every = [answer(client, each) for each in (*good[:3], request, *good[3:])]
        found = await asyncio.gather(*every, return_exceptions=True)
        # Of one that is several, all are refused: half an answer would be another one than was asked for.
        with pytest.raises(ApiError, match=words):
            async with client.generate([good[0], request, good[1]]):
                pass
        assert (await client.free()).slots == free[0]
        assert client.open == 0
        await client.close()
        return found

    with hosted(engine) as link:
        *before, refused, a, b, c = asyncio.run(ask(link))
    assert isinstance(refused, ApiError)
    assert (refused.status, words in str(refused)) == (400, True)
    for one, tokens in zip(good, (*before, a, b, c), strict=True):
        assert tokens == expected(one.prompt, GREEDY, 0, GREEDY.max_tokens, [STOP])[0]
    assert engine.free == free
