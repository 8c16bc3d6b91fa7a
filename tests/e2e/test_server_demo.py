"""The server over the real engine on the CPU, with the demo model that the repository ships."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from test_server import Server, serving, wait_for

from imp_codegen.compiler import CompileOptions, compile_model
from imp_server.model import Model
from model_checks import compile_fixture, quiet

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo") / "demo.impc"
    compile_model(ROOT / "models" / "demo.gguf", output, ("sim",), CompileOptions(), quiet)
    return output


@pytest.fixture(scope="module")
def server(model_file: Path) -> Iterator[tuple[Server, Model]]:
    loaded: list[Model] = []

    def load() -> Model:
        loaded.append(Model.load(model_file, target="sim"))
        return loaded[0]

    with serving(load) as url:
        server = Server(url, None)  # type: ignore[arg-type]  # the engine is real
        wait_for(lambda: server.http.get("/health").status_code == 200, 60)
        yield server, loaded[0]
        server.close()


def test_what_the_engine_says_comes_out(server: tuple[Server, Model]) -> None:
    """Greedy text and log-probabilities are those of the engine's own logits."""
    client, model = server[0].client, server[1]
    prompt = "def add(a, b):\n"
    answer = client.completions.create(model="Demo", prompt=prompt, max_tokens=6, temperature=0, logprobs=2, echo=True)
    (choice,) = answer.choices
    assert choice.logprobs is not None
    ids = model.tokenizer.encode(prompt, special=True)
    text = choice.text.removeprefix(prompt)
    again = client.completions.create(model="Demo", prompt=prompt, max_tokens=6, temperature=0)
    assert again.choices[0].text == text
    assert len(choice.logprobs.token_logprobs or ()) == len(ids) + 6
    given = [each for each in choice.logprobs.token_logprobs or () if each is not None]
    tops = [max(top.values()) for top in choice.logprobs.top_logprobs or () if top]
    np.testing.assert_allclose(given[-6:], tops[-6:], atol=1e-4)  # greedy takes the best


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("stage", ["queued", "prefilling", "decoding"])
def test_leaving_frees_the_engine_within_100_ms(server: tuple[Server, Model], stage: str, stream: bool) -> None:
    """Whatever step is running: it ends by itself, and nothing follows it."""
    url, model = server[0].url, server[1]
    scheduler = model.engine._scheduler
    host, port = url.removeprefix("http://").split(":")
    prompt = "import" if stage == "decoding" else "import os\n" * 180
    body = json.dumps({"prompt": prompt, "max_tokens": 90, "stream": stream, "ignore_eos": True}).encode()
    message = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    # All slots but four are lent: on a simulator it takes long until all are busy.
    lent = [scheduler.borrow(1) for _ in range(model.plan.slots - 4)] if stage == "queued" else []
    clients = [socket.create_connection((host, int(port))) for _ in range(5 if stage == "queued" else 1)]
    for client in clients:
        client.sendall(message)
    reached = {
        "queued": lambda: len(scheduler.waiting) == 1 and len(scheduler.running) == 4,
        "prefilling": lambda: any(each.cached > 0 for each in scheduler.running),
        "decoding": lambda: any(len(each.generated) > 3 for each in scheduler.running),
    }
    wait_for(reached[stage], 60)
    time.sleep(0.03)  # into the middle of a step
    leaving = [*scheduler.waiting, *scheduler.running]
    assert len(leaving) == len(clients)
    for client in clients:
        client.close()
    assert wait_for(lambda: not model.engine.has_work, 60) < 0.1
    assert {(each.finish, each.slot, *each.blocks) for each in leaving} == {("abort", -1)}
    for each in lent:
        assert each is not None
        scheduler.give_back(*each)
    assert server[0].client.completions.create(model="Demo", prompt="x", max_tokens=1).usage is not None


def test_many_streams(tmp_path: Path) -> None:
    """64 at once, of a model that is quick even here."""
    file = compile_fixture(tmp_path, "qwen3", "Q8_0", "sim")

    async def one(client: openai.AsyncOpenAI, name: str) -> int:
        stream = await client.completions.create(model=name, prompt="x", max_tokens=2, stream=True)
        return len([chunk async for chunk in stream if chunk.choices[0].finish_reason is not None])

    async def every(url: str) -> list[int]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            name = (await client.models.list()).data[0].id
            return await asyncio.gather(*(one(client, name) for _ in range(64)))

    with serving(lambda: Model.load(file, target="sim")) as url:
        wait_for(lambda: httpx.get(f"{url}/health").status_code == 200, 60)
        assert asyncio.run(every(url)) == [1] * 64


def test_a_grammar(server: tuple[Server, Model]) -> None:
    answer = server[0].client.completions.create(
        model="Demo", prompt="x", max_tokens=40, extra_body={"regex": "[a-c]{3}"}
    )
    (choice,) = answer.choices
    assert (len(choice.text), choice.finish_reason) == (3, "stop")
    assert set(choice.text) <= set("abc")


def test_embeddings_and_tokens(server: tuple[Server, Model]) -> None:
    client, model = server[0].client, server[1]
    (vector,) = client.embeddings.create(model="Demo", input="def add(").data
    hidden = np.array(vector.embedding)
    assert len(hidden) == model.plan.hidden
    assert np.linalg.norm(hidden) == pytest.approx(1, abs=1e-4)
    tokens = server[0].http.post("/tokenize", json={"content": "def add("}).json()["tokens"]
    assert server[0].http.post("/detokenize", json={"tokens": tokens}).json()["content"] == "def add("
    assert json.loads(server[0].http.get("/openapi.json").text)["openapi"] == "3.1.0"
