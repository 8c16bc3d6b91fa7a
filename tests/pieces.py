"""Emitted sources for GPUs as nvcc compiles them: in two pieces, so that the ends of all models are compiled once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from imp_codegen.build import Unit, build
from imp_codegen.emit import Emitted
from imp_codegen.targets import Target, find_target


def build_pieces(emitted: Mapping[str, Emitted]) -> dict[str, tuple[tuple[bytes, ...], str]]:
    """By target: the code objects of its pieces, and what nvcc said of all."""
    units = [Unit(target, "nvcc", piece) for target, each in emitted.items() for piece in (each.own, each.shared)]
    built = build(tuple(units))
    return {
        target: ((own.code, shared.code), own.log + shared.log)
        for target, own, shared in zip(emitted, built[::2], built[1::2], strict=True)
    }


def with_one_chunk(name: str, which: int) -> Target:
    """The target with the `which`-th of its chunks only, and no batches: each takes nvcc seconds."""
    target = find_target(name)
    return replace(target, chunks=(target.chunks[which],), batches=())
