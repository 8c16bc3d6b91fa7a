"""TQ1_0: six bytes a block of 32 with five codes each as in the file, and four bits with two.

Code n of byte i < 4 is weight 4 n + i, of byte 4 + i weight 20 + 2 n + i; the four bits are three times weight 30 plus
weight 31. First a word a block, then two bytes, then a nibble, then all d: 1.6875 bits, as in the file, and 1.90
instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.layouts import Layout, scaled

_POWERS = np.array([81, 27, 9, 3, 1], np.uint16)


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name == "TQ1_0" else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, ...]:
    assert fmt.codes is not None
    rows = len(raw)
    codes, d = fmt.codes.split(raw)
    blocks = codes.reshape(rows, -1, 32)
    last: Bytes = (blocks[..., 30] * 3 + blocks[..., 31]).astype(np.uint8)
    nibbles: Bytes = last[:, ::2] | last[:, 1::2] << np.uint8(4)
    return _fives(blocks[..., :20]), _fives(blocks[..., 20:30]), nibbles, d


def _fives(codes: Bytes) -> Bytes:
    """Bytes of five codes, uint8[rows, blocks, 5 n], as uint8[rows, blocks * n]."""
    numbers = (codes.reshape(*codes.shape[:2], 5, -1) * _POWERS[:, None]).sum(axis=2)
    packed: Bytes = ((numbers * 256 + 242) // 243).astype(np.uint8)
    return packed.reshape(len(codes), -1)


def _decode(fmt: Format, words: Bytes, halves: Bytes, nibbles: Bytes, d: Bytes) -> Floats:
    rows = len(words)
    codes = []
    for part, count in ((words, 4), (halves, 2)):
        left = part.reshape(rows, -1, count).astype(np.uint16)
        for _ in range(5):
            left = (left & np.uint16(255)) * np.uint16(3)
            codes.append((left >> 8).astype(np.uint8))
    last = np.stack([nibbles & 15, nibbles >> 4], axis=-1).reshape(rows, -1)
    codes += [(last // 3)[..., None], (last % 3)[..., None]]
    return scaled(np.concatenate(codes, axis=-1).reshape(rows, -1).astype(np.float32) - 1, d)


LAYOUT = Layout(
    name="TQ1_0",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(4, 32), Part(2, 32), Part(1, 64), Part(2, 256)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
