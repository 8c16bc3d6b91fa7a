"""The requests of coding agents: what these programs sent to this server, with their long texts cut short.

`data/` has the first request of Claude Code 2.1.197, codex-cli 0.169.0, opencode 1.18.33 and aider 0.86.2, and the
conversation as it was after two calls ran (`second`) and after an image was read (`image`).
What other versions send comes from issues of llama.cpp (20623, 21793) and vLLM (44000).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import test_server_openai
from test_server import Server, running
from test_server_openai import PARAMETERS, TEMPLATE, THOUGHT

from fake_engine import encode, reference_tokenizer, write_tiny_artifact

ROOT = Path(__file__).parents[1]
RECORDED = {path.stem: json.loads(path.read_text("utf-8")) for path in (ROOT / "e2e" / "data").glob("*.json")}
CODEX, CLAUDE, OPENCODE, AIDER = (RECORDED[name] for name in ("codex", "claude_code", "opencode", "aider"))
COMMANDS = {"exec_command": "cmd", "Bash": "command", "bash": "command"}
CODEX_TOOLS = [  # further ones, of models that Codex knows
    *CODEX["body"]["tools"],
    {"type": "function", "name": "get_time", "description": "Tells", "strict": False, "parameters": PARAMETERS},
    {"type": "local_shell"},
    {
        "type": "custom", "name": "apply_patch", "description": "Edits",
        "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.*/"},
    },
    {"type": "image_generation", "output_format": "png"},
    {"type": "tool_search", "execution": "client", "description": "Finds", "parameters": {}},
]  # fmt: skip
CACHED = {"type": "ephemeral", "ttl": "1h"}
CLAUDE_TOOLS = [
    *CLAUDE["body"]["tools"],
    {"name": "get_time", "description": "Tells", "eager_input_streaming": True, "input_schema": PARAMETERS},
    {"name": "mcp__x__y", "input_schema": {"type": "object"}, "defer_loading": True, "cache_control": CACHED},
    {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
    {"type": "some_tool_of_2027", "name": "later"},
]  # fmt: skip


def reply_to(prompt: Sequence[int]) -> list[int]:
    """Two calls of the agent's shell as long as there are no results; else the reply that the last message names."""
    text = reference_tokenizer().decode(list(prompt), skip_special_tokens=False)
    shell = next((name for name in COMMANDS if f'"name": "{name}"' in text), None)
    if shell is None or "Make two files." not in text or "<|im_start|>tool" in text:
        return test_server_openai.reply_to(prompt)
    calls = [{"name": shell, "arguments": {COMMANDS[shell]: f"echo {name} > {name}.txt"}} for name in "ab"]
    return encode(THOUGHT + "\n".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls))


def calls_of(pairs: list[tuple[str, dict[str, Any]]]) -> None:
    """Both calls have arrived whole; a command is what the shell gets."""
    assert [name for name, _ in pairs] == [pairs[0][0]] * 2
    assert [given[COMMANDS[pairs[0][0]]] for _, given in pairs] == ["echo a > a.txt", "echo b > b.txt"]


def in_order(prompt: str, *parts: str) -> None:
    """Every part stands in the prompt, the last time it does behind the one before."""
    places = [prompt.rindex(part) for part in parts]
    assert places == sorted(places)


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


def codex(server: Server, **more: object) -> list[dict[str, Any]]:
    """The data of the events that Codex gets."""
    response = server.http.post("/v1/responses", json={**CODEX["body"], **more}, headers=CODEX["headers"])
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for event in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_two_turns_of_codex(server: Server) -> None:
    events = codex(server, tools=CODEX_TOOLS)
    prompt = prompt_of(server)
    in_order(prompt, "You are a coding agent", "<skills_instructions>", "<cwd>/src</cwd>", "user\nMake two files.<")
    assert '"name": "exec_command"' in prompt
    assert '"name": "get_time"' in prompt
    left_out = ("apply_patch", "local_shell", "web_search", "multi_agent_v1", "tool_search")
    assert not any(word in prompt for word in left_out)
    # What Codex keeps of a turn are the items that are done; its count of tokens comes with the end.
    items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [item["type"] for item in items] == ["reasoning", "function_call", "function_call"]
    calls_of([(item["name"], json.loads(item["arguments"])) for item in items[1:]])
    assert events[-1]["type"] == "response.completed"
    usage = events[-1]["response"]["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["input_tokens_details"]["cached_tokens"] == 0
    assert usage["output_tokens_details"]["reasoning_tokens"] > 0
    # It sends them back as they came, but for fields that it does not know.
    sent = CODEX["second"][len(CODEX["body"]["input"]) :][:3]
    assert all(set(back) - set(item) <= {"encrypted_content"} for item, back in zip(items, sent, strict=True))

    elsewhere = [  # of a session that began with another model
        {"type": "reasoning", "id": "rs_9", "summary": [], "content": None, "encrypted_content": "gAAAA"},
        {"type": "custom_tool_call", "call_id": "c8", "name": "apply_patch", "input": "*** Begin Patch"},
        {"type": "custom_tool_call_output", "call_id": "c8", "output": "Done"},
        {"type": "local_shell_call", "call_id": "c9", "action": {"type": "exec", "command": ["ls"]}},
        {"type": "function_call_output", "call_id": "c9", "output": [{"type": "input_text", "text": "a.txt"}]},
        {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "x"}},
        {"type": "ghost_snapshot", "ghost_commit": {}},
    ]  # fmt: skip
    events = codex(server, input=[*CODEX["second"], *elsewhere, user("think")], instructions="Be brief.")
    prompt = prompt_of(server)
    calls = ('"arguments": {"cmd": "echo a > a.txt"}', '"arguments": {"cmd": "echo b > b.txt"}')
    results = ("tool\nChunk ID: a62819", "tool\nChunk ID: 2a607d", "tool\na.txt<")
    in_order(prompt, "Be brief.", "Make two files.", "Let me see\n</think>", *calls, *results, "user\nthink")
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert text == "Hello <b>world</b>"
    assert events[-1]["response"]["output"][-1]["content"][0]["text"] == text


