"""The HTTP server on a real socket, asked by OpenAI's own client; behind it an engine whose tokens are known."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx
import openai
import pytest
import uvicorn

from fake_engine import CONTEXT, FakeEngine, encode, write_tiny_artifact
from hosted import HostedEngine
from imp_runtime.artifact import Artifact
from imp_server.api.app import create_app
from imp_server.api.http import listen
from imp_server.model import Model

REPLY = "Hello 🙂🚀 wörld, this is the reply"
SLOW = 0.005


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_tiny_artifact(tmp_path_factory.mktemp("server") / "tiny.impc")


def reply_to(prompt: Sequence[int]) -> list[int]:
    """A prompt that ends in "again" is answered without an end."""
    return encode(REPLY * 50) if list(prompt[-2:]) == encode("again")[-2:] else encode(REPLY)


@contextmanager
def serving(load: Callable[[], Model], *, limit: int = 256, **options: Any) -> Iterator[str]:
    """The base address of a live server; at the end it has been shut down."""
    engine = HostedEngine(load, limit=limit)
    app = create_app(engine, **options)
    with listen("127.0.0.1", 0) as listener:
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_for(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> float:
    """Seconds until `condition` holds; fails when it does not."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.001)
    return time.monotonic() - began


class Server:
    """A server with its engine and clients."""

    def __init__(self, url: str, engine: FakeEngine) -> None:
        self.url = url
        self.engine = engine
        self.http = httpx.Client(base_url=url)
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        self.anthropic = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)

    def close(self) -> None:
        self.http.close()
        self.client.close()
        self.anthropic.close()


@contextmanager
def running(
    artifact: Artifact,
    *,
    seconds_per_step: float = 0.0,
    ping_seconds: float = 15.0,
    limit: int = 256,
    aliases: Sequence[str] = (),
    reply: Callable[[Sequence[int]], Sequence[int]] = reply_to,
    think_budget: int | None = None,
    any_model: bool = False,
    pooling: str | None = None,
) -> Iterator[Server]:
    engine = FakeEngine(artifact, reply, seconds_per_step=seconds_per_step)

    def load() -> Model:
        return Model(engine)  # type: ignore[arg-type]  # the engine's twin

    options = {
        "ping_seconds": ping_seconds,
        "aliases": aliases,
        "think_budget": think_budget,
        "any_model": any_model,
        "pooling": pooling,
    }
    with serving(load, limit=limit, **options) as url:
        server = Server(url, engine)
        try:
            wait_for(lambda: server.http.get("/health").status_code == 200)
            yield server
        finally:
            server.close()
    assert engine.closed
    assert not engine.live


@pytest.fixture(scope="module")
def server(artifact: Artifact) -> Iterator[Server]:
    with running(artifact) as server:
        yield server


@pytest.fixture
def slow(artifact: Artifact) -> Iterator[Server]:
    with running(artifact, seconds_per_step=SLOW) as server:
        yield server


def ask(text: str) -> list[openai.types.chat.ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def events(body: str) -> list[str]:
    """The data of every event; comments left out. Framing must be LF LF."""
    assert "\r" not in body
    assert body.endswith("\n\n")
    blocks = [block for block in body.removesuffix("\n\n").split("\n\n") if not block.startswith(":")]
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]


def test_models(server: Server) -> None:
    assert [model.id for model in server.client.models.list()] == ["tiny"]
    assert server.client.models.retrieve("tiny").owned_by == "imp"
    with pytest.raises(openai.NotFoundError) as caught:
        server.client.models.retrieve("org/other")
    assert caught.value.code == "model_not_found"


def test_chat(server: Server) -> None:
    completion = server.client.chat.completions.create(model="tiny", messages=ask("Hi"))
    (choice,) = completion.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", REPLY, "stop")
    prompt = encode("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert server.engine.prompts[-1] == tuple(prompt)
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == len(prompt)
    assert completion.usage.completion_tokens == len(encode(REPLY))
    assert completion.usage.total_tokens == len(prompt) + len(encode(REPLY))
    assert completion.id.startswith("chatcmpl-")
    assert server.engine.params[-1].max_tokens >= CONTEXT - len(prompt)


def test_chat_stream(server: Server) -> None:
    chunks = list(server.client.chat.completions.create(model="tiny", messages=ask("Hi"), stream=True))
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert [delta.role for delta in deltas] == ["assistant"] + [None] * (len(chunks) - 1)
    assert deltas[0].content is None
    texts = [delta.content for delta in deltas[1:-1]]
    assert all(texts)
    assert "".join(text or "" for text in texts) == REPLY
    assert not any("\ufffd" in (text or "") for text in texts)
    assert len(texts) > 5
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in chunks)


