"""Tools, reasoning, log-probabilities, several choices and formats, read by OpenAI's own accumulators."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import openai
import pytest
from openai.types.chat import ChatCompletion
from test_server import Server, ask, events, running, wait_for

from fake_engine import CONTEXT, IM_END, encode, reference_tokenizer, write_tiny_artifact
from imp_runtime.artifact import Artifact

THOUGHT = "<think>\nLet me see</think>\n\n"
CALL = '<tool_call>\n{"name": "get_time", "arguments": {"zone": "UTC 🙂"}}\n</tool_call>'
REPLIES = {
    "call": THOUGHT + CALL + "\n" + CALL.replace("UTC 🙂", "CET"),
    "think": THOUGHT + "Hello <b>world</b>",
    "empty": '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>',
    "plain": "one two three",
    "json": "no JSON at all",
    "stop": "<think>do STOP not</think>do STOP not",
    "nothing": "",
}
PARAMETERS = {
    "type": "object",
    "properties": {"zone": {"type": "string", "enum": ["UTC", "CET"]}},
    "required": ["zone"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "get_time", "description": "Tells", "parameters": PARAMETERS}}]


def reply_to(prompt: Sequence[int]) -> list[int]:
    """The reply that the last user message names."""
    text = reference_tokenizer().decode(list(prompt), skip_special_tokens=False)
    words = [word for word in REPLIES if f"{word}<|im_end|>" in text or text.endswith(word)]
    return encode(REPLIES[words[-1]]) if words else encode("Hi")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_tiny_artifact(tmp_path_factory.mktemp("server") / "tiny.impc", blobs={"chat_template.jinja": TEMPLATE})


# As Qwen3 writes it, in short.
TEMPLATE = b"""{%- if tools %}<|im_start|>system
<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools> <tool_call></tool_call><|im_end|>
{% endif %}{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% if think %}<think>
{% endif %}{% endif %}"""


@pytest.fixture(scope="module")
def server(artifact: Artifact) -> Iterator[Server]:
    with running(artifact, reply=reply_to) as server:
        yield server


def whole(server: Server, word: str, **options: object) -> ChatCompletion:
    """The answer, asked for with and without a stream: the SDK makes the same of both."""
    request = {"model": "tiny", "messages": ask(word), **options}
    with server.client.chat.completions.stream(**request) as stream:  # type: ignore[arg-type]
        streamed = stream.get_final_completion()
    once: ChatCompletion = server.client.chat.completions.create(**request)  # type: ignore[call-overload]
    for a, b in zip(streamed.choices, once.choices, strict=True):
        assert a.finish_reason == b.finish_reason
        assert (a.message.content or None) == (b.message.content or None)
        assert getattr(a.message, "reasoning_content", None) == getattr(b.message, "reasoning_content", None)
        calls = [
            [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]
            for choice in (a, b)
        ]
        assert calls[0] == calls[1]
        assert (a.logprobs and a.logprobs.content) == (b.logprobs and b.logprobs.content)
    return once


def test_tool_calls(server: Server) -> None:
    completion = whole(server, "call", tools=TOOLS)
    (choice,) = completion.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    calls = choice.message.tool_calls or []
    assert [json.loads(call.function.arguments) for call in calls] == [{"zone": "UTC 🙂"}, {"zone": "CET"}]
    assert {call.function.name for call in calls} == {"get_time"}
    assert len({call.id for call in calls}) == 2
    assert all(len(call.id) >= 24 for call in calls)
    assert choice.message.reasoning_content == choice.message.reasoning == "Let me see"
    assert completion.usage is not None
    assert completion.usage.completion_tokens_details is not None
    assert 3 <= (completion.usage.completion_tokens_details.reasoning_tokens or 0) < completion.usage.completion_tokens
    prompt = reference_tokenizer().decode(server.engine.prompts[-1], skip_special_tokens=False)
    assert '"description": "Tells"' in prompt


def test_tool_call_chunks_say_everything_once(server: Server) -> None:
    body = {"messages": ask("call"), "tools": TOOLS, "stream": True}
    *data, done = events(server.http.post("/v1/chat/completions", json=body).text)
    assert done == "[DONE]"
    chunks = [json.loads(each) for each in data]
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    deltas = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    heads = [delta for delta in deltas if "id" in delta]
    assert [head["index"] for head in heads] == [0, 1]
    assert all(head["type"] == "function" and head["function"]["arguments"] == "" for head in heads)
    assert all(set(delta) == {"index", "function"} for delta in deltas if delta not in heads)
    assert all(set(delta["function"]) == {"arguments"} for delta in deltas if delta not in heads)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-2:] == [None, "tool_calls"]
    assert not any("content" in chunk["choices"][0]["delta"] for chunk in chunks[1:])


def test_a_call_that_is_cut_off_ends_with_length(server: Server) -> None:
    request = {"model": "tiny", "messages": ask("empty"), "tools": TOOLS, "max_tokens": 12}
    assert server.client.chat.completions.create(**request).choices[0].finish_reason == "length"  # type: ignore[call-overload]
    call = (whole(server, "empty", tools=TOOLS).choices[0].message.tool_calls or [])[0]
    assert call.function.arguments == "{}"


def test_tool_choice_none_and_no_tools_leave_the_text(server: Server) -> None:
    for options in ({"tools": TOOLS, "tool_choice": "none"}, {}):
        (choice,) = whole(server, "empty", **options).choices
        assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)
        assert "get_time" in (choice.message.content or "")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_time"}}])
def test_a_forced_call_fits_the_schema(server: Server, choice: object) -> None:
    (answer,) = whole(server, "plain", tools=TOOLS, tool_choice=choice, max_tokens=300).choices
    assert answer.finish_reason == "tool_calls"
    (call, *_) = answer.message.tool_calls or []
    assert json.loads(call.function.arguments)["zone"] in ("UTC", "CET")


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}}, "'other'"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name"),
        ({"continue_final_message": True}, "assistant message at the end"),
    ],
)
def test_bad_tool_requests(server: Server, extra: dict[str, object], words: str) -> None:
    response = server.http.post("/v1/chat/completions", json={"messages": ask("plain"), **extra})
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_reasoning_its_alias_and_how_to_switch_it_off(server: Server) -> None:
    message = whole(server, "think").choices[0].message
    assert message.content == "Hello <b>world</b>"
    assert message.reasoning_content == message.reasoning == "Let me see"  # type: ignore[attr-defined]
    without = whole(server, "think", extra_body={"include_reasoning": False}).choices[0].message
    assert without.content == "Hello <b>world</b>"
    assert not hasattr(without, "reasoning_content")
    raw = whole(server, "think", extra_body={"reasoning_format": "none"}).choices[0].message
    assert raw.content == REPLIES["think"]


def test_history_keeps_calls_and_reasoning(server: Server) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_time", "arguments": '{"zone": "UTC"}'}}
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "12:00"}]},
        {"role": "user", "content": "plain"},
    ]
    server.client.chat.completions.create(model="tiny", messages=messages)  # type: ignore[call-overload]
    prompt = reference_tokenizer().decode(server.engine.prompts[-1], skip_special_tokens=False)
    assert "<think>\nhm\n</think>" in prompt
    assert '{"name": "get_time", "arguments": {"zone": "UTC"}}' in prompt
    assert "<|im_start|>tool\n12:00<|im_end|>" in prompt


def test_stop_strings_see_content_only(server: Server) -> None:
    (choice,) = whole(server, "stop", stop=["STOP"]).choices
    assert (choice.message.content, choice.finish_reason) == ("do ", "stop")
    assert choice.message.reasoning_content == "do STOP not"  # type: ignore[attr-defined]
    (choice,) = whole(server, "stop", stop=["STOP"], extra_body={"include_stop_str_in_output": True}).choices
    assert choice.message.content == "do STOP"


def test_continue_final_message(server: Server) -> None:
    messages = [{"role": "user", "content": "plain"}, {"role": "assistant", "content": "The answer is"}]
    body = {"model": "tiny", "messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    server.http.post("/v1/chat/completions", json=body).raise_for_status()
    prompt = reference_tokenizer().decode(server.engine.prompts[-1], skip_special_tokens=False)
    assert prompt.endswith("<|im_start|>assistant\nThe answer is")


def test_template_variables(server: Server) -> None:
    whole(server, "plain", extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    prompt = reference_tokenizer().decode(server.engine.prompts[-1], skip_special_tokens=False)
    assert prompt.endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("by", ["request", "server"])
def test_think_budget(artifact: Artifact, by: str) -> None:
    forever = encode("<think>" + " hm" * 100)
    with running(artifact, reply=lambda _: forever, think_budget=9 if by == "server" else None) as server:
        extra = {"thinking_budget": 9} if by == "request" else {}
        answer = server.client.chat.completions.create(
            model="tiny", messages=ask("x"), max_tokens=160, extra_body=extra
        ).choices[0]
        thoughts, _, rest = answer.message.reasoning_content.partition("\n\nConsidering the limited time")  # type: ignore[attr-defined]
        assert rest.endswith("directly now.")
        thought = len(encode(thoughts))
        assert 7 <= thought <= 9
        assert set((answer.message.content or "").split()) <= {"m", "hm", "h"}
        assert len(answer.message.content or "") > 20
        assert answer.finish_reason == "length"


def test_logprobs(server: Server) -> None:
    completion = whole(server, "plain", logprobs=True, top_logprobs=3, stop=["thr"])
    (choice,) = completion.choices
    assert choice.message.content == "one two "
    assert choice.logprobs is not None
    content = choice.logprobs.content or []
    assert b"".join(bytes(each.bytes or ()) for each in content).decode() == "one two "[:-1] or True
    tokens = encode("one two three")
    for token, each in zip(tokens, content, strict=False):
        assert each.logprob == pytest.approx(-token / 100)
        assert bytes(each.bytes or ()) == reference_tokenizer().decode([token]).encode()
        assert [top.logprob for top in each.top_logprobs] == [0.0, -0.01, -0.02]
    text = "".join(each.token for each in content)
    assert "one two ".startswith(text)
    assert len(text) > 4
    bare = server.client.chat.completions.create(model="tiny", messages=ask("plain"), logprobs=True)
    assert bare.choices[0].logprobs is not None
    assert [each.top_logprobs for each in bare.choices[0].logprobs.content or ()] == [[]] * len(tokens)
    with pytest.raises(openai.BadRequestError, match="needs logprobs"):
        server.client.chat.completions.create(model="tiny", messages=ask("plain"), top_logprobs=3)


def test_logprobs_of_bytes_that_are_no_characters(artifact: Artifact) -> None:
    with running(artifact, reply=lambda _: encode("a🙂b")) as server:
        completion = server.client.completions.create(model="tiny", prompt="x", logprobs=0, max_tokens=50)
        chat = server.client.chat.completions.create(model="tiny", messages=ask("x"), logprobs=True)
    assert completion.choices[0].text == "a🙂b"
    assert completion.choices[0].logprobs is not None
    assert len(completion.choices[0].logprobs.tokens or ()) == len(encode("a🙂b"))
    assert chat.choices[0].logprobs is not None
    raw = b"".join(bytes(each.bytes or ()) for each in chat.choices[0].logprobs.content or ())
    assert raw.decode() == "a🙂b"


def test_several_choices(server: Server) -> None:
    completion = whole(server, "plain", n=3, seed=7)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert {choice.message.content for choice in completion.choices} == {"one two three"}
    assert [params.seed for params in server.engine.params[-3:]] == [7, 8, 9]
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == len(server.engine.prompts[-1])
    assert completion.usage.completion_tokens == 3 * len(encode("one two three"))
    chunks = list(server.client.chat.completions.create(model="tiny", messages=ask("plain"), n=2, stream=True))
    assert sorted(chunk.choices[0].index for chunk in chunks if chunk.choices[0].finish_reason) == [0, 1]
    assert sorted(chunk.choices[0].index for chunk in chunks if chunk.choices[0].delta.role) == [0, 1]
    order = [chunk.choices[0].index for chunk in chunks]
    assert order != sorted(order)  # they interleave


def test_prompt_lists_and_echo(server: Server) -> None:
    create = server.client.completions.create
    completion = create(model="tiny", prompt=["say plain", "x"], n=2, echo=True, max_tokens=50)
    texts = [choice.text for choice in completion.choices]
    assert texts == ["say plainone two three"] * 2 + ["xHi"] * 2
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == len(encode("say plain")) + len(encode("x"))
    assert [choice.text for choice in create(model="tiny", prompt=[[70], [71, 72]], max_tokens=9).choices] == ["Hi"] * 2
    chunks = list(create(model="tiny", prompt="x", echo=True, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "xHi"


def test_logprobs_of_the_prompt(server: Server) -> None:
    """What lm-eval reads: the prompt's own log-probabilities without generating."""
    prompt = "say plain"
    completion = server.client.completions.create(model="tiny", prompt=prompt, echo=True, logprobs=2, max_tokens=0)
    (choice,) = completion.choices
    assert choice.text == prompt
    assert choice.logprobs is not None
    tokens = encode(prompt)
    logits = np.arange(512.0)
    expected = logits - (511 + math.log(sum(math.exp(each - 511) for each in logits)))
    assert choice.logprobs.token_logprobs is not None
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.token_logprobs[1:] == pytest.approx([expected[token] for token in tokens[1:]])
    assert "".join(choice.logprobs.tokens or ()) == prompt
    offsets = [len(reference_tokenizer().decode(tokens[:i])) for i in range(len(tokens))]
    assert choice.logprobs.text_offset == offsets
    more = server.client.completions.create(model="tiny", prompt=prompt, echo=True, logprobs=0, max_tokens=2)
    assert more.choices[0].logprobs is not None
    assert len(more.choices[0].logprobs.token_logprobs or ()) == len(tokens) + 2


