"""What ends by itself, or is killed: the engine, a worker, the parent. Nothing hangs, nothing is left, all is said."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from demo_server import Process, imp, serving
from model_checks import compile_fixture
from operated import posting, wait_for

LONG = {"max_tokens": 10_000, "extra_body": {"ignore_eos": True}}
FAILED = "it is being started again"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_fixture(tmp_path_factory.mktemp("processes"), "qwen3", "Q8_0", "sim")


@pytest.fixture(scope="module")
def server(file: Path) -> Iterator[Process]:
    with serving(file, "--any-model", "--workers", "2", "--set", "log.level=error") as process:  # nobody reads its pipe
        yield process


@pytest.fixture(scope="module")
def http(server: Process) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def busy(http: httpx.Client) -> int:
    return sum(slot["is_processing"] for slot in http.get("/slots").json())


def healthy(http: httpx.Client) -> bool:
    """Whether the model is there; while it is not, that is what every answer says."""
    try:
        answer = http.get("/health")
    except httpx.TransportError:  # a worker has ended, and its connections with it
        return False
    if answer.status_code != 200:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "loading")
        assert answer.headers["retry-after"] == "1"
    return answer.status_code == 200


def complete(http: httpx.Client) -> str:
    asked = {"prompt": "one two", "max_tokens": 6, "temperature": 0, "ignore_eos": True}
    return str(http.post("/v1/completions", json=asked).json()["choices"][0]["text"])


def test_ready_is_said_once_everybody_is(file: Path) -> None:
    command = imp("serve", file, "--target", "sim", "--port", "0", "--workers", "2")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            url = process.stderr.readline().split(" at ")[1].split(",")[0].strip().removesuffix("/v1")
            assert any("ready: " in line for line in process.stderr)
            assert [httpx.get(f"{url}/health").status_code for _ in range(16)] == [200] * 16
        finally:
            process.kill()


def answered(answer: Any) -> object:
    """The answer, or all events of a stream."""
    return list(answer) if isinstance(answer, openai.Stream | anthropic.Stream) else answer


def chat(client: openai.OpenAI, stream: bool) -> object:
    asked: Any = {"model": "x", "messages": [{"role": "user", "content": "Hi"}], **LONG}
    return answered(client.chat.completions.create(**asked, stream=stream))


def completion(client: openai.OpenAI, stream: bool) -> object:
    asked: Any = {"model": "x", "prompt": "one", **LONG}
    return answered(client.completions.create(**asked, stream=stream))


def response(client: openai.OpenAI, stream: bool) -> object:
    asked: Any = {"model": "x", "input": "Hi", "temperature": 0}
    return answered(client.responses.create(**asked, stream=stream))


def message(client: anthropic.Anthropic, stream: bool) -> object:
    asked: Any = {"model": "x", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 400}
    return answered(client.messages.create(**asked, extra_body={"temperature": 0}, stream=stream))


def native(http: httpx.Client, stream: bool) -> str:
    answer = http.post("/completion", json={"prompt": "one", "n_predict": -1, "ignore_eos": True, "stream": stream})
    assert answer.status_code == (200 if stream else 500)
    return answer.text


def embedding(client: openai.OpenAI) -> object:
    return client.embeddings.create(model="x", input=["one two three " * 60] * 2000)


@contextlib.contextmanager
def ending(server: Process) -> Iterator[None]:
    """What fails within ends the server, so that nobody waits for its answers."""
    try:
        yield
    except BaseException:
        server.process.kill()
        assert server.process.stderr is not None
        print(server.process.stderr.read())
        raise


def test_an_engine_that_is_killed(server: Process, http: httpx.Client) -> None:
    """Every API says so in its own shape; then the engine is there again, and answers as it did."""
    before = complete(http)
    openai_client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    anthropic_client = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)
    with openai_client, anthropic_client, ThreadPoolExecutor(16) as threads, ending(server):
        asked: dict[str, Future[object]] = {}
        calls: dict[str, Callable[[bool], object]] = {
            "chat": lambda stream: chat(openai_client, stream),
            "completion": lambda stream: completion(openai_client, stream),
            "response": lambda stream: response(openai_client, stream),
            "message": lambda stream: message(anthropic_client, stream),
            "native": lambda stream: native(http, stream),
        }
        for name, call in calls.items():
            asked |= {name: threads.submit(call, False), f"{name}, streamed": threads.submit(call, True)}
        wait_for(lambda: busy(http) == 10, 60)
        asked["embedding"] = threads.submit(embedding, openai_client)
        time.sleep(0.3)
        os.kill(server.child("engine"), signal.SIGKILL)
        errors = {name: each.exception(60) for name, each in asked.items()}
        wait_for(lambda: not healthy(http), 10)
        assert complete_or_retry(http) == 503
        wait_for(lambda: healthy(http), 60)
        error = errors["embedding"]  # between two of its texts the engine is only found not to be there
        assert isinstance(error, openai.InternalServerError)
        assert (error.status_code, error.code) in ((500, "engine_failed"), (503, "loading"))
        for name in ("chat", "completion", "response"):
            error = errors[name]
            assert isinstance(error, openai.InternalServerError), name
            assert (error.status_code, error.code, error.type) == (500, "engine_failed", "server_error")
            assert FAILED in error.message
        for name in ("chat, streamed", "completion, streamed"):
            error = errors[name]
            assert isinstance(error, openai.APIError), name
            assert error.code == "engine_failed"
        *_, last = asked["response, streamed"].result()  # type: ignore[misc]
        assert last.type == "response.failed"
        assert FAILED in last.response.error.message
        error = errors["message"]
        assert isinstance(error, anthropic.InternalServerError)
        assert FAILED in str(error.body)
        assert isinstance(errors["message, streamed"], anthropic.APIStatusError)
        assert FAILED in str(errors["message, streamed"].body)
        assert json.loads(str(asked["native"].result()))["error"]["code"] == "engine_failed"
        assert FAILED in str(asked["native, streamed"].result())
    assert busy(http) == 0
    assert complete(http) == before


def complete_or_retry(http: httpx.Client) -> int:
    answer = http.post("/v1/completions", json={"prompt": "x", "max_tokens": 1})
    assert answer.status_code == 200 or answer.headers["retry-after"] == "1"
    return answer.status_code


def test_metrics_add_up(server: Process, http: httpx.Client) -> None:
    before = completions(server)
    for _ in range(12):
        asked = {"prompt": "x", "max_tokens": 1}
        assert httpx.post(f"{server.url}/v1/completions", json=asked, timeout=60).status_code == 200
    assert completions(server) == before + 12


def test_a_worker_that_is_killed(server: Process, http: httpx.Client) -> None:
    """Its requests end with it, in the engine too, and nobody else's; another worker takes its place."""
    before, engine, counted = complete(http), server.child("engine"), completions(server)
    body = json.dumps({"prompt": "one", "max_tokens": 10_000, "ignore_eos": True, "stream": True}).encode()
    with contextlib.ExitStack() as held:
        clients = [held.enter_context(posting(server.url, "/v1/completions", body)) for _ in range(8)]
        wait_for(lambda: busy(http) == 8, 30)
        workers = server.children("worker")
        os.kill(workers[0], signal.SIGKILL)
        wait_for(lambda: workers[0] not in server.children("worker"), 10)
        time.sleep(0.2)
        ended = [client for client in clients if has_ended(client)]
        assert server.child("engine") == engine
    wait_for(lambda: len(server.children("worker")) == 2, 20)
    wait_for(lambda: healthy(http), 60)
    assert 0 < len(ended) < 8  # by chance 1 of 128 runs has all eight at one worker
    wait_for(lambda: busy(http) == 0, 10)
    assert complete(http) == before
    assert completions(server) >= counted + 1  # what a worker has counted is not lost with it


