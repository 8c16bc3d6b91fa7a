"""What clients are told of the prefix cache: in the usage of each API, in the metrics, in the log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from test_server import events, wait_for

from demo_server import compile_demo, serving

SYSTEM = "You write short Python functions and explain none of them. " * 4


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def url(demo: Path) -> Iterator[str]:
    with serving(demo) as process:
        yield process.url


def usage(url: str, path: str, question: str, *, stream: bool, system: str = SYSTEM, n: int = 1) -> tuple[int, int]:
    """The tokens of a prompt and those of them that were cached, as the API at `path` says."""
    body: dict[str, object] = {"model": "Demo", "stream": stream}
    turns = [{"role": "user", "content": question}]
    if path == "/v1/responses":
        body |= {"instructions": system, "input": turns, "max_output_tokens": 16}
    elif path == "/v1/messages":
        body |= {"system": system, "messages": turns, "max_tokens": 2}
    elif path == "/v1/completions":
        body |= {"prompt": system + question, "max_tokens": 2}
    else:
        body |= {"messages": [{"role": "system", "content": system}, *turns], "max_tokens": 2, "n": n}
    if stream and path in ("/v1/chat/completions", "/v1/completions"):
        body["stream_options"] = {"include_usage": True}
    answer = httpx.post(f"{url}{path}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    if path == "/v1/messages":
        if not stream:
            found = [answer.json()["usage"]]
        else:
            told = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
            found = [
                told[0]["message"]["usage"],
                next(each for each in told if each["type"] == "message_delta")["usage"],
            ]
        numbers = {(each["input_tokens"], each["cache_read_input_tokens"]) for each in found}
        assert {each["cache_creation_input_tokens"] for each in found} == {0}
        ((computed, cached),) = numbers  # the start of the stream says what its end says
        return computed + cached, cached
    if path == "/v1/responses":
        if not stream:
            told = answer.json()["usage"]
        else:
            told = json.loads(answer.text.strip().rsplit("data: ", 1)[1])["response"]["usage"]
        return told["input_tokens"], told["input_tokens_details"]["cached_tokens"]
    told = json.loads(events(answer.text)[-2])["usage"] if stream else answer.json()["usage"]
    assert told["total_tokens"] == told["prompt_tokens"] + told["completion_tokens"]
    return told["prompt_tokens"], told["prompt_tokens_details"]["cached_tokens"]


PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")


def counters(url: str) -> tuple[float, float]:
    """Prompt tokens so far, and those of them that were cached."""
    lines = dict(line.rsplit(" ", 1) for line in httpx.get(f"{url}/metrics").text.splitlines() if line[0] != "#")
    return float(lines["imp_prompt_tokens_total"]), float(lines["imp_cached_prompt_tokens_total"])


@pytest.mark.parametrize("stream", [False, pytest.param(True, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("path", PATHS)
def test_usage_says_what_was_cached(url: str, path: str, stream: bool) -> None:
    system = f"{path} {stream}. {SYSTEM}"
    before = counters(url)
    prompt, cached = usage(url, path, "Add two numbers.", stream=stream, system=system)
    assert cached == 0
    again, cached_again = usage(url, path, "Add two numbers.", stream=stream, system=system)
    assert (again, cached_again) == (prompt, (prompt - 1) // 16 * 16)
    other, cached_other = usage(url, path, "Sort a list of words by their length.", stream=stream, system=system)
    assert cached_other % 16 == 0
    assert prompt - 40 < cached_other < prompt < other, "the instructions, not the question"
    after = counters(url)
    assert after[0] - before[0] == prompt + again + other
    assert after[1] - before[1] == cached_again + cached_other


def test_a_conversation_of_any_api_finds_what_another_left(url: str) -> None:
    """The prompt is the same text; what it came by does not matter."""
    system = f"A poet. {SYSTEM}"
    prompt, _ = usage(url, "/v1/messages", "Begin.", stream=False, system=system)
    assert usage(url, "/v1/chat/completions", "Begin.", stream=True, system=system) == (prompt, (prompt - 1) // 16 * 16)


def test_choices_count_their_prompt_once(url: str) -> None:
    system = f"A cook. {SYSTEM}"
    prompt, cached = usage(url, "/v1/chat/completions", "Begin.", stream=False, system=system, n=3)
    assert cached == 0
    again = usage(url, "/v1/chat/completions", "Begin.", stream=True, system=system, n=3)
    assert again == (prompt, (prompt - 1) // 16 * 16)


@pytest.mark.parametrize("on", [True, False])
def test_switched_off_and_logged(demo: Path, tmp_path: Path, on: bool) -> None:
    log = tmp_path / "requests.jsonl"
    settings = ("--set", f"server.prefix_cache={str(on).lower()}", "--set", f"log.requests={log}")

    def records() -> list[dict[str, int]]:
        return [json.loads(line) for line in log.read_text("utf-8").splitlines() if "prompt_tokens" in line]

    with serving(demo, *settings) as process:
        told = [usage(process.url, "/v1/completions", "Begin.", stream=False) for _ in range(2)]
        wait_for(lambda: len(records()) == 2)  # written when the answer has been sent
    assert [(each["prompt_tokens"], each["cached_tokens"]) for each in records()] == told
    assert told[0][1] == 0
    assert (told[1][1] > 0) == on