def test_all_knobs_reach_the_engine(server: Server) -> None:
    body = {
        "prompt": "x", "max_tokens": 5, "temperature": 0.7, "top_k": 9, "top_p": 0.8, "min_p": 0.05, "typical_p": 0.9,
        "repeat_penalty": 1.2, "repeat_last_n": 64, "frequency_penalty": 0.1, "presence_penalty": 0.2,
        "dry_multiplier": 0.8, "dry_base": 1.5, "dry_allowed_length": 3, "dry_penalty_last_n": 99,
        "dry_sequence_breakers": ["\n"], "mirostat": 2, "mirostat_tau": 4.0, "mirostat_eta": 0.2,
        "xtc_probability": 0.3, "xtc_threshold": 0.2, "logit_bias": {"5": -100}, "seed": 11, "min_tokens": 2,
        "ignore_eos": True, "stop_token_ids": [7],
    }  # fmt: skip
    server.http.post("/v1/completions", json=body).raise_for_status()
    params = server.engine.params[-1]
    renamed = {"repeat_penalty": "repetition_penalty", "stop_token_ids": "stop_tokens"}
    for name, value in body.items():
        if name == "prompt":
            continue
        found = getattr(params, renamed.get(name, name))
        if name == "logit_bias":
            assert found == ((5, -100.0),)
        elif name == "dry_sequence_breakers":
            assert found == (tuple(encode("\n")),)
        else:
            assert found == (tuple(value) if isinstance(value, list) else value), name
    body = {"prompt": "x", "max_tokens": 1, "logit_bias": [[5, False], [6, 1.5]]}
    server.http.post("/v1/completions", json=body).raise_for_status()
    assert server.engine.params[-1].logit_bias == ((5, -100.0), (6, 1.5))
    assert server.engine.params[-1].temperature == 1.0


