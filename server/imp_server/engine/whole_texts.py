"""What is wanted of texts that run whole: embeddings, and what tokens were worth. numpy leaves Python's lock alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from imp_runtime.plan import Pooling
from imp_server.engine.messages import Scored
from imp_server.generation.events import FLOOR


def pooled(hidden: npt.NDArray[np.float32], pooling: Pooling) -> npt.NDArray[np.float32]:
    """The embeddings of a text whose final hidden states are `hidden` [tokens, width]: float32 [vectors, width].

    One of length one, or with `none` a vector of each token as it is.
    """
    if pooling == "none":
        return hidden
    places = {"cls": slice(1), "last": slice(-1, None)}
    mean: npt.NDArray[np.float64] = hidden[places.get(pooling, slice(None))].mean(axis=0, dtype=np.float64)
    return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)[None]


def scored(tokens: Sequence[int], logits: npt.NDArray[np.float32], top: int) -> list[Scored]:
    """Of every token but the first its log-probability and the `top` best; `logits` [tokens, vocab] follow each."""
    found = []
    for token, row in zip(tokens[1:], logits[:-1], strict=True):
        shifted = row.astype(np.float64) - row.max()
        logprobs = np.maximum(shifted - np.log(np.exp(shifted).sum()), FLOOR)
        best = np.argsort(-logprobs, kind="stable")[:top]
        found.append(Scored(float(logprobs[token]), tuple((int(i), float(logprobs[i])) for i in best)))
    return found
