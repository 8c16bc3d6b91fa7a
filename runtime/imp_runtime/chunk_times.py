"""How many rows of prompts a time is enough for: by the compiler's predictions, corrected by what the device takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chunk:
    """A program of `rows` rows, and how long a full run of one sequence takes: its first rows, and its last ones."""

    rows: int
    first_us: float
    last_us: float


class ChunkTimes:
    """Times of the programs of prompts, `chunks` in ascending order, in a context of `context` positions.

    What one chunk took corrects what is expected of the next one, which is of about as many rows nearly at the same
    position, with the same sequences beside it. So one factor for all is enough, however a prediction errs.
    """

    def __init__(self, chunks: Sequence[Chunk], context: int) -> None:
        self._chunks = chunks
        self._context = context
        self._factor = 1.0

    def rows_in(self, us: float, position: int) -> int:
        """As many rows as `us` is enough for from `position` on, of the smallest program at least, all at most."""
        us /= self._factor
        before, smaller = 0.0, 0
        for chunk in self._chunks:
            time = self._full(chunk, position)
            if time > us:
                share = max(us - before, 0) / (time - before)
                return smaller + int((chunk.rows - smaller) * share) if smaller else chunk.rows
            before, smaller = time, chunk.rows
        return smaller

    def predicted_us(self, rows: int, position: int) -> float:
        """What the compiler says of `rows` rows; between two programs a time between theirs."""
        before, smaller = 0.0, 0
        for chunk in self._chunks:
            time = self._full(chunk, position)
            if rows <= chunk.rows:
                share = (rows - smaller) / (chunk.rows - smaller)
                return before + (time - before) * share if smaller else time
            before, smaller = time, chunk.rows
        return before

    def took(self, predicted_us: float, us: float) -> None:
        """A chunk of that prediction took so long; half of what was wrong is corrected, as times vary."""
        self._factor = (self._factor + us / predicted_us) / 2

    def _full(self, chunk: Chunk, position: int) -> float:
        return chunk.first_us + (chunk.last_us - chunk.first_us) * min(position / self._context, 1)