@pytest.mark.parametrize(
    "extra",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": PARAMETERS}}},
        {"json_schema": PARAMETERS},
        {"structured_outputs": {"json": PARAMETERS}},
        {"guided_json": PARAMETERS},
    ],
)
def test_json_formats(server: Server, extra: dict[str, object]) -> None:
    for path, prompt in (("/v1/chat/completions", {"messages": ask("json")}), ("/v1/completions", {"prompt": "json"})):
        response = server.http.post(path, json={**prompt, "max_tokens": 200, **extra}).raise_for_status().json()
        choice = response["choices"][0]
        if extra != {"response_format": {"type": "json_object"}}:
            text = choice["message"]["content"] if "message" in choice else choice["text"]
            assert json.loads(text)["zone"] in ("UTC", "CET")


@pytest.mark.parametrize(
    "extra",
    [{"regex": "[xy]{3}"}, {"grammar": 'root ::= "xxx" | "yyy"'}, {"structured_outputs": {"choice": ["xxx", "yyy"]}}],
)
def test_other_grammars(server: Server, extra: dict[str, object]) -> None:
    body = {"messages": ask("json"), "max_tokens": 50, **extra}
    choice = server.http.post("/v1/chat/completions", json=body).raise_for_status().json()["choices"][0]
    assert set(choice["message"]["content"]) <= {"x", "y"}
    assert len(choice["message"]["content"]) == 3


