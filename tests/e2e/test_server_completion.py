"""llama-server's POST /completion, and what of it stands in the answers of other APIs: times, progress, all of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from test_server import Server, ask, running

from fake_engine import CONTEXT, IM_END, FakeEngine, encode, reference_tokenizer, write_tiny_artifact
from imp_runtime.artifact import Artifact

TEXT = "one two\nthree 🙂"
TIMINGS = {
    "cache_n", "prompt_n", "prompt_ms", "prompt_per_token_ms", "prompt_per_second",
    "predicted_n", "predicted_ms", "predicted_per_token_ms", "predicted_per_second",
}  # fmt: skip
PROMPT = "a prompt"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_tiny_artifact(tmp_path_factory.mktemp("server") / "tiny.impc")


@pytest.fixture(scope="module")
def server(artifact: Artifact) -> Iterator[Server]:
    with running(artifact, reply=lambda _: encode(TEXT), seconds_per_step=0.001) as server:
        yield server


def post(server: Server, path: str = "/completion", **body: object) -> Any:
    return server.http.post(path, json={"prompt": PROMPT, **body}).raise_for_status().json()


def stream(server: Server, path: str = "/completion", **body: object) -> list[dict[str, Any]]:
    given = {"prompt": PROMPT} if path == "/completion" else {}
    response = server.http.post(path, json={**given, "stream": True, **body}).raise_for_status()
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_the_whole_answer(server: Server) -> None:
    answer = post(server, seed=7, temperature=0.5, stop=["never"])
    assert set(answer) == {
        "index", "content", "tokens", "id_slot", "stop", "model", "tokens_predicted", "tokens_evaluated",
        "generation_settings", "prompt", "has_new_line", "truncated", "stop_type", "stopping_word", "tokens_cached",
        "timings",
    }  # fmt: skip
    n = len(encode(TEXT))
    told = {"content": TEXT, "tokens": [], "stop": True, "model": "tiny", "tokens_predicted": n, "prompt": PROMPT}
    assert {name: answer[name] for name in told} == told
    assert (answer["stop_type"], answer["has_new_line"], answer["truncated"]) == ("eos", True, False)
    assert answer["tokens_evaluated"] == len(encode(PROMPT))
    settings = answer["generation_settings"]
    told = {"seed": 7, "temperature": 0.5, "n_predict": -1, "stop": ["never"], "ignore_eos": False, "logit_bias": []}
    assert {name: settings[name] for name in told} == told
    assert server.engine.params[-1].max_tokens == CONTEXT


def test_where_it_ends(server: Server) -> None:
    cut = post(server, n_predict=2)
    assert (cut["stop_type"], cut["tokens_predicted"], cut["generation_settings"]["n_predict"]) == ("limit", 2, 2)
    word = post(server, stop=["three"])
    assert (word["stop_type"], word["stopping_word"], word["content"]) == ("word", "three", "one two\n")
    full = post(server, prompt="!" * 300, ignore_eos=True)
    assert (full["stop_type"], full["truncated"]) == ("limit", True)
    assert full["tokens_evaluated"] + full["tokens_predicted"] == CONTEXT
    assert full["generation_settings"]["logit_bias"] == [{"token": IM_END, "bias": None}]
    nothing = post(server, n_predict=0)
    assert (nothing["content"], nothing["tokens_predicted"], nothing["tokens_evaluated"]) == (
        "",
        0,
        len(encode(PROMPT)),
    )
    assert [chunk["content"] for chunk in stream(server, n_predict=0)] == [""]


def test_prompts_of_every_form(server: Server) -> None:
    ids = encode("ab")
    cases: list[tuple[object, list[list[int]]]] = [
        ("ab", [ids]),
        (ids, [ids]),
        ([1, "ab", 2], [[1, *ids, 2]]),
        ({"prompt_string": "ab"}, [ids]),
        (["ab", ids, {"prompt_string": "ab"}, [3, "ab"]], [ids, ids, ids, [3, *ids]]),
    ]
    for prompt, expected in cases:
        answer = post(server, prompt=prompt)
        assert isinstance(answer, list) == (len(expected) > 1)
        assert server.engine.prompts[-len(expected) :] == [tuple(each) for each in expected]
    answers = post(server, prompt=["a", "b"], n_cmpl=2)
    assert [each["index"] for each in answers] == [0, 1, 2, 3]
    assert [each["prompt"] for each in answers] == ["a", "a", "b", "b"]
    for bad in ([], "", [""], [1, 99999], [True], {"prompt_string": "x", "multimodal_data": "aGk="}, None, 5):
        response = server.http.post("/completion", json={"prompt": bad})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt"), bad


def test_a_stream(server: Server) -> None:
    *chunks, last = stream(server)
    assert [chunk["stop"] for chunk in chunks] == [False] * len(chunks)
    assert "".join(chunk["content"] for chunk in chunks) == TEXT
    assert [token for chunk in chunks for token in chunk["tokens"]] == encode(TEXT)
    assert all(chunk["tokens"] and "timings" not in chunk for chunk in chunks)
    whole = post(server)
    assert last == {**whole, "content": "", "timings": last["timings"]} | {
        "generation_settings": {**whole["generation_settings"], "stream": True}
    }
    assert chunks[-1]["tokens_predicted"] == last["tokens_predicted"]


def test_tokens_and_chosen_fields(server: Server) -> None:
    assert post(server, return_tokens=True)["tokens"] == encode(TEXT)
    fields = ["content", "generation_settings/n_predict", "nothing", "generation_settings/nothing"]
    assert post(server, n_predict=9, response_fields=fields) == {
        "content": reference_tokenizer().decode(encode(TEXT)[:9]),
        "generation_settings/n_predict": 9,
    }
    assert "timings" in post(server, response_fields=[])


def test_probabilities(server: Server) -> None:
    tokens = encode(TEXT)
    answer = post(server, n_probs=3)
    probabilities = answer["completion_probabilities"]
    assert [each["id"] for each in probabilities] == tokens
    assert b"".join(bytes(each["bytes"]) for each in probabilities).decode() == TEXT
    for token, each in zip(tokens, probabilities, strict=True):
        assert each["logprob"] == pytest.approx(-token / 100)
        assert [(top["id"], top["logprob"]) for top in each["top_logprobs"]] == [(i, -i / 100) for i in range(3)]
        assert [top["token"] for top in each["top_logprobs"]] == [reference_tokenizer().decode([i]) for i in range(3)]
    chunks = [chunk for chunk in stream(server, n_probs=3) if not chunk["stop"]]
    assert [each for chunk in chunks for each in chunk["completion_probabilities"]] == probabilities
    assert "completion_probabilities" not in post(server)
    assert post(server, logprobs=3)["completion_probabilities"] == probabilities


def test_probabilities_behind_the_samplers(server: Server) -> None:
    """The engine is asked for them, and probabilities stand where logarithms did."""
    before = post(server, n_probs=3)["completion_probabilities"]
    after = post(server, n_probs=3, post_sampling_probs=True)["completion_probabilities"]
    assert server.engine.params[-1].sampled_logprobs
    for a, b in zip(before, after, strict=True):
        assert b["prob"] == pytest.approx(math.exp(a["logprob"]))
        assert [each["prob"] for each in b["top_probs"]] == [math.exp(each["logprob"]) for each in a["top_logprobs"]]
        assert "logprob" not in b
    post(server, post_sampling_probs=True)
    assert not server.engine.params[-1].sampled_logprobs


def check_timings(timings: dict[str, float], tokens: int, prompt: int, cached: int = 0) -> None:
    assert set(timings) == TIMINGS
    assert (timings["predicted_n"], timings["prompt_n"], timings["cache_n"]) == (tokens, prompt - cached, cached)
    assert timings["prompt_ms"] > 0
    assert timings["prompt_per_second"] == pytest.approx(1e3 * (prompt - cached) / timings["prompt_ms"])
    assert timings["prompt_per_token_ms"] * (prompt - cached) == pytest.approx(timings["prompt_ms"])
    if tokens == 1:  # it came with the prompt
        assert (timings["predicted_ms"], timings["predicted_per_second"], timings["predicted_per_token_ms"]) == (
            0,
            0,
            0,
        )
    else:
        assert timings["predicted_ms"] >= tokens - 1  # a step takes a millisecond
        assert timings["predicted_per_second"] == pytest.approx(1e3 * (tokens - 1) / timings["predicted_ms"])
        assert timings["predicted_per_token_ms"] * (tokens - 1) == pytest.approx(timings["predicted_ms"])


def test_times(server: Server) -> None:
    n, prompt = len(encode(TEXT)), len(encode(PROMPT))
    check_timings(post(server)["timings"], n, prompt)
    check_timings(post(server, n_predict=1)["timings"], 1, prompt)
    for path, given in (("/v1/completions", {"prompt": PROMPT}), ("/v1/chat/completions", {"messages": ask("x")})):
        body = {**given, "max_tokens": 99}
        whole = server.http.post(path, json=body).json()
        usage = whole["usage"]
        check_timings(whole["timings"], usage["completion_tokens"], usage["prompt_tokens"])
        *others, last = stream(server, path, **body)
        assert not any("timings" in chunk for chunk in others)
        check_timings(last["timings"], usage["completion_tokens"], usage["prompt_tokens"])
        first, *others = stream(server, path, **body, timings_per_token=True, stream_options={"include_usage": True})
        assert path != "/v1/chat/completions" or "timings" not in first
        counts = [chunk["timings"]["predicted_n"] for chunk in others]
        assert counts == sorted(counts)
        assert others[-1]["choices"] == []
        check_timings(others[-1]["timings"], usage["completion_tokens"], usage["prompt_tokens"])
        assert "timings" not in server.http.post(path, json={**body, "n": 2}).json()
    told = stream(server, "/v1/responses", input="x", timings_per_token=True)
    deltas = [event for event in told if event["type"] == "response.output_text.delta"]
    assert all(set(event["timings"]) == TIMINGS for event in (*deltas, told[-1]))
    assert told[-1]["type"] == "response.completed"


def test_what_the_cache_had_is_not_counted(artifact: Artifact) -> None:
    with running(artifact, reply=lambda _: encode("Hi"), seconds_per_step=0.001) as server:
        server.engine.cached_tokens = 1
        answer = post(server)
        check_timings(answer["timings"], len(encode("Hi")), len(encode(PROMPT)), cached=1)
        assert answer["tokens_cached"] == 1


def test_progress_of_the_prompt(artifact: Artifact) -> None:
    """A prompt that takes three chunks, the first of which waits for a slot."""

    class Chunked(FakeEngine):
        def step(self) -> list[Any]:  # type: ignore[override]
            for sequence in self.live:
                if sequence.slot < 0:
                    sequence.slot, sequence.cached = 0, sequence.prompt_cached
                    return []
                if sequence.cached < len(sequence.prompt):
                    sequence.cached = min(sequence.cached + 100, len(sequence.prompt))
                    if sequence.cached < len(sequence.prompt):
                        return []
            return super().step()

    with running(artifact, reply=lambda _: encode("Hi")) as server:
        engine = server.engine
        engine.__class__ = Chunked
        engine.cached_tokens = 16
        long = [5] * 250
        for path, body in (
            ("/completion", {"prompt": long}),
            ("/v1/completions", {"prompt": long}),
        ):
            chunks = stream(server, path, **body, return_progress=True, timings_per_token=True)
            told = [chunk for chunk in chunks if "prompt_progress" in chunk]
            progress = [chunk["prompt_progress"] for chunk in told]
            assert [each["processed"] for each in progress] == [16, 116, 216, 250]
            assert all((each["total"], each["cache"]) == (250, 16) for each in progress)
            times = [each["time_ms"] for each in progress]
            assert times[0] == 0
            assert times == sorted(times)
            assert [chunk["timings"]["prompt_n"] for chunk in told] == [0, 100, 200, 234]
            assert (told[0]["timings"]["prompt_ms"], told[0]["timings"]["predicted_n"]) == (0, 0)
            assert chunks.index(told[-1]) == len(told) - 1  # before the first token
            assert "prompt_progress" not in json.dumps(stream(server, path, **body))
        chat = stream(server, "/v1/chat/completions", messages=ask("x"), return_progress=True)
        (place,) = {i for i, chunk in enumerate(chat) if "prompt_progress" in chunk and i == 1}
        assert chat[place]["choices"][0]["delta"] == {}
        told = stream(server, "/v1/responses", input="x", return_progress=True)
        assert {event["type"] for event in told if "prompt_progress" in event} == {"response.in_progress"}


def test_all_of_it_in_a_chat(server: Server) -> None:
    body = {"messages": ask("x"), "max_tokens": 4}
    answer = post_chat(server, **body, verbose=True)
    verbose = answer["__verbose"]
    assert "<|im_start|>user\nx<|im_end|>" in verbose["prompt"]
    assert (verbose["content"], verbose["tokens_predicted"]) == (answer["choices"][0]["message"]["content"], 4)
    assert "__verbose" not in post_chat(server, **body)
    assert "__verbose" not in post_chat(server, **body, verbose=False)
    *others, last = stream(server, "/v1/chat/completions", **body, verbose=True)
    assert last["__verbose"]["prompt"] == verbose["prompt"]
    assert not any("__verbose" in chunk for chunk in others)


def post_chat(server: Server, **body: object) -> Any:
    return server.http.post("/v1/chat/completions", json=body).raise_for_status().json()


def test_fingerprint(server: Server) -> None:
    """The same for every answer of this server, streamed or not."""
    found = {post_chat(server, messages=ask("x"))["system_fingerprint"]}
    found |= {server.http.post("/v1/completions", json={"prompt": "x"}).json()["system_fingerprint"]}
    for chunk in stream(server, "/v1/chat/completions", messages=ask("x")):
        found.add(chunk["system_fingerprint"])
    (fingerprint,) = found
    assert fingerprint.startswith("build-")
    assert not math.isnan(int(fingerprint.removeprefix("build-"), 16))
