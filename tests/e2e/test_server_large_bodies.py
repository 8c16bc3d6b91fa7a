"""Bodies of very many values: refused, or worked off while everybody else is answered."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_server import Server, artifact, running

from imp_runtime.artifact import Artifact
from imp_server.api.bodies.json_size import values

__all__ = ["artifact"]
CHAT = "/v1/chat/completions"
PARTS = [{"type": "text", "text": "x"}] * 95_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('",[{\\a:}]'),
    lambda inner: st.lists(inner, min_size=1) | st.dictionaries(st.text('",[{\\a:}]'), inner, min_size=1),
)


@pytest.fixture(scope="module")
def server(artifact: Artifact) -> Iterator[Server]:
    with running(artifact) as server:
        yield server


def counted(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(counted, inner))


@given(JSON, st.sampled_from([None, 1]), st.booleans())
def test_values_are_counted(value: object, indent: int | None, escaped: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=escaped).encode()
    assert values(text, 0) == counted(value)
    assert values(text, 1_000_000) >= counted(value)


def test_any_bytes_have_a_number() -> None:
    for text in (b"", b'"', b"\\", b'"\\', b"[[[", b"\xff\x00,"):
        assert values(text, 0) >= 1


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "x"}] * 180_000}, "more than 300000 JSON values"),
        (CHAT, {"messages": [{"role": "user", "content": "x"}] * 10_001}, "at most 10000 items"),
        ("/v1/messages", {"max_tokens": 1, "messages": [{"role": "user", "content": "x"}] * 10_001}, "10000 items"),
        ("/v1/responses", {"input": [{"role": "user", "content": "x"}] * 10_001}, "at most 10000 items"),
        ("/tokenize", {"messages": [{"role": "user", "content": "x"}] * 10_001}, "at most 10000 items"),
        (CHAT, {"messages": [{"role": "user", "content": "x"}], "metadata": {"x": [0] * 300_000}}, "more than 300000"),
        ("/v1/completions", {"prompt": [[1]] * 150_000}, "more than 300000"),
    ],
)
def test_too_many_values(server: Server, path: str, body: object, words: str) -> None:
    answer = server.http.post(path, json=body, timeout=60)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


def test_signs_in_a_text_are_no_values(server: Server) -> None:
    answer = server.http.post("/tokenize", json={"content": ',[{"' * 100_000}, timeout=60)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "x"}] * 180_000}),
        (CHAT, {"messages": [{"role": "user", "content": PARTS}]}),
        ("/v1/messages", {"max_tokens": 1, "messages": [{"role": "user", "content": PARTS}]}),
    ],
)
def test_others_are_answered_meanwhile(server: Server, path: str, body: object) -> None:
    """In seconds of CPU, as server and clients are threads of this process: what else the machine does adds none."""
    text = json.dumps(body).encode()
    done: list[float] = []

    def ask() -> None:
        began = time.process_time()
        assert httpx.post(f"{server.url}{path}", content=text, timeout=120).status_code == 400
        done.append(time.process_time() - began)

    asking = threading.Thread(target=ask)
    asking.start()
    longest = 0.0
    while not done and asking.is_alive():
        began = time.process_time()
        assert server.http.get("/health", timeout=60).status_code == 200
        longest = max(longest, time.process_time() - began)
        time.sleep(0.001)
    asking.join()
    # Where others wait for the whole body, both are the same; half of it was seen where they do not.
    assert longest < max(0.25, done[0] * 0.75), (longest, done)