def test_chat_stream_with_usage_and_framing(server: Server) -> None:
    body = {
        "model": "tiny",
        "messages": ask("Hi"),
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 2,
    }
    response = server.http.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    *data, done = events(response.text)
    assert done == "[DONE]"
    chunks = [json.loads(each) for each in data]
    assert all(chunk["usage"] is None and len(chunk["choices"]) == 1 for chunk in chunks[:-1])
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-2]["choices"][0]["delta"] == {}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 2


def test_completion(server: Server) -> None:
    completion = server.client.completions.create(
        model="tiny", prompt="def add(", max_tokens=3, temperature=0.5, seed=7, extra_body={"top_k": 5, "min_p": 0.1}
    )
    assert completion.object == "text_completion"
    assert completion.choices[0].text == "Hello 🙂"[: len(completion.choices[0].text)] != ""
    assert completion.choices[0].finish_reason == "length"
    assert server.engine.prompts[-1] == tuple(encode("def add("))
    params = server.engine.params[-1]
    assert (params.max_tokens, params.temperature, params.seed, params.top_k, params.min_p) == (3, 0.5, 7, 5, 0.1)


def test_completion_of_token_ids_and_the_default_length(server: Server) -> None:
    completion = server.client.completions.create(model="tiny", prompt=[10, 11])
    assert server.engine.prompts[-1] == (10, 11)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 16
    for prompt in ([[10, 11]], ["x"]):
        server.client.completions.create(model="tiny", prompt=prompt)  # type: ignore[call-overload]


def test_completion_stream(server: Server) -> None:
    chunks = list(server.client.completions.create(model="tiny", prompt="x", max_tokens=100, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == REPLY
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]


@pytest.mark.parametrize("stop", ["🚀 wö", ["zzz", "🚀 wö"], ["Hello 🙂🚀 wörld!", "🚀"]])
@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_across_token_borders(server: Server, stop: str | list[str], stream: bool) -> None:
    request = {"model": "tiny", "messages": ask("Hi again"), "stop": stop}
    if stream:
        chunks = list(server.client.chat.completions.create(**request, stream=True))  # type: ignore[call-overload]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        (choice,) = server.client.chat.completions.create(**request).choices  # type: ignore[call-overload]
        text, reason = choice.message.content, choice.finish_reason
    assert (text, reason) == ("Hello 🙂", "stop")
    wait_for(lambda: not server.engine.live)


def test_parts_nulls_roles_and_fields_that_ask_for_nothing(server: Server) -> None:
    body = {
        "model": "tiny",
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]},
            {"role": "assistant", "content": None, "refusal": None, "tool_calls": []},
            {"role": "user", "content": "Hi", "name": "x"},
        ],
        "temperature": None, "stop": None, "n": 1, "logprobs": False, "tools": [], "tool_choice": "auto",
        "response_format": {"type": "text"}, "user": "me", "store": True, "metadata": {"a": "1"},
    }  # fmt: skip
    response = server.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    prompt = "<|im_start|>system\nBe\nbrief.<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"
    prompt += "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert server.engine.prompts[-1] == tuple(encode(prompt))


def test_aliases(artifact: Artifact) -> None:
    with running(artifact, aliases=["gpt-4o"]) as server:
        (model,) = server.client.models.list()
        assert (model.id, model.model_extra and model.model_extra["aliases"]) == ("gpt-4o", ["gpt-4o", "tiny"])
        assert [server.client.models.retrieve(name).id for name in ("gpt-4o", "tiny")] == ["gpt-4o", "tiny"]
        assert server.http.get("/props").json()["model_alias"] == "gpt-4o"
        bodies = {
            "/v1/chat/completions": {"messages": ask("Hi")},
            "/v1/completions": {"prompt": "Hi"},
            "/v1/responses": {"input": "Hi"},
            "/v1/messages": {"messages": ask("Hi"), "max_tokens": 1},
            "/v1/embeddings": {"input": "Hi"},
            "/completion": {"prompt": "Hi"},
        }
        answers = {path: server.http.post(path, json=body).json() for path, body in bodies.items()}
        assert {path: answer["model"] for path, answer in answers.items()} == dict.fromkeys(bodies, "gpt-4o")
        reply = server.client.chat.completions.create(model="gpt-4o", messages=ask("Hi"))
        assert (reply.model, reply.choices[0].message.content) == ("gpt-4o", REPLY)


