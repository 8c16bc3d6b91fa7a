"""FP8: F8_E4M3 codes as they are, and a float32 scale per 128 of them; the last of a row may be for fewer.

A row's own scale is stored again for each 128 codes, and 1 where there is none: 3 % more bytes than the file has, and
one kernel for all of them. 1.41 instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import E4M3, Bytes, Floats, Format, Part
from imp_codegen.layouts import Layout

_BLOCK = 128


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name in ("F8_E4M3", "FP8_BLOCKS", "FP8_ROWS") else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes]:
    cols = fmt.cols(raw.shape[1])
    groups = -(-cols // _BLOCK)
    match fmt.name:
        case "FP8_BLOCKS":
            scales = np.ascontiguousarray(raw[:, cols:])
        case "FP8_ROWS":
            scales = np.tile(raw[:, cols:], groups)
        case _:
            scales = np.ones((len(raw), groups), "<f4").view(np.uint8)
    return raw[:, :cols], scales


def _decode(fmt: Format, codes: Bytes, scales: Bytes) -> Floats:
    wide = np.repeat(np.ascontiguousarray(scales).view("<f4"), _BLOCK, axis=1)[:, : codes.shape[1]]
    with np.errstate(invalid="ignore", over="ignore"):  # a file may hold any scales; they are its values
        weights: Floats = E4M3[codes] * wide
    return weights


LAYOUT = Layout(
    name="FP8",
    activation="f16",
    tile_weights=4096,
    halfs=True,
    ragged=32,
    sections=(Part(1, 1), Part(4, _BLOCK)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
