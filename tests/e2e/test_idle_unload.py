"""A server that gives its device back while nobody asks, and takes it again for the next who does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo_server import Process, serving
from imp_runtime.artifact import Artifact
from imp_server.cli import execute
from model_checks import compile_fixture
from operated import wait_for


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_fixture(tmp_path_factory.mktemp("idle"), "qwen3", "Q8_0", "sim")


@pytest.fixture(scope="module")
def server(file: Path) -> Iterator[Process]:
    with serving(file, "--idle-unload", "1s", "--workers", "2", "--set", "log.level=error") as process:
        yield process


@pytest.fixture
def http(server: Process) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def complete(http: httpx.Client, tokens: int = 4) -> httpx.Response:
    body = {"prompt": "Hello", "n_predict": tokens, "temperature": 0, "ignore_eos": True}
    return http.post("/completion", json=body)


def sleeps(http: httpx.Client) -> bool:
    health: dict[str, Any] = http.get("/health").raise_for_status().json()
    assert health in ({"status": "ok"}, {"status": "ok", "is_sleeping": True})
    return "is_sleeping" in health


def everybody_knows(server: Process, asleep: bool) -> bool:
    """Whether each of the workers does; whichever has the connection answers."""
    told = set()
    for _ in range(8):
        with httpx.Client(base_url=server.url, timeout=60) as http:
            told.add(sleeps(http))
    return told == {asleep}


@contextmanager
def streaming(http: httpx.Client) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of an answer that goes on to the end of the context, or of the block."""
    body = {"prompt": "Hello", "temperature": 0, "ignore_eos": True, "stream": True}
    with http.stream("POST", "/completion", json=body) as answer:
        yield (json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line)


def test_it_sleeps_and_wakes(server: Process, http: httpx.Client) -> None:
    answer = complete(http).raise_for_status().json()["content"]
    engine = server.child("engine")
    before = http.get("/props").json()
    wait_for(lambda: everybody_knows(server, True), 20)
    props = http.get("/props").json()
    assert props == before | {"is_sleeping": True, "free_kv_blocks": props["free_kv_blocks"]}
    assert props["free_slots"] == before["total_slots"]
    assert "imp_asleep 1.0" in http.get("/metrics").text
    assert [slot["is_processing"] for slot in http.get("/slots").json()] == [False] * props["total_slots"]
    assert http.post("/tokenize", json={"content": "Hello"}).json()["tokens"]
    assert sleeps(http)  # none of these has woken it
    assert complete(http).raise_for_status().json()["content"] == answer
    assert server.child("engine") == engine


def test_who_is_served_keeps_it_awake(server: Process, http: httpx.Client) -> None:
    wait_for(lambda: sleeps(http), 20)
    began = time.monotonic()
    with streaming(http) as events:
        for _ in events:
            assert everybody_knows(server, False)
            if time.monotonic() - began > 1.5:  # and thus longer than it waits
                break
        assert "imp_asleep 0.0" in http.get("/metrics").text
        assert http.get("/props").json()["is_sleeping"] is False
        assert not next(events)["stop"]


def test_what_cannot_be_loaded_again_is_said(server: Process, http: httpx.Client, file: Path) -> None:
    wait_for(lambda: sleeps(http), 20)
    whole = file.read_bytes()
    plane = Artifact.open(file).plan.planes[0].name
    at = whole.index(Artifact.open(file).plane(plane).tobytes())
    with file.open("r+b") as damaged:
        damaged.seek(at)
        damaged.write(bytes([whole[at] ^ 1]))
    answer = complete(http)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "loading")
    message = answer.json()["error"]["message"]
    assert "was unloaded while nobody used it and cannot be loaded now" in message
    assert f"plane {plane!r} is not what its checksum says" in message
    assert sleeps(http)
    with file.open("r+b") as mended:
        mended.write(whole)
    complete(http).raise_for_status()


@pytest.mark.parametrize("wrong", ["10", "1d", "-1s", "", "soon"])
def test_times_that_are_none(file: Path, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["serve", str(file), "--idle-unload", wrong]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"imp: error: --idle-unload: server.idle_unload is {wrong!r}; it must be a time with its unit, like 90s, 10m "
        "or 2h\n"
    )