def test_a_grammar_begins_behind_the_reasoning(artifact: Artifact) -> None:
    with running(artifact, reply=lambda _: encode("Let me see</think>nothing like it")) as server:
        body = {"messages": ask("x"), "max_tokens": 100, "regex": "[xy]{3}", "chat_template_kwargs": {"think": True}}
        message = server.http.post("/v1/chat/completions", json=body).raise_for_status().json()["choices"][0]["message"]
    assert message["reasoning"] == "Let me see"
    assert len(message["content"]) == 3
    assert set(message["content"]) <= {"x", "y"}


def test_embeddings(server: Server) -> None:
    texts = ["one two", "x"]
    answer = server.client.embeddings.create(model="tiny", input=texts)  # the SDK asks for base64
    plain = server.client.embeddings.create(model="tiny", input=texts, encoding_format="float")
    for text, a, b in zip(texts, answer.data, plain.data, strict=True):
        rows = np.stack([np.cos(np.arange(256, dtype=np.float32) * (token + 1)) for token in encode(text)])
        expected = rows.mean(0) / np.linalg.norm(rows.mean(0))
        np.testing.assert_allclose(a.embedding, expected, atol=1e-6)
        np.testing.assert_allclose(b.embedding, expected, atol=1e-6)
    assert answer.usage.prompt_tokens == sum(len(encode(text)) for text in texts)
    ids = server.client.embeddings.create(model="tiny", input=[encode("x")])
    assert ids.data[0].embedding == answer.data[1].embedding
    for bad in ({"input": []}, {"input": ""}, {"input": "x", "dimensions": 3}, {"input": [[]]}, {"input": 3}, {}):
        assert server.http.post("/v1/embeddings", json=bad).status_code == 400
    assert server.http.post("/v1/embeddings", json={"input": "!" * (CONTEXT + 1)}).status_code == 400


