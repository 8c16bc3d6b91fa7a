"""The requests of two coding agents, in the shapes that their published sources and bug reports show, with our texts.

Codex: https://github.com/openai/codex, `ResponsesApiRequest` of codex-rs/codex-api and its tests of prompt caching.
Claude Code: its documentation of gateways, and request bodies in issues of llama.cpp (20623, 21793) and vLLM (44000).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from test_server import Server, running
from test_server_openai import PARAMETERS, TEMPLATE, reply_to

from fake_engine import reference_tokenizer, write_tiny_artifact

ENVIRONMENT = "<environment_context>\n  <cwd>/src</cwd>\n  <shell>bash</shell>\n</environment_context>"
CODEX_HEADERS = {
    "accept": "text/event-stream",
    "originator": "codex_cli_rs",
    "openai-beta": "responses=experimental",
    "session_id": "0199a213-81c0-7800-8aa1-bbab2a035a53",
}
CODEX_TOOLS = [
    {"type": "function", "name": "get_time", "description": "Tells", "strict": False, "parameters": PARAMETERS},
    {
        "type": "function", "name": "update_plan", "description": "Plans", "strict": False,
        "parameters": {"type": "object", "properties": {"plan": {"type": "array", "items": {"type": "object"}}}},
    },
    {"type": "local_shell"},
    {"type": "web_search", "external_web_access": False},
    {
        "type": "custom", "name": "apply_patch", "description": "Edits",
        "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.*/"},
    },
    {"type": "image_generation", "output_format": "png"},
    {"type": "namespace", "name": "mcp__x", "description": "More", "tools": []},
    {"type": "tool_search", "execution": "client", "description": "Finds", "parameters": {}},
]  # fmt: skip
CLAUDE_HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,new-2027-01-01",
    "x-app": "cli",
    "x-claude-code-session-id": "4c1f0a0e-3b1d-4d0a-9b0f-0d6d8a4b5a11",
    "authorization": "Bearer anything",
}
CACHED = {"type": "ephemeral", "ttl": "1h"}
CLAUDE_TOOLS = [
    {
        "name": "get_time", "description": "Tells", "eager_input_streaming": True,
        "input_schema": {"$schema": "https://json-schema.org/draft/2020-12/schema", **PARAMETERS},
    },
    {"name": "mcp__x__y", "input_schema": {"type": "object"}, "defer_loading": True, "cache_control": CACHED},
    {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
    {"type": "some_tool_of_2027", "name": "later"},
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("agents") / "tiny.impc"
    artifact = write_tiny_artifact(path, blobs={"chat_template.jinja": TEMPLATE}, context=8192, table_blocks=512)
    with running(artifact, reply=reply_to, aliases=["claude-opus-9"]) as server:
        yield server


def prompt_of(server: Server) -> str:
    return reference_tokenizer().decode(server.engine.prompts[-1], skip_special_tokens=False)


def user(text: str) -> dict[str, object]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def codex(server: Server, given: list[Any], **more: object) -> list[dict[str, Any]]:
    """The data of the events that Codex gets."""
    body = {
        "model": "tiny", "instructions": "You are a coding agent.", "input": given, "tools": CODEX_TOOLS,
        "tool_choice": "auto", "parallel_tool_calls": False, "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False, "stream": True, "include": ["reasoning.encrypted_content"], "service_tier": "priority",
        "prompt_cache_key": CODEX_HEADERS["session_id"], "text": {"verbosity": "low"},
        "client_metadata": {"x-codex-installation-id": "i"}, **more,
    }  # fmt: skip
    response = server.http.post("/v1/responses", json=body, headers=CODEX_HEADERS)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for event in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_two_turns_of_codex(server: Server) -> None:
    first = [user("# AGENTS.md\nBe consistent."), user(ENVIRONMENT), user("call")]
    events = codex(server, first)
    prompt = prompt_of(server)
    assert prompt.index("You are a coding agent.") < prompt.index("Be consistent.") < prompt.index("<cwd>/src</cwd>")
    assert '"name": "get_time"' in prompt
    assert '"name": "update_plan"' in prompt
    assert not any(word in prompt for word in ("apply_patch", "local_shell", "web_search", "mcp__x", "tool_search"))
    # What Codex keeps of a turn are the items that are done; its count of tokens comes with the end.
    items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [item["type"] for item in items] == ["reasoning", "function_call", "function_call"]
    assert all(json.loads(item["arguments"])["zone"] for item in items[1:])
    assert events[-1]["type"] == "response.completed"
    usage = events[-1]["response"]["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["input_tokens_details"]["cached_tokens"] == 0
    assert usage["output_tokens_details"]["reasoning_tokens"] > 0

    outputs = [
        {"type": "function_call_output", "call_id": items[1]["call_id"], "output": "12:00"},
        {
            "type": "function_call_output", "call_id": items[2]["call_id"],
            "output": [{"type": "input_text", "text": "13:00"}],
        },
    ]  # fmt: skip
    elsewhere = [  # of a session that began with another model
        {"type": "reasoning", "id": "rs_9", "summary": [], "content": None, "encrypted_content": "gAAAA"},
        {"type": "custom_tool_call", "call_id": "c8", "name": "apply_patch", "input": "*** Begin Patch"},
        {"type": "custom_tool_call_output", "call_id": "c8", "output": "Done"},
        {"type": "local_shell_call", "call_id": "c9", "action": {"type": "exec", "command": ["ls"]}},
        {"type": "function_call_output", "call_id": "c9", "output": "a.txt"},
        {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "x"}},
        {"type": "ghost_snapshot", "ghost_commit": {}},
    ]  # fmt: skip
    events = codex(server, [*first, *items, *outputs, *elsewhere, user("think")])
    prompt = prompt_of(server)
    assert "<think>\nLet me see\n</think>" in prompt
    parts = ['"arguments": {"zone": "UTC 🙂"}', "tool\n12:00<", "tool\n13:00<", "tool\na.txt<", "user\nthink"]
    places = [prompt.index(part) for part in parts]
    assert places == sorted(places)
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert text == "Hello <b>world</b>"
    assert events[-1]["response"]["output"][-1]["content"][0]["text"] == text


def test_an_output_schema_of_codex(server: Server) -> None:
    wanted = {"type": "json_schema", "strict": True, "name": "codex_output_schema", "schema": PARAMETERS}
    events = codex(server, [user("json")], tools=[], text={"verbosity": "low", "format": wanted})
    (item,) = events[-1]["response"]["output"]
    assert json.loads(item["content"][0]["text"])["zone"] in ("UTC", "CET")


def claude(server: Server, messages: list[Any], **more: object) -> tuple[list[Any], str | None]:
    """The content and the stop reason that Anthropic's accumulator makes of the stream."""
    system = [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.37; cc_entrypoint=cli; cch=fa690;"},
        {"type": "text", "text": "You are an agent.", "cache_control": CACHED},
        {"type": "text", "text": "Rules.", "cache_control": CACHED},
    ]
    body: dict[str, Any] = {
        "model": "claude-opus-9", "max_tokens": 32000, "system": system, "messages": messages, "tools": CLAUDE_TOOLS,
        "metadata": {"user_id": '{"device_id":"d","session_id":"s"}'}, "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "medium"}, "temperature": 1, "speed": "fast", **more,
    }  # fmt: skip
    known = {name: body.pop(name) for name in ("model", "max_tokens", "messages")}
    with server.anthropic.beta.messages.stream(
        **known, extra_body=body, extra_headers=CLAUDE_HEADERS, extra_query={"beta": "true"}
    ) as stream:
        message = stream.get_final_message()
    assert message.model == "claude-opus-9"
    assert message.usage.output_tokens > 0
    return message.content, message.stop_reason


