"""Q5_K: codes of five bits as `_five_bits.py` has them; then per superblock 16 bytes of scales (`_k_scales.py`).

5.5 bits and 1.36 instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.layouts import Layout
from imp_codegen.layouts._five_bits import pack_five, unpack_five
from imp_codegen.layouts._k_scales import pack_scales, weigh

_BLOCK = np.dtype([("d", "V4"), ("scales", "V12"), ("qh", "V32"), ("qs", "V128")])


def _codes(qs: Bytes, qh: Bytes) -> Bytes:
    words = qs.view("<u8").reshape(-1, 4, 4)  # superblock, chunk of 32 bytes, word
    high = qh.view("<u8").reshape(-1, 4)
    codes = np.empty((len(words), 4, 2, 4), "<u8")  # block of the chunk
    low = np.uint64(0x0F0F0F0F0F0F0F0F)
    fifth = np.uint64(0x0101010101010101)
    for block in range(8):
        chunk, half = divmod(block, 2)
        codes[:, chunk, half] = words[:, chunk] >> np.uint64(4 * half) & low
        codes[:, chunk, half] |= (high >> np.uint64(block) & fifth) << np.uint64(4)
    return codes.reshape(-1).view(np.uint8)


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes, Bytes]:
    rows, blocks = len(raw), raw.view(_BLOCK)
    d, scales, qh, qs = (
        np.ascontiguousarray(blocks[field]).reshape(-1).view(np.uint8) for field in ("d", "scales", "qh", "qs")
    )
    codes, rest = pack_five(_codes(qs, qh).reshape(rows, -1))
    return codes, rest, pack_scales(d, scales).reshape(rows, -1)


def _decode(fmt: Format, codes: Bytes, rest: Bytes, meta: Bytes) -> Floats:
    return weigh(unpack_five(codes, rest).reshape(len(codes), -1, 8, 32).astype(np.float32), meta)


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name == "Q5_K" else None


LAYOUT = Layout(
    name="Q5_K",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(16, 32), Part(4, 32), Part(16, 256)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
