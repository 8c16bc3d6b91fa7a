"""Responses against OpenAI's published description, as the types that OpenAI generates from it for their SDK.

The SDK itself reads responses leniently; here every field must be of its type. The types say Optional both for what may
be absent and for what may be null, so that is written out below, after the description at
https://github.com/openai/openai-openapi (2.3.0 of August 2026).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from openai.types import CompletionUsage, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.completion import Completion
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter, ValidationError
from test_server import Server, ask, events, running
from test_server_openai import PARAMETERS, TEMPLATE, TOOLS, reply_to
from test_server_responses import TOOLS as RESPONSES_TOOLS

from fake_engine import write_tiny_artifact

# Required, but the type says Optional: by object, the paths of keys that must be there.
REQUIRED = {
    "chat.completion": ("choices.*.logprobs", "choices.*.message.content", "choices.*.message.refusal"),
    "chat.completion.chunk": ("choices.*.finish_reason",),
    "text_completion": ("choices.*.logprobs", "choices.*.finish_reason"),
    "response": ("error", "incomplete_details", "instructions", "metadata", "temperature", "top_p", "tools"),
}
# All that may be null; `**` stands for what leads there. The description is silent of three that its text and OpenAI's
# servers have: the usage of chunks before the last, the finish reason of a completion's chunks, and the log-probability
# of the first token of an echoed prompt.
NULLABLE = {
    "chat.completion": REQUIRED["chat.completion"] + ("**.logprobs.refusal",),
    "chat.completion.chunk": (
        "choices.*.finish_reason", "choices.*.logprobs", "choices.*.delta.content", "**.logprobs.refusal", "usage",
    ),
    "text_completion": (
        "choices.*.logprobs", "choices.*.finish_reason", "**.token_logprobs.*", "**.top_logprobs.*", "usage",
    ),
    "response": (
        "error", "incomplete_details", "instructions", "max_output_tokens", "previous_response_id", "reasoning.effort",
        "reasoning.summary",
    ),
}  # fmt: skip
NULLABLE["event"] = tuple(f"response.{path}" for path in NULLABLE["response"])


def paths(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every key below `value` as a path, list indices as `*`, with what it holds."""
    items = value.items() if isinstance(value, dict) else [("*", each) for each in value]
    for key, inner in items:
        path = f"{at}.{key}".lstrip(".")
        yield path, inner
        if isinstance(inner, dict | list):
            yield from paths(inner, path)


def fits(path: str, pattern: str) -> bool:
    return path == pattern or (pattern.startswith("**.") and path.endswith(pattern[2:]))


@cache
def adapter(kind: object) -> TypeAdapter[Any]:
    """Made once: of the union of all events it takes longer than the answers do."""
    return TypeAdapter(kind)


def check(kind: object, body: Any, name: str | None = None) -> None:
    """`body` is exactly what `kind` says; `name` is its entry in the tables."""
    adapter(kind).validate_python(body, strict=True)
    name = name or body["object"]
    found = list(paths(body))
    for pattern in REQUIRED.get(name, ()):
        parent, _, key = pattern.rpartition(".")
        owners = [inner for path, inner in found if path == parent] if parent else [body]
        assert all(key in owner for owner in owners), f"{pattern} is missing"
    for path, inner in found:
        assert inner is not None or any(fits(path, each) for each in NULLABLE.get(name, ())), f"{path} is null"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("shapes") / "tiny.impc"
    artifact = write_tiny_artifact(path, blobs={"chat_template.jinja": TEMPLATE})
    with running(artifact, reply=reply_to) as server:
        yield server


def both(server: Server, path: str, body: dict[str, object]) -> tuple[Any, list[Any]]:
    """The whole answer, and the data of the events of the stream."""
    whole = server.http.post(path, json=body).raise_for_status().json()
    options = {"stream_options": {"include_usage": True}} if path != "/v1/responses" else {}
    text = server.http.post(path, json={**body, "stream": True, **options}).raise_for_status().text
    if path != "/v1/responses":
        *data, done = events(text)
        assert done == "[DONE]"
        return whole, [json.loads(each) for each in data]
    return whole, [json.loads(each.split("data: ")[1]) for each in text.removesuffix("\n\n").split("\n\n")]


