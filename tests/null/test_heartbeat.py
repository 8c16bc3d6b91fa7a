"""The host of an engine beats while it is well, at work or not; one that does not come back falls silent."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fake_device import FakeDevice
from fastapi import FastAPI
from linked_engine import hosted, linked
from tiny_artifact import write_tiny

from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from imp_server.api import models
from imp_server.api.app import create_app
from imp_server.engine import messages as m
from imp_server.engine.host import Unload
from imp_server.generation.request import Request
from imp_server.processes.supervisor import Child

BEAT = 0.02


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "BEAT_SECONDS", BEAT)
    monkeypatch.setattr(models, "_SILENT_SECONDS", 20 * BEAT)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(Artifact.open(write_tiny(tmp_path / "tiny.impc")), FakeDevice(3), kv_tokens=2000)


async def health(app: FastAPI) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        return await http.get("/health")


@pytest.mark.parametrize("unload", [None, Unload(3 * BEAT, lambda _: pytest.fail("woken"))], ids=["idle", "asleep"])
def test_nothing_to_do_is_no_silence(engine: Engine, unload: Unload | None) -> None:
    beats: list[float] = []
    with hosted(engine, unload, lambda: beats.append(0)) as link:

        async def look() -> None:
            client = await linked(link)
            app = create_app(client)
            await asyncio.sleep(30 * BEAT)
            assert client.asleep == (unload is not None)
            assert client.silent < 20 * BEAT
            assert (await health(app)).status_code == 200
            await client.close()

        asyncio.run(look())
    assert len(beats) > 5


@pytest.mark.parametrize("place", ["engine", "reader"])
def test_whoever_hangs_is_silent(engine: Engine, place: str) -> None:
    """The thread that waits for the device, or the one that reads what workers ask: either is enough."""
    gate, step = threading.Event(), engine.step

    def hang(*_: object) -> Any:
        gate.wait()
        return step() if place == "engine" else None

    beats: list[float] = []
    with hosted(engine, None, lambda: beats.append(0)) as link:

        async def look() -> None:
            client = await linked(link)
            app = create_app(client)
            if place == "engine":
                engine.step = hang  # type: ignore[method-assign]
            else:
                engine.abort = hang  # type: ignore[method-assign]
            async with client.generate([Request((1, 2), SamplingParams(max_tokens=500, ignore_eos=True))]):
                await asyncio.sleep(2 * BEAT)
            await asyncio.sleep(2 * BEAT)
            before = len(beats)
            await asyncio.sleep(25 * BEAT)
            assert len(beats) == before
            answer = await health(app)
            assert answer.status_code == 503, answer.text
            assert answer.json()["error"]["code"] == "not_answering"
            gate.set()
            await asyncio.sleep(5 * BEAT)
            assert len(beats) > before
            assert (await health(app)).status_code == 200
            await client.close()

        try:
            asyncio.run(look())
        finally:
            gate.set()


def test_a_process_that_does_not_die_at_once_keeps_nobody_waiting(engine: Engine) -> None:
    """Its socket may stay open; what it was asked ends when the parent gives it up."""

    async def look(link: socket.socket) -> None:
        client = await linked(link)
        app = create_app(client)
        async with client.generate([Request((1, 2), SamplingParams(max_tokens=500, ignore_eos=True))]) as admitted:
            client.lost("the engine gave no sign of life for 60 s and was ended")
            with pytest.raises(
                Exception, match="gave no sign of life for 60 s and was ended; it is being started again"
            ):
                async for _ in admitted.outputs():
                    pass
        answer = await health(app)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "gave no sign of life" in answer.json()["error"]["message"]
        await client.close()

    with hosted(engine) as link:
        asyncio.run(look(link))


def test_a_child_is_silent_by_ticks() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    killed = []
    process: Any = SimpleNamespace(pid=4711, kill=lambda: killed.append(True))
    with ours, theirs:
        child = Child(process, ours)
        assert [child.tick(3) for _ in range(60)] == [""] * 60  # before its first word
        assert [child.tick(3) for _ in range(2)] == ["", ""]
        assert not killed
        assert child.tick(3) == "gave no sign of life for 3 s"
        assert child.tick(3) == ""
    assert killed == [True]
