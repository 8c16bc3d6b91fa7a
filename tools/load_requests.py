"""What the clients of a load test ask for: every API, random lengths and wishes, and now and then nonsense."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from typing import Any

_BAD = 0.05  # share of the requests that are to be refused
_WORDS = ("the", "walk", "of", "a", "path", "returns", "def", "if", "not", "self", "\n", "x =", "1", "é", "日本", "and")
_SHARED = 4  # texts that prompts begin with


@dataclass(frozen=True, slots=True)
class Limits:
    """The most tokens of a prompt and its answer."""

    context: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A request. `ends` is in the last event of its stream; `bad`: it is to be refused."""

    api: str
    path: str
    body: bytes
    stream: bool
    ends: re.Pattern[bytes] | None
    bad: bool = False

    @property
    def shown(self) -> str:
        """The request in short."""
        text = self.body.decode(errors="replace")
        return text if len(text) < 300 else f"{text[:150]}...{text[-150:]}"


_APIS = {  # path, what the last event of a stream has
    "chat": ("/v1/chat/completions", re.compile(rb"\[DONE\]")),
    "completions": ("/v1/completions", re.compile(rb"\[DONE\]")),
    "responses": ("/v1/responses", re.compile(rb"response\.(in)?complete")),
    "messages": ("/v1/messages", re.compile(rb"message_stop")),
    "completion": ("/completion", re.compile(rb'"stop":true')),
    "embeddings": ("/v1/embeddings", None),
}


def random_request(rng: random.Random, limits: Limits) -> Asked:
    """The next request of a client."""
    api = rng.choices([*_APIS], weights=(4, 3, 2, 2, 2, 1))[0]
    path, ends = _APIS[api]
    stream = api != "embeddings" and rng.random() < 0.7
    if rng.random() < _BAD:
        return Asked(api, path, _nonsense(rng, api, limits), False, None, bad=True)
    answer = _length(rng, limits.context // 4)
    body = _body(rng, api, _text(rng, limits.context), answer) | ({"stream": True} if stream else {})
    return Asked(api, path, json.dumps(body).encode(), stream, ends if stream else None)


def _length(rng: random.Random, most: int) -> int:
    """1 to `most`, short ones as often as long ones."""
    length: float = most ** rng.random()
    return max(1, min(most, round(length)))


def _text(rng: random.Random, context: int) -> str:
    """Words, of which many prompts have the first in common; at most a quarter of the context in tokens, about."""
    count = _length(rng, max(context // 16, 1))
    shared = random.Random(rng.randrange(_SHARED))
    words = [shared.choice(_WORDS) for _ in range(rng.choice((0, count // 2, count)))]
    return " ".join(words + [rng.choice(_WORDS) for _ in range(count - len(words))])


def _body(rng: random.Random, api: str, text: str, answer: int) -> dict[str, Any]:
    if api == "embeddings":
        return {"model": "any", "input": text}
    if api == "messages":
        return {"model": "any", "max_tokens": answer, "messages": [{"role": "user", "content": text}]}
    wishes = _wishes(rng)
    if api == "responses":
        return {"model": "any", "input": text, "max_output_tokens": answer, **_only(wishes, "temperature", "top_p")}
    if api == "completion":
        return {"prompt": text, "n_predict": answer, **wishes}
    several = {"n": 2} if rng.random() < 0.1 else {}
    if api == "completions":
        asked: dict[str, Any] = {"prompt": text, **({"logprobs": 3} if rng.random() < 0.1 else {})}
    else:
        asked = {"messages": [{"role": "system", "content": "Go on."}, {"role": "user", "content": text}]}
        if rng.random() < 0.1:
            asked |= {"logprobs": True, "top_logprobs": 2}
        if rng.random() < 0.1:
            asked["response_format"] = {"type": "json_object"}
            wishes.pop("ignore_eos", None)
    return {"model": "any", "max_tokens": answer, **asked, **several, **wishes}


def _wishes(rng: random.Random) -> dict[str, Any]:
    """How to sample, from nothing said to penalties."""
    wishes: dict[str, Any] = rng.choice(
        (
            {},
            {"temperature": 0},
            {"temperature": 0.8, "top_p": 0.9},
            {"temperature": 0.7, "top_k": 20, "min_p": 0.02, "seed": rng.randrange(1 << 30)},
            {"temperature": 1, "repetition_penalty": 1.1, "presence_penalty": 0.5},
        )
    )
    return wishes | ({"ignore_eos": True} if rng.random() < 0.7 else {})


def _only(wishes: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: wishes[name] for name in names if name in wishes}


def _nonsense(rng: random.Random, api: str, limits: Limits) -> bytes:
    """A body that no server may take."""
    long = [7] * (limits.context + 1)
    body = _body(rng, api, "one", 4)
    too_long: dict[str, Any] = {"input": long} if api == "embeddings" else {"prompt": long}
    if api in ("chat", "messages"):
        too_long = {"messages": [{"role": "user", "content": "long " * 2 * limits.context}]}
    elif api == "responses":
        too_long = {"input": "long " * 2 * limits.context}
    return rng.choice(
        (
            b'{"model": "any", ',
            b"[]",
            json.dumps(body | {"frobnicate": 1}).encode(),
            json.dumps(body | {"temperature": "hot"}).encode(),
            json.dumps(body | too_long).encode(),
        )
    )