def has_ended(client: socket.socket) -> bool:
    """Whether the other end of a stream is gone; what has come of it is read."""
    client.settimeout(0)
    try:
        while client.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


def completions(server: Process) -> float:
    """How many requests for a completion have been answered, as every worker says."""
    name = 'imp_http_requests_total{method="POST",route="/v1/completions",status="200"} '
    told = set()
    for _ in range(6):  # connections of their own, so that all workers are asked
        lines = httpx.get(f"{server.url}/metrics", timeout=60).text.splitlines()
        told |= {float(line.removeprefix(name)) for line in lines if line.startswith(name)}
    (found,) = told
    return found


@pytest.mark.thorough
def test_a_file_that_is_replaced(file: Path, server: Process, http: httpx.Client) -> None:
    """What is started again goes on with the file that the server was started with."""
    before = complete(http)
    away = file.rename(file.with_suffix(".away"))
    file.write_text("no artifact", "ascii")
    old = [server.child("engine"), server.children("worker")[0]]
    with ending(server):
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not any(map(running, old)), 10)
        wait_for(lambda: len(server.children("engine") + server.children("worker")) == 3, 30)
    for _ in range(6):  # of both workers
        wait_for(lambda: healthy_for(server), 60)
        with httpx.Client(base_url=server.url, timeout=60) as fresh:
            assert complete(fresh) == before
    away.replace(file)


def healthy_for(server: Process) -> bool:
    with httpx.Client(base_url=server.url, timeout=60) as fresh:
        return healthy(fresh)


def test_several_addresses(file: Path) -> None:
    """One port on all of them, one model, one count; Ctrl-C ends all."""
    hosts = ("--host", "127.0.0.1,127.0.0.2", "--host", "::1")
    with serving(file, "--alias", "x", *hosts, "--set", "log.level=error") as server:
        port = server.url.rpartition(":")[2]
        tokens = 0
        for host in ("127.0.0.1", "127.0.0.2", "[::1]"):
            url = f"http://{host}:{port}"
            assert [model["id"] for model in httpx.get(f"{url}/v1/models").json()["data"]] == ["x"]
            asked = {"model": "x", "prompt": "a word", "max_tokens": 2}
            tokens += httpx.post(f"{url}/v1/completions", json=asked, timeout=60).json()["usage"]["prompt_tokens"]
        assert tokens > 0
        assert f"imp_prompt_tokens_total {tokens}.0\n" in httpx.get(f"{server.url}/metrics").text
        _, status, _ = server.end(signal.SIGINT)
        assert status == 130


def test_no_child_outlives_its_parent(server: Process) -> None:
    children = [*server.children("engine"), *server.children("worker")]
    assert len(children) == 3
    body = json.dumps({"prompt": "one", "max_tokens": 10_000, "ignore_eos": True, "stream": True}).encode()
    with posting(server.url, "/v1/completions", body) as client:
        client.recv(1)
        server.process.kill()
        server.process.wait()
        wait_for(lambda: not any(map(running, children)), 8)
    assert server.process.stderr is not None
    assert "the engine has ended (signal 9) and is started again" in server.process.stderr.read()


def running(pid: int) -> bool:
    """Whether there is such a process; one whose status nobody has asked for has ended."""
    try:
        return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False
