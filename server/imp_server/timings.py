"""How long a generation took, as llama-server tells it: prompt and answer apart."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pydantic import JsonValue


@dataclass(frozen=True, slots=True)
class Timings:
    """`prompt_tokens` were computed and took `prompt_ms`; `cached_tokens` came from the prefix cache.

    The first of `tokens` comes with the prompt: `ms` is from it to the last one, over one token less. In milliseconds.
    """

    cached_tokens: int
    prompt_tokens: int
    prompt_ms: float
    tokens: int = 0
    ms: float = 0.0

    def to_json(self) -> dict[str, JsonValue]:
        """`timings` of an answer. What cannot be told yet is 0."""
        steps = max(self.tokens - 1, 0)
        return {
            "cache_n": self.cached_tokens,
            "prompt_n": self.prompt_tokens,
            "prompt_ms": self.prompt_ms,
            "prompt_per_token_ms": _ratio(self.prompt_ms, self.prompt_tokens),
            "prompt_per_second": _ratio(1e3 * self.prompt_tokens, self.prompt_ms),
            "predicted_n": self.tokens,
            "predicted_ms": self.ms,
            "predicted_per_token_ms": _ratio(self.ms, steps),
            "predicted_per_second": _ratio(1e3 * steps, self.ms),
        }


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """Of a prompt of `total` tokens so many are in the KV cache or on their way to it; `cached` were there before."""

    total: int
    cached: int
    processed: int
    ms: float

    def to_json(self) -> dict[str, JsonValue]:
        """`prompt_progress` of a chunk."""
        return {"total": self.total, "cache": self.cached, "processed": self.processed, "time_ms": self.ms}

    def timings(self) -> Timings:
        """The timings of a generation that is at its prompt."""
        return Timings(self.cached, self.processed - self.cached, self.ms)


class Stopwatch:
    """Follows one generation whose prompt began to be computed at `began` (time.monotonic)."""

    def __init__(self, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._first = self._last = 0.0

    def token(self) -> None:
        """The next token has come."""
        self._last = time.monotonic()
        self._first = self._first or self._last

    def timings(self, began: float, cached: int, tokens: int) -> Timings:
        """The times so far, when `tokens` have been generated, and `cached` tokens of the prompt were in the cache."""
        prompt_ms = max(milliseconds(self._first - began), 0.001)
        return Timings(cached, self._prompt_tokens - cached, prompt_ms, tokens, milliseconds(self._last - self._first))


def milliseconds(seconds: float) -> float:
    """To the microsecond."""
    return round(1e3 * seconds, 3)


def _ratio(a: float, b: float) -> float:
    return a / b if b else 0.0
