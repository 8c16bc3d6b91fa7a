"""Whatever tokens come, every API streams the text that it gives as a whole, stop strings included."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_server import Server, ask, running

from fake_engine import write_tiny_artifact
from imp_codegen.checkpoint import Metadata
from imp_codegen.tokenizer.gguf import from_keys

# SentencePiece with all byte tokens, and words whose borders are not those of characters.
WORDS = ("\u2581", "\u2581a", "b", "\n", "\u2581\u2581", "\U0001f642", "\u00e9", "\u65e5", "<", "stop")
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
BYTES = [b""] * 3 + [bytes([byte]) for byte in range(256)] + [word.replace("\u2581", " ").encode() for word in WORDS]
EMOJI = [3 + byte for byte in "😀😁😂🤣".encode()]


REPLY: list[int] = []  # the server's next


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("any") / "spm.impc"
    keys = {
        "model": "llama",
        "tokens": TOKENS,
        "token_type": [2, 3, 3] + [6] * 256 + [1] * len(WORDS),
        "scores": [0.0] * len(TOKENS),
    }
    files = from_keys(Metadata(path, {f"tokenizer.ggml.{key}": value for key, value in keys.items()}))
    changes = {"vocab": len(TOKENS), "eos_token": files.eos, "stop_tokens": files.stop_tokens}
    artifact = write_tiny_artifact(path, blobs={"tokenizer.json": files.tokenizer_json.encode()}, **changes)
    with running(artifact, reply=lambda _: list(REPLY)) as server:
        yield server


def data(text: str) -> list[Any]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


Api = tuple[str, dict[str, Any], str, str, Callable[[Any], str], Callable[[Any], str]]
APIS: dict[
    str, Api
] = {  # path, body, names of the most tokens and of stop strings, text of a whole answer, of an event
    "completions": (
        *("/v1/completions", {"prompt": "a"}, "max_tokens", "stop"),
        lambda whole: whole["choices"][0]["text"],
        lambda event: event["choices"][0]["text"],
    ),
    "chat": (
        *("/v1/chat/completions", {"messages": ask("a")}, "max_tokens", "stop"),
        lambda whole: whole["choices"][0]["message"]["content"] or "",
        lambda event: event["choices"][0]["delta"].get("content") or "",
    ),
    "messages": (
        *("/v1/messages", {"messages": ask("a")}, "max_tokens", "stop_sequences"),
        lambda whole: "".join(block["text"] for block in whole["content"]),
        lambda event: event.get("delta", {}).get("text", ""),
    ),
    "native": (
        *("/completion", {"prompt": "a"}, "n_predict", "stop"),
        lambda whole: whole["content"],
        lambda event: event["content"],
    ),
}


@pytest.mark.parametrize("api", APIS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(st.integers(3, len(TOKENS) - 1) | st.sampled_from(EMOJI), min_size=1, max_size=40), at=st.data())
@example(ids=EMOJI * 3, at=None)
@example(ids=EMOJI[:-1], at=None)
@example(ids=[TOKENS.index("<")], at=None)
@example(ids=[TOKENS.index("b"), TOKENS.index("<")], at=None)
def test_streamed_is_whole(server: Server, api: str, ids: list[int], at: Any) -> None:
    path, body, most, stops, whole_text, event_text = APIS[api]
    # It ends by itself: of one that its limit cuts, chats do not show what may be the beginning of markup.
    REPLY[:] = [*ids, TOKENS.index("</s>")]
    full = codecs.utf_8_decode(b"".join(BYTES[token] for token in ids), "replace", False)[0]
    stop = None
    if at is not None and len(full) > 1:
        start = at.draw(st.integers(0, len(full) - 1))
        stop = at.draw(st.none() | st.just(full[start : start + at.draw(st.integers(1, 4))]))
    if stop is not None and (api == "messages" and not stop.strip()):
        stop = None
    expected = full if stop is None else full[: full.index(stop)]
    request = {"model": "tiny", **body, most: len(REPLY), **({} if stop is None else {stops: [stop]})}
    whole = server.http.post(path, json=request).raise_for_status().json()
    streamed = server.http.post(path, json={**request, "stream": True}).raise_for_status().text
    blank = expected.isspace() and api in ("chat", "messages")  # a turn of blanks may be an empty one
    assert whole_text(whole) == expected or (blank and whole_text(whole) == "")
    assert "".join(map(event_text, (e for e in data(streamed) if not is_last(e)))) == whole_text(whole)
    assert not re.search(r'"error"', streamed)


def is_last(event: Any) -> bool:
    return event.get("choices") == []