def test_an_output_schema_of_codex(server: Server) -> None:
    events = codex(server, input=[user("json")], tools=[], text=CODEX["text"])
    (item,) = events[-1]["response"]["output"]
    assert isinstance(json.loads(item["content"][0]["text"])["a"], int)


def claude(server: Server, **more: Any) -> tuple[list[Any], str | None]:
    """The content and the stop reason that Anthropic's accumulator makes of the stream."""
    body = {name: value for name, value in {**CLAUDE["body"], **more}.items() if name != "stream"}
    known = {name: body.pop(name) for name in ("model", "max_tokens", "messages")}
    with server.anthropic.beta.messages.stream(
        **known, extra_body=body, extra_headers=CLAUDE["headers"], extra_query={"beta": "true"}
    ) as stream:
        message = stream.get_final_message()
    assert message.model == known["model"]
    assert message.usage.output_tokens > 0
    return message.content, message.stop_reason


def test_two_turns_of_claude_code(server: Server) -> None:
    billing = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.37; cc_entrypoint=cli; cch=fa690;"}
    system = [billing, *CLAUDE["body"]["system"]]
    content, reason = claude(server, tools=CLAUDE_TOOLS, system=system, speed="fast", model="claude-opus-9")
    assert reason == "tool_use"
    assert [block.type for block in content] == ["thinking", "tool_use", "tool_use"]
    calls_of([(block.name, block.input) for block in content[1:]])
    prompt = prompt_of(server)
    assert "billing" not in prompt
    assert '"name": "mcp__x__y"' in prompt
    assert not any(word in prompt for word in ("web_search", "later", "cache_control", "ephemeral"))
    ask = "\nMake two files.<"
    in_order(prompt, "You are a Claude agent", "You are an interactive agent", ask, "system\nAvailable agent types")

    first, system_turn, turn, results = CLAUDE["second"]
    content, reason = claude(server, messages=[first, system_turn, turn, results])
    assert reason == "end_turn"
    calls = ('"arguments": {"command": "echo a > a.txt"', '"arguments": {"command": "echo b > b.txt"')
    result = "tool\n(Bash completed with no output)<"
    in_order(prompt_of(server), ask, "system\nAvailable agent types", "Let me see\n</think>", *calls, result)
    assert prompt_of(server).count(result) == 2

    # Blocks of other versions; a call that has failed; the user's words behind the results.
    use = [
        {**block, "caller": {"type": "direct"}} if block["type"] == "tool_use" else block for block in turn["content"]
    ]
    failed = {**results["content"][1], "is_error": True, "content": [{"type": "text", "text": "no such file"}]}
    said = [results["content"][0], failed, {"type": "text", "text": "think"}]
    messages = [first, {"role": "assistant", "content": use}, {"role": "user", "content": said}]
    content, reason = claude(server, messages=messages, thinking={"type": "enabled", "budget_tokens": 31999})
    assert (content[-1].text, reason) == ("Hello <b>world</b>", "end_turn")
    in_order(prompt_of(server), ask, result, "tool\nError: no such file<", "user\nthink<")


def test_the_small_requests_of_claude_code(server: Server) -> None:
    """Whether there is quota, a title for the conversation, and how long it is."""
    content, reason = claude(server, messages=[{"role": "user", "content": "quota"}], max_tokens=1, tools=[])
    assert (len(content), reason) == (1, "max_tokens")
    config = {"format": {"type": "json_schema", "schema": PARAMETERS}}
    asked = [{"role": "user", "content": [{"type": "text", "text": "json"}]}]
    content, _ = claude(server, messages=asked, tools=[], output_config=config)
    assert json.loads(content[0].text)["zone"] in ("UTC", "CET")
    counts = []
    for tools in ([], CLAUDE["body"]["tools"]):
        body = {"model": "claude-opus-9", "messages": [{"role": "user", "content": "foo"}], "tools": tools}
        counted = server.http.post("/v1/messages/count_tokens?beta=true", json=body, headers=CLAUDE["headers"])
        counts.append(counted.json()["input_tokens"])
    assert 0 < counts[0] < counts[1] - 300
    assert server.http.head("/", headers=CLAUDE["headers"]).status_code == 200


