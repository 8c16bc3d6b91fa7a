"""What one generation is asked for, whatever protocol it came by."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imp_runtime.sampling import SamplingParams
from imp_server.generation.constraint import Constraint
from imp_server.generation.events import ReplyParser


class ThinkWatch:
    """Follows by token ids whether a reply is in its reasoning part.

    `opening` and `closing` are the token ids of the tags; `inside` says how the prompt left it. Ids, not text, because
    the engine's thread asks between two steps.
    """

    def __init__(self, opening: Sequence[int], closing: Sequence[int], *, inside: bool) -> None:
        self._opening = tuple(opening)
        self._closing = tuple(closing)
        self.inside = inside
        self.tokens = 0
        self._recent: deque[int] = deque(maxlen=max(len(opening), len(closing), 1))

    def accept(self, token: int) -> None:
        """The next token of the reply."""
        self._recent.append(token)
        if self.inside:
            self.tokens += 1
        tag = self._closing if self.inside else self._opening
        if tag and tuple(self._recent)[-len(tag) :] == tag:
            self.inside = not self.inside
            self._recent.clear()


@dataclass(frozen=True, slots=True)
class ThinkBudget:
    """At most `tokens` tokens of reasoning; then `closing` is put in the model's mouth.

    `tags` are the token ids that open and close reasoning; `inside` says whether the prompt has opened it.
    """

    tokens: int
    closing: tuple[int, ...]
    tags: tuple[tuple[int, ...], tuple[int, ...]]
    inside: bool

    def watch(self) -> ThinkWatch:
        """What follows one reply."""
        return ThinkWatch(*self.tags, inside=self.inside)


@dataclass(frozen=True, slots=True)
class Request:
    """One generation, whatever protocol it came by: token ids in, sampling, strings that end it.

    `parser` makes a fresh one for every run. Without a parser all text is content, and special tokens
    are left out of it. `keep_stop` leaves the stop string in the text. Beside it the events tell the `progress` of the
    prompt, if `timed` the times of every piece, and if `with_tokens` the ids behind each text.
    """

    prompt: tuple[int, ...]
    params: SamplingParams
    stop: tuple[str, ...] = ()
    parser: Callable[[], ReplyParser] | None = None
    constraint: Constraint | None = None
    budget: ThinkBudget | None = None
    keep_stop: bool = False
    progress: bool = False
    timed: bool = False
    with_tokens: bool = False
