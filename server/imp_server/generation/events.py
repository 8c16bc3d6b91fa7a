"""What every API is fed with: `Started`, then `Text`, `Reasoning` and tool calls as they come, then `Finished`.

`Timings` are those of the events behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from imp_server.generation.timings import PromptProgress, Timings

FinishReason = Literal["stop", "length", "tool_calls"]
Bytes = bytes  # a field below has the name
Place = tuple[int, int]
FLOOR = -9999.0  # what JSON gets for a log-probability of minus infinity


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with the natural logarithm of its probability; `bytes` are its own, which need not be whole characters.

    `top` are the most probable tokens at its place as (token, bytes, logprob), best first; `top_ids` are their ids.
    """

    token: str
    bytes: Bytes
    logprob: float
    top: tuple[tuple[str, Bytes, float], ...] = ()
    id: int = -1
    top_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """First event of a generation: the engine has admitted it."""

    prompt_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Text:
    """Visible content; never empty unless log-probabilities or tokens are released.

    `tokens` are the ids behind it, where they were asked for. `places`: where in the reply's text a parser found it,
    from and to a character.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: tuple[int, ...] = ()
    places: tuple[Place, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What the model thinks before it answers; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolOpen:
    """A tool call begins; `index` counts the calls of the reply from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolArguments:
    """A piece of the JSON text of a call's arguments."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolClose:
    """A tool call is complete."""

    index: int


@dataclass(frozen=True, slots=True)
class Finished:
    """Last event of a generation. `stop_string` is the one that ended it, if one did."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    stop_string: str | None = None


Piece = Text | Reasoning | ToolOpen | ToolArguments | ToolClose
Event = Started | PromptProgress | Timings | Piece | Finished


class ReplyParser(Protocol):
    """Cuts the text of a reply, special tokens spelled out, into its pieces."""

    def push(self, text: str) -> Sequence[Piece]:
        """The pieces that are certain after `text`."""
        ...

    def finish(self, *, cut: bool = False) -> Sequence[Piece]:
        """What was held back, when the reply ends.

        With `cut` it ended before its time, and what may be the beginning of a call's markup is not shown as text.
        """
        ...
