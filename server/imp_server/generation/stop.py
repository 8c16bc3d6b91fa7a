"""Stop strings: text is let through up to the first stop string, wherever the borders between tokens fall."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Feeds on text piece by piece and gives back what may be shown.

    It holds back only the longest end of the text that is a proper beginning of some stop string. The stop string that
    is complete first wins (of two that end at the same character the longer one), so the outcome is the same however
    the text is cut into pieces. The stop string itself is never given back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._longest = max((len(stop) for stop in self._stops), default=0)
        self._held = ""
        self.matched: str | None = None

    def push(self, piece: str) -> str:
        """The text that may be shown now. After a match (`matched` is set) it is empty for ever."""
        if self.matched is not None:
            return ""
        if not self._stops:
            return piece
        text = self._held + piece
        hits = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if hits:
            _, start, self.matched = min(hits)
            self._held = ""
            return text[:start]
        border = len(text) - self._suffix(text)
        self._held = text[border:]
        return text[:border]

    def flush(self) -> str:
        """The text that was held back, when the generation ends without a match."""
        held, self._held = self._held, ""
        return held

    def _suffix(self, text: str) -> int:
        """Length of the longest end of `text` that is a proper beginning of a stop string."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-length:]
            if any(len(stop) > length and stop.startswith(end) for stop in self._stops):
                return length
        return 0
