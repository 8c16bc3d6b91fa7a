"""What neither ends nor answers: a process that is stopped stands for a kernel or a lock that never comes back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from demo_server import Process, serving
from model_checks import compile_fixture
from operated import posting, wait_for

HANG_SECONDS = 6  # a machine that runs other tests beside this one was silent for 3
LONG = {"prompt": "one", "max_tokens": 10_000, "ignore_eos": True, "stream": True}
ASKED = {  # path, body, what a stream that has failed ends with
    "/v1/completions": (LONG, b'"code":"engine_failed"'),
    "/v1/messages": (
        {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 400, "temperature": 0, "stream": True},
        b"event: error",
    ),
    "/v1/responses": ({"input": "Hi", "temperature": 0, "stream": True}, b"response.failed"),
    "/completion": ({"prompt": "one", "n_predict": -1, "ignore_eos": True, "stream": True}, b'"code":"engine_failed"'),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    file = compile_fixture(tmp_path_factory.mktemp("hangs"), "qwen3", "Q8_0", "sim")
    settings = ("--set", f"server.hang_seconds={HANG_SECONDS}", "--set", "log.level=error")
    with serving(file, "--any-model", "--workers", "2", *settings) as process:
        yield process


def status(server: Process) -> int:
    """Of /health, of whichever worker answers first."""
    while True:
        with contextlib.suppress(httpx.TransportError):  # a worker that is stopped
            return httpx.get(f"{server.url}/health", timeout=1).status_code


def complete(server: Process) -> str:
    asked = {"prompt": "one two", "max_tokens": 6, "temperature": 0, "ignore_eos": True}
    answer = httpx.post(f"{server.url}/v1/completions", json=asked, timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def busy(server: Process) -> int:
    return sum(slot["is_processing"] for slot in httpx.get(f"{server.url}/slots", timeout=10).json())


def test_an_engine_that_hangs(server: Process) -> None:
    """What it was at ends with an error in each API's shape; it is started again, and until then /health says so."""
    before, engine = complete(server), server.child("engine")
    with contextlib.ExitStack() as held:
        clients = {
            path: held.enter_context(posting(server.url, path, json.dumps(body | {"model": "x"}).encode()))
            for path, (body, _) in ASKED.items()
        }
        wait_for(lambda: busy(server) == len(ASKED), 30)
        os.kill(engine, signal.SIGSTOP)
        stopped = time.monotonic()
        wait_for(lambda: status(server) == 503, HANG_SECONDS + 5)
        assert time.monotonic() - stopped > HANG_SECONDS - 2
        for path, client in clients.items():
            said = read_until_end(client)
            assert ASKED[path][1] in said, path
            assert f"gave no sign of life for {HANG_SECONDS} s".encode() in said, path
    wait_for(lambda: [status(server) for _ in range(6)] == [200] * 6, 60)
    assert server.child("engine") != engine
    assert busy(server) == 0
    assert complete(server) == before


def read_until_end(client: socket.socket) -> bytes:
    """All that a stream still brings; its last chunk is empty."""
    data = b""
    client.settimeout(10)
    while not data.endswith(b"\r\n0\r\n\r\n"):
        data += client.recv(1 << 16)
    return data


@pytest.mark.thorough
def test_a_worker_that_hangs(server: Process) -> None:
    """Its place is taken by another; the engine, and who the other workers serve, do not notice."""
    before, engine, workers = complete(server), server.child("engine"), server.children("worker")
    os.kill(workers[0], signal.SIGSTOP)
    wait_for(lambda: workers[0] not in server.children("worker"), HANG_SECONDS + 5)
    wait_for(lambda: len(server.children("worker")) == 2, 20)
    wait_for(lambda: [status(server) for _ in range(6)] == [200] * 6, 60)
    assert server.child("engine") == engine
    assert workers[1] in server.children("worker")
    assert complete(server) == before


@pytest.mark.thorough
def test_a_parent_that_was_stopped_blames_nobody(server: Process) -> None:
    children = {*server.children("engine"), *server.children("worker")}
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(HANG_SECONDS + 1)
    server.process.send_signal(signal.SIGCONT)
    time.sleep(1.5)
    assert {*server.children("engine"), *server.children("worker")} == children
    assert complete(server)
