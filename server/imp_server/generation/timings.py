"""How long a generation took, as llama-server tells it: prompt and answer apart."""

from __future__ import annotations

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


def milliseconds(seconds: float) -> float:
    """To the microsecond."""
    return round(1e3 * seconds, 3)


def _ratio(a: float, b: float) -> float:
    return a / b if b else 0.0
