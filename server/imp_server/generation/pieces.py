"""Pieces of texts that were tokenized before: of a conversation that has grown, only its end has to be.

A tokenizer takes its added tokens (`<|im_start|>`) out of a text first, and tokenizes what lies between them by itself.
So a text may be cut at such a token, and its pieces, each with the tokens at its ends, give the tokens of the whole.
"""

from __future__ import annotations

import re
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

LEAST = 512  # characters of a piece: so few are tokenized again at once
MOST = 8 << 20  # characters of all pieces that are kept


class Pieces:
    """Encodes texts by pieces, and keeps these; from any thread.

    `whole` gives the token ids of a text. `added` finds what the tokenizer takes out of it before all else: the first
    added token, and of those that begin there the longest. `cuts` are the ids of those at which a text may be cut.
    """

    def __init__(self, whole: Callable[[str], list[int]], added: re.Pattern[str], cuts: dict[str, int]) -> None:
        self._whole = whole
        self._added = added
        self._cuts = cuts
        self._kept: OrderedDict[tuple[str, str, str], array[int]] = OrderedDict()
        self._characters = 0
        self._lock = threading.Lock()

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, as the tokenizer gives them for the whole of it."""
        if len(text) < LEAST:
            return self._whole(text)
        ids: list[int] = []
        for before, piece, after in self._cut(text):
            ids.extend(self._piece(before, piece, after))
            if after:
                ids.append(self._cuts[after])
        return ids

    def _cut(self, text: str) -> Iterator[tuple[str, str, str]]:
        """Pieces with the added tokens before and behind them, "" at the ends of the text."""
        before, start = "", 0
        for match in self._added.finditer(text):
            if match.start() - start >= LEAST and match[0] in self._cuts:
                yield before, text[start : match.start()], match[0]
                before, start = match[0], match.end()
        yield before, text[start:], ""

    def _piece(self, before: str, piece: str, after: str) -> Sequence[int]:
        key = (before, piece, after)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                return kept
        ids = self._whole(before + piece + after)
        found = array("i", ids[bool(before) : len(ids) - bool(after)])
        if len(piece) > MOST:
            return found
        with self._lock:
            if key not in self._kept:
                self._kept[key] = found
                self._characters += len(piece)
            while self._characters > MOST:
                (_, oldest, _), _ = self._kept.popitem(last=False)
                self._characters -= len(oldest)
        return found
