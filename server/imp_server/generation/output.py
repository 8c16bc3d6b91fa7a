"""A token of a reply as it comes from an engine, in this process or another."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol


class Token(Protocol):
    """`finish` says why it is the last one; with "error" there is none, since the logits were no finite numbers.

    Where it was asked for: `logprob` of the token and `top`, the best tokens with theirs, best first.
    """

    @property
    def token(self) -> int: ...  # noqa: D102
    @property
    def finish(self) -> Literal["stop", "length", "error"] | None: ...  # noqa: D102
    @property
    def logprob(self) -> float | None: ...  # noqa: D102
    @property
    def top(self) -> tuple[tuple[int, float], ...]: ...  # noqa: D102


class Output(NamedTuple):
    """A Token that has come from another process."""

    token: int
    finish: Literal["stop", "length", "error"] | None
    logprob: float | None
    top: tuple[tuple[int, float], ...]