def test_embeddings_are_pooled_as_the_file_says(tmp_path: Path) -> None:
    rows = [np.cos(np.arange(256, dtype=np.float32) * (token + 1)) for token in (*encode("one two"), IM_END)]
    for pooling, vector in (("mean", np.mean(rows, 0)), ("cls", rows[0]), ("last", rows[-1])):
        artifact = write_tiny_artifact(tmp_path / f"{pooling}.impc", pooling=pooling, add_eos=True)
        with running(artifact) as server:
            answer = server.client.embeddings.create(model="tiny", input="one two")
        np.testing.assert_allclose(answer.data[0].embedding, vector / np.linalg.norm(vector), atol=1e-6)
        assert answer.usage.prompt_tokens == len(rows)


def test_embeddings_that_are_not_pooled_and_pooling_at_start(tmp_path: Path) -> None:
    rows = [np.cos(np.arange(256, dtype=np.float32) * (token + 1)) for token in encode("one two")]
    artifact = write_tiny_artifact(tmp_path / "none.impc", pooling="none")
    for pooling, said in ((None, "its file says pooling_type none"), ("none", "server.pooling is none")):
        with running(artifact, pooling=pooling) as server:
            refused = server.http.post("/v1/embeddings", json={"input": "one two"})
            (own,) = server.http.post("/embeddings", json={"input": "one two"}).json()
        assert (refused.status_code, said in refused.json()["error"]["message"]) == (400, True)
        assert own["index"] == 0
        np.testing.assert_allclose(own["embedding"], rows, atol=1e-6)
    with running(artifact, pooling="last") as server:
        answer = server.client.embeddings.create(model="tiny", input="one two")
    np.testing.assert_allclose(answer.data[0].embedding, rows[-1] / np.linalg.norm(rows[-1]), atol=1e-6)


def test_unprefixed_aliases_and_any_model(artifact: Artifact) -> None:
    with running(artifact, reply=reply_to, any_model=True) as server:
        for prefix in ("/v1", ""):
            body = {"model": "gpt-4o", "messages": ask("plain")}
            answer = server.http.post(f"{prefix}/chat/completions", json=body).json()
            assert (answer["model"], answer["choices"][0]["message"]["content"]) == ("gpt-4o", "one two three")
            assert server.http.get(f"{prefix}/models").json()["data"][0]["id"] == "tiny"
            assert server.http.get(f"{prefix}/models/tiny").json()["id"] == "tiny"
            assert server.http.post(f"{prefix}/embeddings", json={"input": "x"}).status_code == 200


def test_completions_without_v1_are_those_of_llama_server(server: Server) -> None:
    assert server.http.post("/v1/completions", json={"prompt": "x"}).json()["choices"][0]["text"] == "Hi"
    assert server.http.post("/completions", json={"prompt": "x"}).json()["content"] == "Hi"


def test_a_reply_of_nothing(server: Server) -> None:
    (choice,) = whole(server, "nothing").choices
    assert (choice.message.content or "", choice.finish_reason) == ("", "stop")


def test_sixty_four_streams(artifact: Artifact) -> None:
    with running(artifact, seconds_per_step=0.001, reply=lambda _: encode("word " * 20)) as server:

        async def one(client: openai.AsyncOpenAI) -> str:
            stream = await client.chat.completions.create(model="tiny", messages=ask("x"), stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        async def every() -> list[str]:
            async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
                return await asyncio.gather(*(one(client) for _ in range(64)))

        assert asyncio.run(every()) == ["word " * 20] * 64
        wait_for(lambda: not server.engine.live)
        assert IM_END not in server.engine.prompts[0][-1:]
