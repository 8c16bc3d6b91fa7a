"""F32: the rows of a file's F32 as they are. 1.50 instructions a weight."""

from __future__ import annotations

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.layouts import Layout


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name == "F32" else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes]:
    return (raw,)


def _decode(fmt: Format, raw: Bytes) -> Floats:
    return fmt.dequantize(raw)


LAYOUT = Layout(
    name="F32",
    activation="bf16",
    tile_weights=1024,
    planes=3,
    halfs=False,
    sections=(Part(4, 1),),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
