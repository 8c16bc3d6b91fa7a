"""What a request may say: every field is read, known to ask for nothing, or refused by its name."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from test_server import Server, ask, running
from test_server_openai import TEMPLATE, TOOLS, reply_to

from fake_engine import CONTEXT, FakeEngine, encode, reference_tokenizer, write_tiny_artifact
from imp_runtime.artifact import Artifact

CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
BODIES: dict[str, dict[str, object]] = {
    CHAT: {"messages": ask("x"), "max_tokens": 4},
    COMPLETIONS: {"prompt": "x", "max_tokens": 4},
    RESPONSES: {"input": "x", "max_output_tokens": 4},
    MESSAGES: {"messages": ask("x"), "max_tokens": 4},
}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_tiny_artifact(tmp_path_factory.mktemp("server") / "tiny.impc", blobs={"chat_template.jinja": TEMPLATE})


@pytest.fixture(scope="module")
def server(artifact: Artifact) -> Iterator[Server]:
    with running(artifact, reply=reply_to) as server:
        yield server


def post(server: Server, path: str, **fields: object) -> httpx.Response:
    return server.http.post(path, json={**BODIES.get(path, {}), **fields})


def prompt_of(server: Server) -> str:
    return reference_tokenizer().decode(list(server.engine.prompts[-1]), skip_special_tokens=False)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("allowed_token_ids", [64]), ("max_new_tokens", 3), ("top_n_sigma", 1.5), ("dynatemp_range", 0.5),
        ("samplers", ["temperature"]), ("tfs_z", 0.9), ("top_a", 0.1), ("smoothing_factor", 0.2),
        ("no_repeat_ngram_size", 3), ("length_penalty", 1.2), ("truncate_prompt_tokens", 5), ("chat_template", "x"),
        ("documents", [{"text": "x"}]), ("structural_tag", "x"), ("logits_processors", ["x"]),
        ("t_max_predict_ms", 10), ("skip_special_tokens", False), ("lora", [{"id": 0}]), ("bad_words", ["x"]),
        ("prompt_logprobs", 1), ("functions", [{"name": "f"}]), ("modalities", ["audio"]), ("audio", {"voice": "x"}),
        ("use_beam_search", True), ("some_field_of_2030", 1), ("use_beam_search", 1),
    ],
)  # fmt: skip
def test_what_nobody_reads_is_refused_by_name(server: Server, path: str, name: str, value: object) -> None:
    response = post(server, path, **{name: value})
    assert response.status_code == 400, response.text
    assert name in response.json()["error"]["message"]
    assert path == MESSAGES or response.json()["error"]["param"] == name


@pytest.mark.parametrize(
    ("path", "name", "field"),
    [
        (CHAT, "thinking_level", {"thinking_level": "high"}),
        (RESPONSES, "thinking_budget", {"thinking_budget": 5}),
        (RESPONSES, "text.shape", {"text": {"shape": 1}}),
        (RESPONSES, "reasoning.depth", {"reasoning": {"depth": 1}}),
        (MESSAGES, "regex", {"regex": "a"}),
        (MESSAGES, "grammar", {"grammar": "root ::= 'a'"}),
        (MESSAGES, "thinking.depth", {"thinking": {"type": "enabled", "depth": 1}}),
        (CHAT, "stream_options.every", {"stream_options": {"every": 1}}),
        (CHAT, "response_format.json_schema.dialect",
         {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "dialect": 7}}}),
        (COMPLETIONS, "messages", {"messages": ask("x")}),
        ("/v1/embeddings", "n", {"input": "x", "n": 2}),
        ("/tokenize", "spaces", {"content": "x", "spaces": True}),
        ("/v1/messages/count_tokens", "max_words", {"messages": ask("x"), "max_words": 3}),
    ],
)  # fmt: skip
def test_what_one_api_reads_or_an_object_holds(server: Server, path: str, name: str, field: dict[str, object]) -> None:
    response = post(server, path, **field)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"].startswith(f"{name} is not offered")


@pytest.mark.parametrize("path", BODIES)
def test_what_asks_for_nothing_is_taken(server: Server, path: str) -> None:
    harmless = {
        "user": "me", "store": False, "metadata": {"a": "b"}, "service_tier": "auto", "prompt_cache_key": "k",
        "id_slot": 1, "cache_prompt": True, "n_keep": 5, "top_n_sigma": -1.0, "dynatemp_range": 0.0,
        "dynatemp_exponent": 1.0, "use_beam_search": False, "lora": [], "skip_special_tokens": True,
        "some_field_of_2030": None,
        "samplers": ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"],
    }  # fmt: skip
    response = post(server, path, **harmless)
    assert response.status_code == 200, response.text


def test_what_a_response_is_to_include(server: Server) -> None:
    """Log-probabilities come; what only other servers have is no obstacle; what nobody knows is named."""
    post(server, RESPONSES, include=["reasoning.encrypted_content", "web_search_call.results"]).raise_for_status()
    assert server.engine.params[-1].top_logprobs is None
    answer = post(server, RESPONSES, include=["message.output_text.logprobs"]).json()
    assert server.engine.params[-1].top_logprobs == 0
    assert [part for item in answer["output"] for part in item.get("content", ()) if part.get("logprobs")]
    refused = post(server, RESPONSES, include=["message.mood"])
    assert refused.status_code == 400
    assert "include" in refused.json()["error"]["message"]


def test_a_limit_of_minus_one_is_none(server: Server) -> None:
    for path, name in (
        (CHAT, "max_tokens"),
        (CHAT, "n_predict"),
        (COMPLETIONS, "max_tokens"),
        (COMPLETIONS, "n_predict"),
    ):
        body = {key: value for key, value in BODIES[path].items() if key != "max_tokens"}
        server.http.post(path, json={**body, name: -1}).raise_for_status()
        assert server.engine.params[-1].max_tokens == CONTEXT
        server.http.post(path, json={**body, name: 3}).raise_for_status()
        assert server.engine.params[-1].max_tokens == 3
    server.http.post(COMPLETIONS, json={"prompt": "x"}).raise_for_status()
    assert server.engine.params[-1].max_tokens == 16  # as OpenAI has it


def test_biases_by_text(server: Server) -> None:
    text = " the word"
    wanted = dict.fromkeys(encode(text), -100.0)
    for given in ({text: -100}, [[text, -100]], [[text, False]]):
        post(server, COMPLETIONS, logit_bias=given).raise_for_status()
        assert dict(server.engine.params[-1].logit_bias) == wanted
    post(server, COMPLETIONS, logit_bias={"5": 2}).raise_for_status()
    assert server.engine.params[-1].logit_bias == ((5, 2.0),)
    post(server, COMPLETIONS, logit_bias=[["5", 2], [7, 1]]).raise_for_status()
    assert dict(server.engine.params[-1].logit_bias) == {encode("5")[0]: 2.0, 7: 1.0}


def test_the_last_words_of_the_assistant_are_gone_on_with(server: Server) -> None:
    turns = [*ask("x"), {"role": "assistant", "content": "Hello th"}]
    for fields in (
        {},
        {"continue_final_message": True},
        {"continue_final_message": True, "add_generation_prompt": False},
    ):
        post(server, CHAT, messages=turns, **fields).raise_for_status()
        assert prompt_of(server).endswith("<|im_start|>assistant\nHello th")
    for fields in ({"continue_final_message": False}, {"add_generation_prompt": True}):
        post(server, CHAT, messages=turns, **fields).raise_for_status()
        assert prompt_of(server).endswith("Hello th<|im_end|>\n<|im_start|>assistant\n")
    both = post(server, CHAT, messages=turns, add_generation_prompt=True, continue_final_message=True)
    assert (both.status_code, both.json()["error"]["param"]) == (400, "continue_final_message")
    twice = post(server, CHAT, messages=[*turns, {"role": "assistant", "content": "ere"}])
    assert (twice.status_code, twice.json()["error"]["param"]) == (400, "messages")


def test_a_named_function_is_called_once(server: Server) -> None:
    """The model that would go on calling is stopped; who wants several says `required`."""
    call = '<tool_call>\n{"name": "get_time", "arguments": {"zone": "CET"}}\n</tool_call>'
    named = {"type": "function", "function": {"name": "get_time"}}
    with running(server.engine.artifact, reply=lambda _: encode(call * 3)) as several:
        for choice, calls in ((named, 1), ("required", 3)):
            answer = post(several, CHAT, tools=TOOLS, tool_choice=choice, max_tokens=300).json()
            assert len(answer["choices"][0]["message"]["tool_calls"]) == calls
        tools = [{"type": "tool", "name": "get_time"}, {"name": "get_time", "input_schema": {"type": "object"}}]
        answer = post(several, MESSAGES, tools=tools[1:], tool_choice=tools[0], max_tokens=300).json()
        assert [block["type"] for block in answer["content"]] == ["tool_use"]


def test_only_the_allowed_tools(server: Server) -> None:
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object"}}}
    names = [{"type": "function", "function": {"name": "get_time"}}]
    for mode, reason in (("auto", "stop"), ("required", "tool_calls")):
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": names}}
        answer = post(server, CHAT, tools=[*TOOLS, other], tool_choice=choice, max_tokens=300).json()
        assert answer["choices"][0]["finish_reason"] == reason
        assert "get_time" in prompt_of(server)
        assert "other" not in prompt_of(server)
    flat = [{"type": "function", "name": name, "parameters": {"type": "object"}} for name in ("get_time", "other")]
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "other"}]}
    post(server, RESPONSES, tools=flat, tool_choice=choice).raise_for_status()
    assert "get_time" not in prompt_of(server)
    unknown = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "third"}]}
    for refused in (unknown, {"type": "web_search_preview"}, {"type": "custom", "name": "other"}):
        response = post(server, RESPONSES, tools=flat, tool_choice=refused)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "tool_choice")


def test_switches_for_reasoning_of_other_servers(server: Server) -> None:
    off = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    for fields in ({"enable_thinking": False}, {"thinking": {"type": "disabled"}}):
        post(server, CHAT, **fields).raise_for_status()
        assert prompt_of(server).endswith(off)
    for fields in ({}, {"enable_thinking": True}, {"thinking": {"type": "enabled"}}):
        post(server, CHAT, **fields).raise_for_status()
        assert prompt_of(server).endswith("<|im_start|>assistant\n")


def test_tools_without_a_place_in_the_template(tmp_path_factory: pytest.TempPathFactory) -> None:
    """They are told in the system turn, and what is written as told there is a call."""
    turn = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    plain = f"{{% for m in messages %}}{turn}{{% endfor %}}<|im_start|>assistant\n".encode()
    artifact = write_tiny_artifact(
        tmp_path_factory.mktemp("plain") / "tiny.impc",
        blobs={"chat_template.jinja": plain},
        context=2048,
        table_blocks=128,
    )
    call = '<tool_call>\n{"name": "get_time", "arguments": {"zone": "CET"}}\n</tool_call>'
    with running(artifact, reply=lambda _: encode(call)) as server:
        for choice in ("auto", "required"):
            said = [{"role": "system", "content": "Be brief."}, *ask("x")]
            answer = post(server, CHAT, messages=said, tools=TOOLS, tool_choice=choice, max_tokens=300).json()[
                "choices"
            ][0]
            assert answer["finish_reason"] == "tool_calls"
            assert [each["function"]["name"] for each in answer["message"]["tool_calls"]] == ["get_time"]
            assert prompt_of(server).startswith("<|im_start|>system\nBe brief.\n\n")
            assert '"name": "get_time"' in prompt_of(server)
        turns = [*ask("x"), answer["message"], {"role": "tool", "tool_call_id": "a", "content": "12:00"}]
        post(server, CHAT, messages=turns, tools=TOOLS).raise_for_status()
        assert f"assistant\n{call}<|im_end|>" in prompt_of(server)
        assert "user\n<tool_response>\n12:00\n</tool_response><|im_end|>" in prompt_of(server)
        answer = post(server, CHAT, max_tokens=300).json()["choices"][0]
        assert (answer["message"]["content"], answer["finish_reason"]) == (call, "stop")


def test_prompts_of_embeddings(server: Server) -> None:
    """A text, token ids, both mixed, or objects; llama-server's paths have its shape."""

    def vector(*tokens: int) -> np.ndarray:
        mean = FakeEngine.hidden(server.engine, tokens).mean(axis=0)
        return mean / np.linalg.norm(mean)

    a, b = encode("a "), encode("b")
    cases: list[tuple[object, list[list[int]]]] = [
        ("a ", [a]),
        ([1, 2], [[1, 2]]),
        ([1, "a ", 2], [[1, *a, 2]]),
        (["a ", [1, "b"], {"prompt_string": "b"}], [a, [1, *b], b]),
        ({"content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]}, [encode("a b")]),
    ]
    for given, tokens in cases:
        wanted = [vector(*each) for each in tokens]
        oai = server.http.post("/v1/embeddings", json={"input": given}).json()
        np.testing.assert_allclose([each["embedding"] for each in oai["data"]], wanted, atol=1e-6)
        assert oai["usage"]["prompt_tokens"] == sum(map(len, tokens))
        for path, name in (("/embedding", "content"), ("/embeddings", "input")):
            own = server.http.post(path, json={name: given}).json()
            assert [each["index"] for each in own] == list(range(len(tokens)))
            np.testing.assert_allclose([each["embedding"][0] for each in own], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([True], "input.0"),
        ([1, 99999], "input.1 is 99999, expected a token id from 0 to 511"),
        (["x", [1, 99999]], "input.1.1 is 99999"),
        (["x", ""], "input.1 is empty"),
        ([], "input is an empty list"),
        ([1, [2]], "input.1 is a list in a list"),
        ({"content": "x"}, "input"),
        ({}, "input: "),
        ({"content": [{"type": "image_url"}]}, "reads text only"),
        ({"prompt_string": "x", "multimodal_data": ["aGk="]}, "reads text only"),
        ("!" * (CONTEXT + 1), "too large"),
    ],
)
def test_errors_of_embeddings_name_their_field(server: Server, given: object, words: str) -> None:
    response = server.http.post("/v1/embeddings", json={"input": given})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "input")
    assert words in response.json()["error"]["message"]


def test_tokens_of_a_request_are_counted(server: Server) -> None:
    """As many as the prompt of the same request has."""
    for path, body in (
        (CHAT, {"messages": ask("x"), "tools": TOOLS}),
        (RESPONSES, {"input": "x", "instructions": "y"}),
    ):
        server.http.post(path, json=body).raise_for_status()
        counted = server.http.post(f"{path}/input_tokens", json=body).raise_for_status().json()
        assert counted == {"object": "response.input_tokens", "input_tokens": len(server.engine.prompts[-1])}
    assert server.client.responses.input_tokens.count(model="tiny", input="x").input_tokens > 3
