"""BF16: the rows of a file's BF16 as they are. 2.25 instructions a weight."""

from __future__ import annotations

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.layouts import Layout


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name == "BF16" else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes]:
    return (raw,)


def _decode(fmt: Format, raw: Bytes) -> Floats:
    return fmt.dequantize(raw)


LAYOUT = Layout(
    name="BF16",
    activation="bf16",
    tile_weights=2048,
    planes=1,
    halfs=True,
    sections=(Part(2, 1),),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
