"""What a server is started with: sampling, a chat template and reasoning for requests that do not say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_server import ask, serving, wait_for
from test_server_openai import TEMPLATE

from fake_engine import CONTEXT, FakeEngine, encode, reference_tokenizer, write_tiny_artifact
from imp_runtime.errors import ImpError
from imp_server.cli import execute
from imp_server.generation.options import Options
from imp_server.model import Model

CHAT, COMPLETIONS, NATIVE = "/v1/chat/completions", "/v1/completions", "/completion"
OFF = "<|im_start|>assistant\n<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> FakeEngine:
    path = tmp_path_factory.mktemp("server") / "tiny.impc"
    return FakeEngine(write_tiny_artifact(path, blobs={"chat_template.jinja": TEMPLATE}), lambda _: encode("Hi"))


@contextmanager
def started(
    engine: FakeEngine,
    options: Options | None = None,
    *,
    think: bool | None = None,
    template: str | None = None,
    **app: Any,
) -> Iterator[httpx.Client]:
    def load() -> Model:
        model = Model(engine, chat_template=template)  # type: ignore[arg-type]  # the engine's twin
        model.serve_with(options or Options(), think=think)
        return model

    with serving(load, **app) as url, httpx.Client(base_url=url) as client:
        wait_for(lambda: client.get("/health").status_code == 200)
        yield client


def prompt_of(engine: FakeEngine) -> str:
    return reference_tokenizer().decode(list(engine.prompts[-1]), skip_special_tokens=False)


def test_sampling(engine: FakeEngine) -> None:
    given = Options(temperature=0.25, top_k=7, top_p=0.5, min_p=0.125, repetition_penalty=1.5, seed=42)
    with started(engine, given, max_tokens=9) as client:
        for path, body in ((CHAT, {"messages": ask("x")}), (COMPLETIONS, {"prompt": "x"}), (NATIVE, {"prompt": "x"})):
            client.post(path, json=body).raise_for_status()
            params = engine.params[-1]
            assert {name: getattr(params, name) for name in given} == given
            assert params.max_tokens == 9
            client.post(
                path, json={**body, "temperature": 0, "seed": 1, "max_tokens": -1, "top_k": 0}
            ).raise_for_status()
            params = engine.params[-1]
            assert (params.temperature, params.seed, params.max_tokens, params.top_k) == (0, 1, CONTEXT, 0)
            client.post(path, json={**body, "seed": -1}).raise_for_status()
            assert engine.params[-1].seed not in (42, None)
        props = client.get("/props").json()["default_generation_settings"]["params"]
        told = {"temperature": 0.25, "top_k": 7, "repeat_penalty": 1.5, "seed": 42, "n_predict": 9}
        assert {name: props[name] for name in told} == told


def test_a_template_in_place_of_the_models(engine: FakeEngine) -> None:
    template = "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}[assistant]"
    with started(engine, template=template) as client:
        assert client.post("/apply-template", json={"messages": ask("x")}).json() == {"prompt": "[user] x\n[assistant]"}
        assert client.get("/props").json()["chat_template"] == template


@pytest.mark.parametrize("think", [None, True, False])
def test_reasoning(engine: FakeEngine, think: bool | None) -> None:
    with started(engine, think=think) as client:

        def ends_off(**fields: object) -> bool:
            client.post(CHAT, json={"messages": ask("x"), **fields}).raise_for_status()
            return prompt_of(engine).endswith(OFF)

        assert ends_off() == (think is False)
        assert ends_off(enable_thinking=False)
        assert not ends_off(enable_thinking=True)
        assert not ends_off(chat_template_kwargs={"enable_thinking": True})
        assert ends_off(chat_template_kwargs={"enable_thinking": False})


def test_reasoning_that_cannot_be_switched(engine: FakeEngine) -> None:
    always = Model(engine, chat_template="{{ messages[0].content }}<think>\n")  # type: ignore[arg-type]
    never = Model(engine, chat_template="{{ messages[0].content }}")  # type: ignore[arg-type]
    for model, think in ((always, False), (always, True), (never, True)):
        with pytest.raises(ImpError, match="no switch for reasoning"):
            model.serve_with(Options(), think=think)
    never.serve_with(Options(), think=False)


def test_concurrent_requests_are_the_slots(engine: FakeEngine) -> None:
    for concurrent, slots in ((2, 2), (None, 4), (64, 4)):
        with started(engine, concurrent=concurrent) as client:
            assert client.get("/props").json()["total_slots"] == slots
            assert len(client.get("/slots").json()) == slots


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--temperature", "500"], "--temperature: sampling.temperature is 500.0; it must be from 0 to 100"),
        (["--reasoning", "maybe"], "--reasoning: server.reasoning is 'maybe'; it must be auto or on or off"),
        (["--max-tokens", "0"], "--max-tokens: sampling.max_tokens is 0; it must be at least 1"),
        (["--chat-template", "absent.jinja"], "--chat-template absent.jinja: No such file or directory"),
    ],
)
def test_flags_that_are_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str) -> None:
    artifact = write_tiny_artifact(tmp_path / "tiny.impc")
    assert execute(["serve", str(artifact.path), *flags]) == 2
    assert capsys.readouterr().err == f"imp: error: {words}\n"