def test_concurrent_streams(slow: Server) -> None:
    async def one(client: openai.AsyncOpenAI, i: int) -> str:
        stream = await client.chat.completions.create(model="tiny", messages=ask(f"{i} Hi"), stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def every() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{slow.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, i) for i in range(12)))

    began = time.monotonic()
    assert asyncio.run(every()) == [REPLY] * 12
    assert time.monotonic() - began < 12 * len(encode(REPLY)) * SLOW  # they shared the steps
    assert len(slow.engine.threads) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_sequence(slow: Server, stream: bool) -> None:
    body = json.dumps({"model": "tiny", "messages": ask("Hi again"), "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    host, port = slow.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head + body)
        wait_for(lambda: bool(slow.engine.live) and len(slow.engine.live[0].generated) > 3)
    assert wait_for(lambda: not slow.engine.live) < 0.1
    assert slow.engine.aborted.is_set()


def test_a_client_that_leaves_before_the_engine_takes_its_request(artifact: Artifact) -> None:
    """A step takes long; meanwhile one asks and leaves, and its place is free for another at once."""
    with running(artifact, seconds_per_step=0.6, limit=2) as server:
        host, port = server.url.removeprefix("http://").split(":")
        body = json.dumps({"prompt": "again", "max_tokens": 3}).encode()
        message = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        with socket.create_connection((host, int(port))) as stays:
            stays.sendall(message)
            wait_for(lambda: len(server.engine.prompts) == 1)
            time.sleep(0.02)  # into its first step
            with socket.create_connection((host, int(port))) as leaves:
                leaves.sendall(message)
                time.sleep(0.1)
            time.sleep(0.1)
            assert len(server.engine.prompts) == 1
            assert server.http.post("/v1/completions", json={"prompt": "again", "max_tokens": 1}).status_code == 200
            assert len(server.engine.live) <= 1
            assert stays.recv(12) == b"HTTP/1.1 200"


def test_pings_while_nothing_comes(artifact: Artifact) -> None:
    with running(artifact, seconds_per_step=0.12, ping_seconds=0.05) as server:
        body = {"model": "tiny", "prompt": "x", "max_tokens": 2, "stream": True}
        text = server.http.post("/v1/completions", json=body).text
    assert text.startswith(": ping\n\n")
    assert events(text)[-1] == "[DONE]"


def test_a_full_server_says_so(artifact: Artifact) -> None:
    with running(artifact, seconds_per_step=SLOW, limit=1) as server:
        with server.client.completions.create(model="tiny", prompt="again", max_tokens=400, stream=True) as stream:
            next(iter(stream))
            with pytest.raises(openai.RateLimitError) as caught:
                server.client.completions.create(model="tiny", prompt="x")
            assert caught.value.response.headers["retry-after"] == "1"
        wait_for(lambda: not server.engine.live)
        assert server.client.completions.create(model="tiny", prompt="x", max_tokens=1).choices


def test_the_network_does_not_hold_tokens_back() -> None:
    """Nagle's algorithm is off on what the server accepts."""

    async def accepted() -> int:
        got: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(connected, sock=listen("127.0.0.1", 0)) as server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.close()
            return await got

    assert asyncio.run(accepted()) != 0


def test_shutdown_ends_open_streams(artifact: Artifact) -> None:
    engine = FakeEngine(artifact, reply_to, seconds_per_step=0.05)
    began = 0.0
    with httpx.Client() as client:
        with serving(lambda: Model(engine)) as url:  # type: ignore[arg-type]  # the engine's twin
            wait_for(lambda: client.get(f"{url}/health").status_code == 200)
            body = {"prompt": "again", "max_tokens": 400, "stream": True}
            request = client.build_request("POST", f"{url}/v1/completions", json=body)
            response = client.send(request, stream=True)
            next(response.iter_raw())
            began = time.monotonic()
        assert time.monotonic() - began < 5
        response.close()
    assert engine.closed