def test_two_turns_of_claude_code(server: Server) -> None:
    reminder = {"type": "text", "text": "<system-reminder>\nNotes.\n</system-reminder>"}
    first = {"role": "user", "content": [reminder, {"type": "text", "text": "call", "cache_control": CACHED}]}
    content, reason = claude(server, [first])
    assert reason == "tool_use"
    assert [block.type for block in content] == ["thinking", "tool_use", "tool_use"]
    prompt = prompt_of(server)
    assert "billing" not in prompt
    assert '"name": "mcp__x__y"' in prompt
    assert not any(word in prompt for word in ("web_search", "later", "cache_control", "ephemeral"))

    thinking, *calls = (block.model_dump(exclude_none=True) for block in content)
    use = [{**call, "caller": {"type": "direct"}} for call in calls]
    results = [
        {"type": "tool_result", "tool_use_id": use[0]["id"], "content": "12:00", "is_error": False},
        {
            "type": "tool_result", "tool_use_id": use[1]["id"], "cache_control": CACHED, "is_error": True,
            "content": [{"type": "text", "text": "no such zone"}],
        },
        {"type": "text", "text": "think"},
    ]  # fmt: skip
    turn = {"role": "assistant", "content": [thinking, *use]}
    content, reason = claude(
        server,
        [first, turn, {"role": "user", "content": results}],
        thinking={"type": "enabled", "budget_tokens": 31999},
    )
    assert (content[-1].text, reason) == ("Hello <b>world</b>", "end_turn")
    prompt = prompt_of(server)
    parts = [
        "You are an agent.",
        "Rules.",
        "Notes.",
        "Let me see",
        "tool\n12:00<",
        "tool\nError: no such zone<",
        "think<",
    ]
    places = [prompt.rindex(part) for part in parts]
    assert places == sorted(places)


def test_the_small_requests_of_claude_code(server: Server) -> None:
    """Whether there is quota, a title for the conversation, and how long it is."""
    content, reason = claude(server, [{"role": "user", "content": "quota"}], max_tokens=1, tools=[])
    assert (len(content), reason) == (1, "max_tokens")
    config = {"format": {"type": "json_schema", "schema": PARAMETERS}}
    content, _ = claude(
        server, [{"role": "user", "content": [{"type": "text", "text": "json"}]}], tools=[], output_config=config
    )
    assert json.loads(content[0].text)["zone"] in ("UTC", "CET")
    body = {"model": "claude-opus-9", "messages": [{"role": "user", "content": "foo"}], "tools": CLAUDE_TOOLS}
    counted = server.http.post("/v1/messages/count_tokens?beta=true", json=body, headers=CLAUDE_HEADERS)
    assert counted.json()["input_tokens"] > 50
    assert server.http.head("/", headers=CLAUDE_HEADERS).status_code == 200
