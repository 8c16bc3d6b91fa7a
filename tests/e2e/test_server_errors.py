"""What the server says to bad requests and in bad times: always OpenAI's error object, never 500 for bad input."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_server import Server, ask, events, running, serving, wait_for

from fake_engine import CONTEXT, FakeEngine, write_tiny_artifact
from imp_runtime.artifact import Artifact
from imp_runtime.engine import StepOutput
from imp_runtime.errors import ImpError
from imp_server.api.openai.requests import ChatBody, CompletionBody
from imp_server.model import Model

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_tiny_artifact(tmp_path_factory.mktemp("server") / "tiny.impc")


@pytest.fixture(scope="module")
def server(artifact: Artifact) -> Iterator[Server]:
    with running(artifact) as server:
        yield server


def error_of(response: httpx.Response, status: int) -> dict[str, str | None]:
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"])[:4] == ["message", "type", "param", "code"]
    assert "\n" not in body["error"]["message"]
    assert isinstance(body["error"], dict)
    return body["error"]


@pytest.mark.parametrize("stream", [False, True])
def test_unknown_model(server: Server, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        server.client.chat.completions.create(model="gpt-4o", messages=ask("Hi"), stream=stream)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "tiny" in caught.value.message


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_prompt_that_is_too_long(server: Server, path: str, stream: bool) -> None:
    prompt = {"messages": ask("!" * CONTEXT)} if path == CHAT else {"prompt": "!" * CONTEXT}
    body = {"model": "tiny", **prompt, "stream": stream}
    error = error_of(server.http.post(path, json=body), 400)
    assert error["code"] == "context_length_exceeded"
    assert str(CONTEXT) in str(error["message"])


@pytest.mark.parametrize(
    ("extra", "param", "words"),
    [
        ({"n": 0}, "n", "n: "),
        ({"n": 10**6}, "n", "n: "),
        ({"top_logprobs": 21}, "top_logprobs", "top_logprobs"),
        ({"logit_bias": {"": 1}}, "logit_bias", "empty key"),
        ({"logit_bias": {"5": "much"}}, "logit_bias", "logit_bias"),
        ({"response_format": {"type": "xml"}}, "response_format", "response_format.type: "),
        ({"response_format": {"type": "json_schema"}}, "response_format", "no json_schema.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nope"}}}}, None, "schema"),
        ({"grammar": "root ::= ("}, None, "grammar"),
        ({"regex": "a", "grammar": 'root ::= "a"'}, "response_format", "two formats"),
        ({"functions": [{"name": "f"}]}, "functions", "not offered"),
        ({"mirostat": 1}, None, "mirostat is 1"),
        ({"typical_p": 2}, None, "typical_p is 2"),
        ({"temperature": -1}, None, "temperature is -1"),
        ({"temperature": "warm"}, "temperature", "temperature: "),
        ({"top_p": 2}, None, "top_p is 2"),
        ({"max_tokens": 0, "stream": True}, None, "max_tokens is 0"),
        ({"max_tokens": 10**30}, "max_tokens", "max_tokens: "),
        ({"seed": 2**70}, "seed", "seed: "),
        ({"stop": 5}, "stop", "stop: "),
        ({"stop": ["x"] * 17}, "stop", "stop: "),
        ({"stream": "perhaps"}, "stream", "stream: "),
        ({"model": 3}, "model", "model: "),
    ],
)
def test_fields_that_are_wrong_or_not_offered(
    server: Server, extra: dict[str, object], param: str | None, words: str
) -> None:
    for path, prompt in ((CHAT, {"messages": ask("Hi")}), (COMPLETIONS, {"prompt": "Hi"})):
        if path == COMPLETIONS and "top_logprobs" in extra:
            continue
        error = error_of(server.http.post(path, json={"model": "tiny", **prompt, **extra}), 400)
        assert error["type"] == "invalid_request_error"
        assert param is None or error["param"] == param
        assert words in str(error["message"])


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (None, "messages: "),
        ([], "messages: "),
        ("Hi", "messages: "),
        ([{"content": "Hi"}], "messages.0.role: "),
        ([{"role": "wizard", "content": "Hi"}], "messages.0.role: "),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "reads text only"),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "input_audio"}]}], "content.1"),
        ([{"role": "user", "content": 5}], "messages.0.content: "),
        ([{"role": "assistant", "tool_calls": [{"id": "x"}]}], "messages.0.tool_calls.0.function: "),
        ([{"role": "user", "tool_calls": [{"function": {"name": "f"}}]}], "only an assistant"),
    ],
)
def test_bad_messages(server: Server, messages: object, words: str) -> None:
    error = error_of(server.http.post(CHAT, json={"model": "tiny", "messages": messages}), 400)
    assert words in str(error["message"])


@pytest.mark.parametrize("prompt", [None, [], [[]], ["a", ""], [1, "a"], 5, "", [99999], [-1], [[1], []], {"a": 1}])
def test_bad_prompts(server: Server, prompt: object) -> None:
    error_of(server.http.post(COMPLETIONS, json={"model": "tiny", "prompt": prompt}), 400)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"messages": "\\ud800"}', b"\x00"]
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_bodies_that_are_no_request(server: Server, path: str, body: bytes) -> None:
    error_of(server.http.post(path, content=body), 400)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [*ChatBody.model_fields, *CompletionBody.model_fields, "n", "logprobs", "tools", "response_format"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6))
def test_no_body_makes_the_server_fail(server: Server, body: dict[str, object]) -> None:
    for path, usual in ((CHAT, {"messages": ask("Hi")}), (COMPLETIONS, {"prompt": "Hi"})):
        response = server.http.post(path, content=json.dumps({**usual, "max_tokens": 2, **body}).encode())
        assert response.status_code in (200, 400, 404), response.text
        if response.status_code != 200:
            error_of(response, response.status_code)


def test_unknown_path_and_method(server: Server) -> None:
    error_of(server.http.get("/v1/nothing"), 404)
    assert server.http.head("/").status_code == 200
    assert error_of(server.http.get("/"), 404)["message"] == "there is no such path here"  # the page is the gateway's
    for method, path, allowed in (
        ("GET", CHAT, "POST"),
        ("DELETE", "/v1/models", "GET, HEAD"),
        ("PUT", "/models/Tiny", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("GET", "/v1/messages", "POST"),
    ):
        response = server.http.request(method, path)
        assert response.status_code == 405
        assert response.headers["allow"] == allowed


def test_what_is_got_has_a_head(server: Server) -> None:
    for path in ("/health", "/v1/health", "/ready", "/v1/models", "/models", "/props", "/slots", "/openapi.json"):
        got, head = server.http.get(path), server.http.head(path)
        assert (got.status_code, head.status_code, head.content) == (200, 200, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
    assert server.http.head("/v1/models/nobody").status_code == 404


def test_a_template_that_refuses(tmp_path_factory: pytest.TempPathFactory) -> None:
    template = b"{{ raise_exception('roles must alternate') }}"
    path = tmp_path_factory.mktemp("refuses") / "tiny.impc"
    with running(write_tiny_artifact(path, blobs={"chat_template.jinja": template})) as server:
        error = error_of(server.http.post(CHAT, json={"messages": ask("Hi"), "stream": True}), 400)
        assert "roles must alternate" in str(error["message"])


def test_while_loading(artifact: Artifact) -> None:
    ready = threading.Event()

    def load() -> Model:
        ready.wait(10)
        return Model(FakeEngine(artifact, lambda prompt: []))  # type: ignore[arg-type]  # the engine's twin

    with serving(load) as url, httpx.Client(base_url=url) as client:
        for response in (
            client.get("/health"),
            client.get("/v1/models"),
            client.post(COMPLETIONS, json={"prompt": "x"}),
        ):
            assert error_of(response, 503)["code"] == "loading"
            assert response.headers["retry-after"] == "1"
        ready.set()
        wait_for(lambda: client.get("/health").status_code == 200)
        assert client.get("/health").json() == {"status": "ok"}


def test_an_engine_that_fails(artifact: Artifact) -> None:
    class Failing(FakeEngine):
        def step(self) -> list[StepOutput]:
            if len(self.live[0].generated) == 3:
                raise ImpError("the GPU is gone")
            return super().step()

    engine = Failing(artifact, lambda prompt: [40] * 50)
    with serving(lambda: Model(engine)) as url, httpx.Client(base_url=url) as client:  # type: ignore[arg-type]
        wait_for(lambda: client.get("/health").status_code == 200)
        *chunks, last = events(client.post(COMPLETIONS, json={"prompt": "x", "stream": True}).text)
        assert len(chunks) == 3
        assert "the GPU is gone" in json.loads(last)["error"]["message"]
        assert json.loads(last)["error"]["code"] == "engine_failed"
        for response in (client.get("/health"), client.post(COMPLETIONS, json={"prompt": "x"})):
            error = error_of(response, 503)
            assert error["code"] == "loading"
            assert "the GPU is gone" in str(error["message"])
            assert response.headers["retry-after"] == "1"
