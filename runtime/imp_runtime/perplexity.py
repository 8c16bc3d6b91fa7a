"""Perplexity of a text as llama-perplexity defines it (its `perplexity()`), and the divergence from another model.

A text's tokens are cut into chunks of `context`, each run by itself; what is left at the end is not run. Where the
model wants a beginning-of-sequence token it takes the place of a chunk's first one. Scored are the tokens of a chunk's
second half, from number context // 2 + 1 on (of 512: 257 to 511, 255 tokens), each by the logits at the one before it.
Perplexity is exp(mean of -ln p) over all that are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from imp_runtime.divergence import Divergence, Doubles, Mean, Rows, divergence, log_softmax, perplexity_of
from imp_runtime.errors import ImpError

Chunks = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
LEAST_CONTEXT = 8
ROWS = 32
"""So many rows at a time are worked on in float64: 40 MB each with a vocabulary of 152,000."""


class Logits(Protocol):
    """What is asked of an engine."""

    def logits_in_parts(self, tokens: Sequence[int], first: int = 0) -> Iterator[Floats]:
        """Logits at the positions from `first` on: float32 [some, vocab] each."""


@dataclass(frozen=True, slots=True)
class Score:
    """A text's perplexity, and the divergence where there was a base."""

    perplexity: Mean
    scored: int
    divergence: Divergence | None


def scored(context: int) -> int:
    """Tokens of a chunk that are scored."""
    return context - 1 - context // 2


def chunks_of(tokens: Sequence[int], context: int, begin: int | None) -> Chunks:
    """The chunks of a text: int64 [chunks, context]. `begin` takes the place of each first token.

    Raises ImpError for a context or a text that is too short.
    """
    if context < LEAST_CONTEXT:
        raise ImpError(f"a chunk of {context} tokens is too short to score, expected at least {LEAST_CONTEXT}")
    count = len(tokens) // context
    if not count:
        raise ImpError(f"the text has {len(tokens)} tokens, a chunk {context}; give a longer text or a shorter context")
    chunks = np.array(tokens[: count * context], np.int64).reshape(count, context)
    if begin is not None:
        chunks[:, 0] = begin
    return chunks


def scored_logits(engine: Logits, chunks: Chunks) -> Iterator[Floats]:
    """Logits from which the scored tokens are told, of a chunk at most ROWS at a time: float32 [some, vocab]."""
    for chunk in chunks:
        yield from _recut(engine.logits_in_parts(chunk[:-1].tolist(), len(chunk) // 2), ROWS)


def measure(
    logits: Iterable[Floats],
    chunks: Chunks,
    progress: Callable[[str, int, int], None],
    *,
    base: Iterable[Floats] | None = None,
    save: Callable[[Doubles], None] | None = None,
) -> Score:
    """The score of `chunks` by `logits`, and beside `base` where there is one; both as scored_logits has them.

    `save` gets the log-probabilities, float64 [some, vocab]. Raises ImpError where logits are not all finite numbers.
    """
    context = chunks.shape[1]
    first = context // 2
    own: list[Doubles] = []
    compared: list[Rows] = []
    both = zip(logits, base, strict=True) if base is not None else ((rows, None) for rows in logits)
    done, total = 0, chunks.shape[0] * scored(context)
    progress("perplexity", 0, total)
    for rows, other in both:
        chunk, place = divmod(done, scored(context))
        at = first + 1 + place
        found = _log_probabilities(rows, "the model", chunk * context + at)
        tokens = chunks[chunk, at : at + len(rows)]
        own.append(found[np.arange(len(tokens)), tokens])
        if other is not None:
            compared.append(Rows.compare(_log_probabilities(other, "the base", chunk * context + at), found, tokens))
        if save is not None:
            save(found)
        done += len(rows)
        progress("perplexity", done, total)
    return Score(perplexity_of(np.concatenate(own)), done, divergence(compared) if compared else None)


def _log_probabilities(logits: Floats, whose: str, at: int) -> Doubles:
    if not np.isfinite(logits).all():
        bad = at + int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        raise ImpError(
            f"the logits of {whose} for token {bad} of the text are not all finite numbers; check the artifact with "
            "imp verify, and the weights for values that overflow"
        )
    return log_softmax(logits)


def _recut(parts: Iterable[Floats], count: int) -> Iterator[Floats]:
    """The same rows, `count` at a time."""
    rest: Floats | None = None
    for part in parts:
        rest = part if rest is None or not len(rest) else np.concatenate([rest, part])
        while len(rest) >= count:
            yield rest[:count]
            rest = rest[count:]
    if rest is not None and len(rest):
        yield rest
