"""Which tokens of a reply its content consists of: the ones whose log-probabilities are shown with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from imp_server.generation.events import Place, TokenLogprob


@dataclass(slots=True)
class _Token:
    """A token and the place of its text; `reached` is how far the content went with it, where it has begun to."""

    logprob: TokenLogprob
    place: Place
    reached: int | None = None


class ContentTokens:
    """The tokens of a reply in their order, until it is known of each whether the content has its text.

    Places count the characters of the whole reply; what is shown is counted in characters of the content. A token that
    is content in part counts as content; tokens that make one character between them all have its place.
    """

    def __init__(self) -> None:
        self._heard = 0
        self._unspelled: list[TokenLogprob] = []
        self._waiting: deque[_Token] = deque()
        self._ready: deque[tuple[TokenLogprob, int]] = deque()

    def add(self, logprob: TokenLogprob) -> None:
        """A token has been generated; its text comes next, or with a later token's."""
        self._unspelled.append(logprob)

    def heard(self, text: str) -> Place:
        """`text` has come, of all tokens since the last; its place."""
        place = self._heard, self._heard + len(text)
        self._heard = place[1]
        if text:
            self._waiting.extend(_Token(each, place) for each in self._unspelled)
            self._unspelled = []
        return place

    def content(self, places: Iterable[Place], reach: Callable[[int], int]) -> None:
        """What stands at `places` is content; `reach` says how far the content goes with so many of its characters."""
        done = 0
        for start, end in places:
            while self._waiting and self._waiting[0].place[0] < end:
                token = self._waiting[0]
                if token.place[1] > start:
                    token.reached = reach(done + min(token.place[1], end) - start)
                    if token.place[1] > end:
                        break
                self._settle()
            done += end - start

    def end(self, *, all_is_content: bool) -> None:
        """The reply has ended; with `all_is_content`, tokens without a text are part of it."""
        while self._waiting:
            self._settle()
        if all_is_content:
            self._ready.extend((each, 0) for each in self._unspelled)

    def shown(self, length: int) -> tuple[TokenLogprob, ...]:
        """The tokens that are complete in the first `length` characters of the content, each once."""
        found = []
        while self._ready and self._ready[0][1] <= length:
            found.append(self._ready.popleft()[0])
        return tuple(found)

    def _settle(self) -> None:
        token = self._waiting.popleft()
        if token.reached is not None:
            self._ready.append((token.logprob, token.reached))
