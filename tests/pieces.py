"""Emitted sources for GPUs as nvcc compiles them: in two pieces, so that the ends of all models are compiled once."""

from __future__ import annotations

from collections.abc import Mapping

from imp_codegen.build import Unit, build
from imp_codegen.emit import Emitted


def build_pieces(emitted: Mapping[str, Emitted]) -> dict[str, tuple[tuple[bytes, ...], str]]:
    """By target: the code objects of its pieces, and what nvcc said of all."""
    units = [Unit(target, "nvcc", piece) for target, each in emitted.items() for piece in (each.own, each.shared)]
    built = build(tuple(units))
    return {
        target: ((own.code, shared.code), own.log + shared.log)
        for target, own, shared in zip(emitted, built[::2], built[1::2], strict=True)
    }
