"""What a grammar tells the engine: which tokens may come next."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt


class TokenMask(Protocol):
    """The grammar of one sequence. No method may raise: one that is in trouble says that it is done."""

    def mask(self) -> npt.NDArray[np.uint32] | None:
        """Bit t % 32 of word t // 32: token t may come next, uint32 [ceil(vocab / 32)]; None while anything may."""
        ...

    def accept(self, token: int) -> None:
        """Token `token` came next. The token that ends the sequence is not reported."""
        ...

    def done(self) -> bool:
        """Whether the grammar is complete, so that only a stop token may follow."""
        ...


def pack_bits(allowed: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    """The mask of a bool [vocab]: uint32 [ceil(vocab / 32)]."""
    padded = np.zeros(-(-len(allowed) // 32) * 32, np.bool_)
    padded[: len(allowed)] = allowed
    return np.packbits(padded, bitorder="little").view(np.uint32)


def unpack_bits(mask: npt.NDArray[np.uint32], vocab: int) -> npt.NDArray[np.bool_]:
    """The bool [vocab] of a mask."""
    return np.unpackbits(mask.view(np.uint8), count=vocab, bitorder="little").astype(np.bool_)
