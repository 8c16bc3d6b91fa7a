"""OpenAI's Responses API, read by OpenAI's SDK, and what Codex sends."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import openai
import pytest
from openai.types.responses import Response
from test_server import Server, running, serving, wait_for
from test_server_openai import PARAMETERS, TEMPLATE, reply_to

from fake_engine import CONTEXT, FakeEngine, Output, encode, reference_tokenizer, write_tiny_artifact
from hosted import HostedEngine
from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError
from imp_server.api.app import create_app
from imp_server.model import Model
from operated import operated

PATH = "/v1/responses"
TOOLS = [
    {"type": "function", "name": "get_time", "description": "Tells", "parameters": PARAMETERS, "strict": False},
    {"type": "web_search"},
    {"type": "namespace", "name": "x", "tools": []},
    {"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}},
]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_tiny_artifact(tmp_path_factory.mktemp("server") / "tiny.impc", blobs={"chat_template.jinja": TEMPLATE})


@pytest.fixture(scope="module")
def server(artifact: Artifact) -> Iterator[Server]:
    with running(artifact, reply=reply_to) as server:
        yield server


def whole(server: Server, given: object, **options: object) -> Response:
    """The answer, asked for with and without a stream: the SDK makes the same of both."""
    request = {"model": "tiny", "input": given, **options}
    with server.client.responses.stream(**request) as stream:  # type: ignore[arg-type]
        assert [event.sequence_number for event in stream][:3] == [0, 1, 2]
        streamed = stream.get_final_response() if stream else None
    once: Response = server.client.responses.create(**request)  # type: ignore[call-overload]

    def bare(response: Response) -> object:
        data = json.loads(response.model_dump_json(exclude={"id", "created_at"}))
        for item in data["output"]:
            item.pop("id")
            item.pop("call_id", None)
            item.pop("parsed_arguments", None)
            for part in item.get("content") or ():
                part.pop("parsed", None)
        return data

    assert streamed is not None
    assert bare(streamed) == bare(once)
    return once


def prompt_of(server: Server) -> str:
    return reference_tokenizer().decode(server.engine.prompts[-1], skip_special_tokens=False)


def test_reasoning_and_text(server: Server) -> None:
    response = whole(server, "think", instructions="Be brief.")
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output_text == "Hello <b>world</b>"
    assert response.output[0].content[0].text == "Let me see"  # type: ignore[union-attr,index]
    assert (response.status, response.object, response.incomplete_details) == ("completed", "response", None)
    assert response.usage is not None
    assert response.usage.input_tokens == len(server.engine.prompts[-1])
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    assert prompt_of(server).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nthink")


def test_calls_and_unknown_tools(server: Server) -> None:
    response = whole(server, [{"role": "user", "content": [{"type": "input_text", "text": "call"}]}], tools=TOOLS)
    assert [item.type for item in response.output] == ["reasoning", "function_call", "function_call"]
    call = response.output[1]
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("get_time", {"zone": "UTC 🙂"})
    assert call.call_id != call.id
    assert "apply_patch" not in prompt_of(server)
    assert '"description": "Tells"' in prompt_of(server)


def test_the_order_of_events(server: Server) -> None:
    body = {"input": "call", "tools": TOOLS, "stream": True}
    response = server.http.post(PATH, json=body)
    data = []
    for event in response.text.removesuffix("\n\n").split("\n\n"):
        name, line = event.split("\n")
        data.append(json.loads(line.removeprefix("data: ")))
        assert name == f"event: {data[-1]['type']}"
    assert [event["sequence_number"] for event in data] == list(range(len(data)))
    assert [event["type"] for event in data[:2]] == ["response.created", "response.in_progress"]
    assert data[-1]["type"] == "response.completed"
    open_ = None
    for event in data[2:-1]:
        if event["type"] == "response.output_item.added":
            assert open_ is None
            open_ = event["output_index"]
        assert event["output_index"] == open_
        if event["type"] == "response.output_item.done":
            open_ = None
    done = [event["item"] for event in data if event["type"] == "response.output_item.done"]
    assert data[-1]["response"]["output"] == done


def test_history_becomes_turns(server: Server) -> None:
    given = [
        {"type": "message", "role": "developer", "content": "Rules"},
        {"role": "user", "content": "time?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "id": "m", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c1", "name": "get_time", "arguments": '{"zone": "UTC"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "12:00"},
        {"type": "web_search_call", "id": "w", "status": "completed"},
        {"role": "user", "content": "plain"},
    ]
    whole(server, given, reasoning={"effort": "low"}, store=False, include=["reasoning.encrypted_content"])
    prompt = prompt_of(server)
    turn = (
        '<|im_start|>assistant\n<think>\nhm\n</think>\n\nI look.<tool_call>\n{"name": "get_time", "arguments": {"zone"'
    )
    assert "<|im_start|>system\nRules<|im_end|>" in prompt
    assert turn in prompt
    assert "<|im_start|>tool\n12:00<|im_end|>" in prompt


def test_incomplete(server: Server) -> None:
    request = {"model": "tiny", "input": "plain", "max_output_tokens": 2}
    *_, last = server.client.responses.create(**request, stream=True)  # type: ignore[call-overload]
    assert last.type == "response.incomplete"
    response = server.client.responses.create(**request)  # type: ignore[call-overload]
    for each in (response, last.response):
        assert each.status == "incomplete"
        assert each.incomplete_details.reason == "max_output_tokens"
        assert [item.status for item in each.output] == ["incomplete"]
        assert each.output_text == response.output_text != ""


def test_cut_in_its_reasoning(server: Server) -> None:
    """As OpenAI has it: the reasoning is what is incomplete, and there is no message."""
    request = {"model": "tiny", "input": "think", "max_output_tokens": 12}
    *_, last = server.client.responses.create(**request, stream=True)  # type: ignore[call-overload]
    for each in (server.client.responses.create(**request), last.response):  # type: ignore[call-overload]
        assert [(item.type, item.status) for item in each.output] == [("reasoning", "incomplete")]
        assert each.status == "incomplete"


def test_the_probe_of_codex(server: Server) -> None:
    for given in ([], ""):
        body = {"model": "tiny", "input": given, "instructions": "x", "max_output_tokens": 1, "stream": True}
        assert "response.incomplete" in server.http.post(PATH, json=body).raise_for_status().text


def test_formats(server: Server) -> None:
    text = {"format": {"type": "json_schema", "name": "zone", "schema": PARAMETERS, "strict": True}}
    assert json.loads(whole(server, "json", text=text).output_text)["zone"] in ("UTC", "CET")
    forced = whole(server, "plain", tools=TOOLS, tool_choice={"type": "function", "name": "get_time"})
    assert forced.output[0].type == "function_call"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"input": [{"content": "x"}]}, "input"),
        ({"input": 5}, "input"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"max_output_tokens": 0}, None),
        ({"input": "!" * 2 * CONTEXT}, None),
    ],
)
def test_errors(server: Server, change: dict[str, object], param: str | None) -> None:
    response = server.http.post(PATH, json={"input": "x", "stream": True, **change})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["error"]["param"] == param
    with pytest.raises(openai.NotFoundError):
        server.client.responses.create(model="other", input="x")


def test_the_end_of_the_server(artifact: Artifact) -> None:
    """OpenAI's SDK hears that the response has failed, and what there was of it."""
    engine = HostedEngine(lambda: Model(FakeEngine(artifact, lambda _: encode("word " * 300), seconds_per_step=0.01)))  # type: ignore[arg-type]
    with operated(create_app(engine), "server.shutdown_seconds=0.2") as server:
        wait_for(lambda: server.http.get("/health").status_code == 200)
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        with client, client.responses.create(model="tiny", input="x", stream=True) as stream:
            events = [next(stream) for _ in range(8)]
            server.stop()
            events += list(stream)
    last = events[-1]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert last.response.error is not None
    assert (last.response.error.code, last.response.error.message) == ("server_error", "the server is shutting down")
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert last.response.output_text == said != ""


def test_a_late_error(artifact: Artifact) -> None:
    class Failing(FakeEngine):
        def step(self) -> list[Output]:
            if len(self.live[0].generated) == 3:
                raise ImpError("the GPU is gone")
            return super().step()

    engine = Failing(artifact, lambda _: encode("word " * 100))
    with serving(lambda: Model(engine)) as url, httpx.Client(base_url=url) as http:  # type: ignore[arg-type]
        wait_for(lambda: http.get("/health").status_code == 200)
        last = http.post(PATH, json={"input": "x", "stream": True}).text.removesuffix("\n\n").split("\n\n")[-1]
    name, line = last.split("\n")
    assert name == "event: response.failed"
    assert "the GPU is gone" in json.loads(line.removeprefix("data: "))["response"]["error"]["message"]