@pytest.mark.parametrize("word", ["plain", "call", "think", "nothing"])
@pytest.mark.parametrize("extra", [{"tools": TOOLS}, {"logprobs": True, "top_logprobs": 2}, {"n": 2, "max_tokens": 2}])
def test_chat(server: Server, word: str, extra: dict[str, object]) -> None:
    whole, chunks = both(server, "/v1/chat/completions", {"messages": ask(word), **extra})
    check(ChatCompletion, whole)
    for chunk in chunks:
        check(ChatCompletionChunk, chunk)
    adapter(CompletionUsage).validate_python(chunks[-1]["usage"], strict=True)
    assert all(choice["index"] < 2 for chunk in chunks for choice in chunk["choices"])


@pytest.mark.parametrize("extra", [{}, {"logprobs": 2, "echo": True}, {"max_tokens": 2, "n": 2}])
def test_completions(server: Server, extra: dict[str, object]) -> None:
    whole, chunks = both(server, "/v1/completions", {"prompt": "plain", **extra})
    # The types have none of the nulls that chunks and echoes need.
    check(Completion, {**whole, "choices": []})
    if "echo" not in extra:
        check(Completion, whole)
    for chunk in chunks:
        choices = [{**choice, "finish_reason": choice["finish_reason"] or "stop"} for choice in chunk["choices"]]
        if "echo" not in extra:
            check(Completion, {**chunk, "choices": choices})
    assert {choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]} <= {None, "stop", "length"}


@pytest.mark.parametrize("word", ["plain", "call", "think", "nothing"])
@pytest.mark.parametrize(
    "extra",
    [
        {"tools": RESPONSES_TOOLS, "instructions": "x", "metadata": {"a": "b"}},
        {"tools": RESPONSES_TOOLS, "tool_choice": "required"},
        {"tools": RESPONSES_TOOLS, "tool_choice": {"type": "function", "name": "get_time"}},
        {"max_output_tokens": 2, "top_logprobs": 2, "reasoning": {"effort": "low"}},
        {"text": {"format": {"type": "json_schema", "name": "zone", "schema": PARAMETERS, "strict": True}}},
    ],
    ids=["tools", "required", "named", "cut", "schema"],
)
def test_responses(server: Server, word: str, extra: dict[str, object]) -> None:
    whole, stream = both(server, "/v1/responses", {"model": "tiny", "input": word, **extra})
    check(Response, whole)
    for event in stream:
        check(ResponseStreamEvent, event, "event")
        if "response" in event:
            check(Response, event["response"])


def test_the_rest(server: Server) -> None:
    check(CreateEmbeddingResponse, server.http.post("/v1/embeddings", json={"input": "x"}).json(), "embeddings")
    models = server.http.get("/v1/models").json()
    assert set(models) == {"object", "data"}
    for model in (*models["data"], server.http.get("/v1/models/tiny").json()):
        check(Model, model)


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/embeddings", {}), ("/v1/nothing", {}), ("/v1/responses", {"model": "x", "input": "x"})]
)
def test_errors(server: Server, path: str, body: dict[str, object]) -> None:
    error = server.http.post(path, json=body).json()
    assert set(error) == {"error"}
    assert {"message", "type", "param", "code"} <= set(error["error"])
    assert all(isinstance(error["error"][key], str) for key in ("message", "type"))
    assert all(error["error"][key] is None or isinstance(error["error"][key], str) for key in ("param", "code"))


def test_the_check_itself_sees_what_is_wrong() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    message = {"role": "assistant", "content": "x", "refusal": None}
    choice = {"index": 0, "finish_reason": "stop", "logprobs": None, "message": message}
    good = {
        "id": "a", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage,
    }  # fmt: skip
    check(ChatCompletion, good)
    for bad in ({"created": "1"}, {"object": "chat"}, {"choices": None}, {"usage": {**usage, "total_tokens": None}}):
        with pytest.raises(ValidationError):
            check(ChatCompletion, {**good, **bad}, "chat.completion")
    for bad in ({"usage": None}, {"choices": [{**choice, "message": {"role": "assistant", "content": "x"}}]}):
        with pytest.raises(AssertionError):
            check(ChatCompletion, {**good, **bad})
