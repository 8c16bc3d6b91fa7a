"""Anthropic's messages, read by Anthropic's own SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator

import anthropic
import httpx
import pytest
from test_server import Server, ask, running, serving, wait_for
from test_server_openai import PARAMETERS, TEMPLATE, reply_to

from fake_engine import CONTEXT, FakeEngine, Output, encode, reference_tokenizer, write_tiny_artifact
from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError
from imp_server.model import Model

PATH = "/v1/messages"
TOOLS = [
    {"name": "get_time", "description": "Tells", "input_schema": PARAMETERS, "cache_control": {"type": "ephemeral"}},
    {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_tiny_artifact(tmp_path_factory.mktemp("server") / "tiny.impc", blobs={"chat_template.jinja": TEMPLATE})


@pytest.fixture(scope="module")
def server(artifact: Artifact) -> Iterator[Server]:
    with running(artifact, reply=reply_to) as server:
        yield server


def whole(server: Server, word: str, **options: object) -> anthropic.types.Message:
    """The answer, asked for with and without a stream: the SDK makes the same of both."""
    request = {"model": "tiny", "max_tokens": 200, "messages": ask(word), **options}
    with server.anthropic.messages.stream(**request) as stream:  # type: ignore[arg-type]
        streamed = stream.get_final_message()
    once: anthropic.types.Message = server.anthropic.messages.create(**request)  # type: ignore[call-overload]
    a, b = (
        message.model_dump(exclude={"id": True, "content": {"__all__": {"id", "parsed_output"}}})
        for message in (streamed, once)
    )
    assert a == b
    return once


def blocks(stream: str) -> list[dict[str, object]]:
    """The data of every event; names and data must agree."""
    found = []
    for event in stream.removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def prompt_of(server: Server) -> str:
    return reference_tokenizer().decode(server.engine.prompts[-1], skip_special_tokens=False)


def test_text_and_thinking(server: Server) -> None:
    message = whole(server, "think", system="Be brief.")
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0].thinking == "Let me see"  # type: ignore[union-attr]
    assert message.content[1].text == "Hello <b>world</b>"  # type: ignore[union-attr]
    assert (message.stop_reason, message.stop_sequence, message.role) == ("end_turn", None, "assistant")
    assert message.id.startswith("msg_")
    assert message.usage.input_tokens == len(server.engine.prompts[-1])
    assert prompt_of(server).startswith("<|im_start|>system\nBe brief.<|im_end|>")


def test_tools(server: Server) -> None:
    message = whole(server, "call", tools=TOOLS)
    assert [block.type for block in message.content] == ["thinking", "tool_use", "tool_use"]
    assert [block.input for block in message.content[1:]] == [{"zone": "UTC 🙂"}, {"zone": "CET"}]  # type: ignore[union-attr]
    assert message.stop_reason == "tool_use"
    assert "web_search" not in prompt_of(server)
    empty = whole(server, "empty", tools=TOOLS)
    assert [(block.type, block.input) for block in empty.content] == [("tool_use", {})]  # type: ignore[union-attr]


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_time"}])
def test_forced_tools(server: Server, choice: object) -> None:
    message = whole(server, "plain", tools=TOOLS, tool_choice=choice)
    assert message.content[0].input["zone"] in ("UTC", "CET")  # type: ignore[union-attr]
    assert message.stop_reason == "tool_use"


def test_stop_reasons(server: Server) -> None:
    message = whole(server, "plain", stop_sequences=["thr"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "thr")
    assert message.content[0].text == "one two "  # type: ignore[union-attr]
    assert whole(server, "plain", max_tokens=2).stop_reason == "max_tokens"
    nothing = whole(server, "nothing")
    assert (nothing.content, nothing.stop_reason) == ([], "end_turn")


def test_the_order_of_events(server: Server) -> None:
    body = {"model": "tiny", "max_tokens": 200, "messages": ask("call"), "tools": TOOLS, "stream": True}
    response = server.http.post(f"{PATH}?beta=true", json=body, headers={"anthropic-version": "2023-06-01"})
    data = blocks(response.text)
    assert [data[0]["type"], data[-2]["type"], data[-1]["type"]] == ["message_start", "message_delta", "message_stop"]
    start = data[0]["message"]
    assert isinstance(start, dict)
    assert (start["content"], start["stop_reason"], start["usage"]["output_tokens"]) == ([], None, 0)
    open_, count = None, 0
    for event in data[1:-2]:
        if event["type"] == "content_block_start":
            assert open_ is None
            assert event["index"] == count
            open_, count = event["index"], count + 1
        elif event["type"] == "content_block_stop":
            assert event["index"] == open_
            open_ = None
        else:
            assert (event["type"], event["index"]) == ("content_block_delta", open_)
    assert (open_, count) == (None, 3)
    assert "[DONE]" not in response.text


def test_the_history_of_claude_code(server: Server) -> None:
    system = [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=a1b2c;"},
        {"type": "text", "text": "You help.", "cache_control": {"type": "ephemeral"}},
    ]
    thinking = {"type": "thinking", "thinking": "hm", "signature": ""}
    use = {"type": "tool_use", "id": "toolu_1", "name": "get_time", "input": {"zone": "UTC"}}
    results = [
        {"type": "text", "text": "And now?"},
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "12:00"}]},
        {"type": "tool_result", "tool_use_id": "toolu_2", "is_error": True, "content": "no"},
    ]
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "time?", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [thinking, {"type": "redacted_thinking", "data": "x"}, use]},
        {"role": "user", "content": results},
        {"role": "system", "content": "A reminder."},
        {"role": "user", "content": "plain"},
    ]
    body = {"model": "tiny", "max_tokens": 9, "system": system, "messages": messages, "tools": TOOLS,
            "metadata": {"user_id": "u"}, "context_management": {}, "thinking": {"type": "adaptive"}}  # fmt: skip
    server.http.post(PATH, json=body).raise_for_status()
    prompt = prompt_of(server)
    assert "billing" not in prompt
    parts = ["You help.", "time?", "hm\n</think>", '{"zone": "UTC"}', "tool\n12:00", "tool\nError: no", "And now?"]
    places = [prompt.index(part) for part in [*parts, "A reminder.", "plain"]]
    assert places == sorted(places)
    counted = server.http.post(f"{PATH}/count_tokens", json={k: v for k, v in body.items() if k != "max_tokens"})
    assert counted.json() == {"input_tokens": len(server.engine.prompts[-1])}


def test_count_tokens_is_what_the_call_says(server: Server) -> None:
    request = {"model": "tiny", "messages": ask("plain"), "tools": TOOLS, "system": "x"}
    count = server.anthropic.messages.count_tokens(**request).input_tokens  # type: ignore[arg-type]
    assert count == server.anthropic.messages.create(**request, max_tokens=1).usage.input_tokens  # type: ignore[call-overload]


def test_thinking_budget_and_its_switch(artifact: Artifact) -> None:
    forever = encode("<think>" + " hm" * 100)
    with running(artifact, reply=lambda _: forever) as server:
        message = server.anthropic.messages.create(
            model="tiny", max_tokens=60, messages=ask("x"), thinking={"type": "enabled", "budget_tokens": 8}
        )
        assert [block.type for block in message.content] == ["thinking", "text"]
        server.anthropic.messages.create(model="tiny", max_tokens=1, messages=ask("x"), thinking={"type": "disabled"})
        assert prompt_of(server).endswith("<think>\n\n</think>\n\n")


def test_a_prefilled_reply_is_continued(server: Server) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "It is"}]
    server.anthropic.messages.create(model="tiny", max_tokens=3, messages=messages)  # type: ignore[arg-type]
    assert prompt_of(server).endswith("assistant\nIt is")


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        ({"max_tokens": None}, 400, "invalid_request_error"),
        ({"messages": []}, 400, "invalid_request_error"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, 400, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, 400, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": "!" * 2 * CONTEXT}]}, 400, "invalid_request_error"),
        ({"tool_choice": {"type": "any"}}, 400, "invalid_request_error"),
        ({"tool_choice": {"type": "tool"}, "tools": TOOLS}, 400, "invalid_request_error"),
        ({"temperature": -1}, 400, "invalid_request_error"),
        ({"model": "claude-other"}, 404, "not_found_error"),
    ],
)
def test_errors_have_their_shape(server: Server, change: dict[str, object], status: int, kind: str) -> None:
    body = {"model": "tiny", "max_tokens": 5, "messages": ask("x"), "stream": True, **change}
    response = server.http.post(PATH, json=body)
    assert response.status_code == status, response.text
    assert list(response.json()) == ["type", "error", "request_id"]
    assert response.json()["type"] == "error"
    assert response.json()["error"]["type"] == kind


def test_malformed_bodies_and_wrong_methods(server: Server) -> None:
    for body in (b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000):
        for path in (PATH, f"{PATH}/count_tokens"):
            response = server.http.post(path, content=body)
            assert (response.status_code, response.json()["type"]) == (400, "error")
    assert server.http.get(PATH).json()["error"]["type"] == "invalid_request_error"
    assert server.http.post(f"{PATH}/batches", json={}).json()["error"]["type"] == "not_found_error"


def test_a_late_error_is_an_event(artifact: Artifact) -> None:
    class Failing(FakeEngine):
        def step(self) -> list[Output]:
            if len(self.live[0].generated) == 3:
                raise ImpError("the GPU is gone")
            return super().step()

    engine = Failing(artifact, lambda _: encode("word " * 100))
    with serving(lambda: Model(engine)) as url, httpx.Client(base_url=url) as http:  # type: ignore[arg-type]
        wait_for(lambda: http.get("/health").status_code == 200)
        body = {"model": "tiny", "max_tokens": 400, "messages": ask("x"), "stream": True}
        last = blocks(http.post(PATH, json=body).text)[-1]
    assert last["type"] == "error"
    assert last["error"] == {
        "type": "api_error",
        "message": "the engine failed: the GPU is gone; it is being started again, try again",
    }


def test_a_full_server(artifact: Artifact) -> None:
    with running(artifact, reply=lambda _: encode("word " * 100), seconds_per_step=0.02, limit=1) as server:
        body = {"model": "tiny", "max_tokens": 400, "messages": ask("x"), "stream": True}
        with server.http.stream("POST", PATH, json=body) as response:
            pieces = response.iter_bytes()
            next(pieces)
            with pytest.raises(anthropic.RateLimitError):
                server.anthropic.messages.create(model="tiny", max_tokens=5, messages=ask("x"))