def refused(server: Server, messages: list[Any]) -> str:
    body = {**CLAUDE["body"], "messages": messages}
    response = server.http.post("/v1/messages?beta=true", json=body, headers=CLAUDE["headers"])
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    return str(response.json()["error"]["message"])


def test_what_claude_code_reads_in_errors(server: Server) -> None:
    """By these patterns of its own it shortens the conversation, and removes an image, and goes on."""
    too_long = {"role": "user", "content": "word " * 10_000}
    found = re.search(r"prompt is too long[^0-9]*(\d+)\s*tokens?\s*>\s*(\d+)", refused(server, [too_long]))
    assert found is not None
    assert int(found[2]) == server.engine.context - 1 < int(found[1])
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}
    message = refused(server, [{"role": "user", "content": [{"type": "text", "text": "Look"}, image]}])
    pattern = (
        r"messages[.[](\d+)[\].]+content[.[](\d+)[\].]+(?:tool_result[.[]content[.[]\d+[\].]+)?(image|document|pdf)"
    )
    found = re.search(pattern, message)
    assert found is not None
    assert found.groups() == ("0", "1", "image")


def test_two_turns_of_opencode(server: Server) -> None:
    assert text_of(server, OPENCODE["title"]) == "Hi"
    body = {name: value for name, value in OPENCODE["body"].items() if name != "stream"}
    with server.client.chat.completions.stream(**body, extra_headers=OPENCODE["headers"]) as stream:
        whole = stream.get_final_completion()
    (choice,) = whole.choices
    calls = choice.message.tool_calls or []
    assert (choice.finish_reason, whole.usage is not None) == ("tool_calls", True)
    calls_of([(call.function.name, json.loads(call.function.arguments)) for call in calls])
    assert text_of(server, {**OPENCODE["body"], "messages": OPENCODE["second"]}) == "Hi"
    said = (
        "user\nMake two files.<",
        "<think>\nLet me see\n</think>",
        '"command":"echo b > b.txt"',
        "tool\n(no output)<",
    )
    in_order(prompt_of(server), "You are opencode", *said)


def test_aider(server: Server) -> None:
    assert text_of(server, AIDER["body"]) == "Hi"
    in_order(prompt_of(server), "Act as an expert", "user\nI am not sharing", "assistant\nOk.<", "user\nMAKE the file")


def text_of(server: Server, body: dict[str, Any]) -> str:
    """The text that OpenAI's SDK reads from the stream."""
    chunks = server.client.chat.completions.create(**body)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_an_image_that_a_tool_has_read_does_not_end_the_conversation(server: Server) -> None:
    claude(server, messages=CLAUDE["image"])
    in_order(prompt_of(server), "user", "p.png", "tool\n[image left out: this model reads text only]<")
    codex(server, input=CODEX["image"])
    in_order(prompt_of(server), "p.png", "tool\n[input_image left out: this model reads text only]<")
    parts = [{"type": "text", "text": "Read:"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,iV"}}]
    *before, last = OPENCODE["second"]
    text_of(server, {**OPENCODE["body"], "messages": [*before, {**last, "content": parts}]})
    assert "tool\nRead:\n[image_url left out: this model reads text only]<" in prompt_of(server)


@pytest.mark.parametrize("name", ["chatml_tools", "headers", "alternating", "channels", "turns_without_system"])
def test_second_turns_with_the_templates_of_other_models(tmp_path: Path, name: str) -> None:
    """System turns in between, user turns in a row, parallel calls: not every template takes them as they come."""
    template = (ROOT / "fixtures" / "chat_templates" / f"{name}.jinja").read_bytes()
    artifact = write_tiny_artifact(
        tmp_path / "tiny.impc", blobs={"chat_template.jinja": template}, context=8192, table_blocks=512
    )
    nine = {"alternating": 9}.get(name)  # letters of an id, where the template insists on that
    with running(artifact, reply=lambda _: encode("Hi")) as server:
        for path, agent, key in (
            ("/v1/messages", CLAUDE, "messages"),
            ("/v1/responses", CODEX, "input"),
            ("/v1/chat/completions", OPENCODE, "messages"),
        ):
            turns = json.dumps(agent["second"])
            turns = re.sub(r"call_([0-9a-f]+)", lambda found: found[1][:nine] if nine else found[0], turns)
            response = server.http.post(path, json={**agent["body"], key: json.loads(turns)})
            assert response.status_code == 200, response.text
            assert "Make two files." in prompt_of(server)
            assert "Available agent types" in prompt_of(server) or path != "/v1/messages"
