"""Writes an `.impc` (its format: artifact.py): whole, with the checksums of what it holds, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imp_runtime.artifact import (
    ALIGNMENT,
    CHECKSUMS,
    FORMAT_VERSION,
    MAX_HEADER_BYTES,
    PLAN,
    RECIPE,
    REQUIRED_METADATA,
    RUNTIME,
    ArtifactError,
    padded,
)
from imp_runtime.checksums import SIZE, Checksum, checksum
from imp_runtime.plan import Plan, Plane
from imp_runtime.plan_check import WEIGHTS, check_plan
from imp_runtime.version import READ_BY

_ZEROS = bytes(ALIGNMENT)

Chunk = bytes | memoryview | npt.NDArray[np.generic]


def write_artifact(
    path: Path,
    plan: Plan,
    blobs: Mapping[str, bytes],
    metadata: Mapping[str, str],
    planes: Iterable[tuple[str, Iterable[Chunk]]],
) -> None:
    """Write `path` atomically: whole and synchronised to disk, or not at all.

    `blobs` are every blob but plan.json; `metadata` holds at least `imp_version`; `planes` yields
    (name, chunks) in the order of `plan.planes`, each exactly as long as the plan says; a thin artifact, one with a
    recipe among its blobs, has none. Raises ArtifactError when the
    disk does not take the file, PlanError when the plan is not sound, ValueError when planes and plan disagree.
    """
    path = Path(path)
    check_plan(plan)
    if missing := [key for key in REQUIRED_METADATA if key not in metadata]:
        raise ValueError(f"metadata lacks {', '.join(missing)}")
    as_read = Plan.from_json(plan.to_json())  # so that one that was read is written again as it was: 0 us as 0.0
    contents = {PLAN: as_read.to_json().encode(), **dict(sorted(blobs.items()))}
    if any(name.startswith(WEIGHTS) or name in (PLAN, CHECKSUMS, "__metadata__") for name in blobs):
        raise ValueError("a blob must not be named plan.json, checksums, __metadata__ or weights/...")
    if missing := [target.code for target in plan.targets if target.code not in blobs]:
        raise ValueError(f"blobs lack {', '.join(missing)}")
    wanted = () if RECIPE in blobs else plan.planes
    lengths = _lengths(wanted, contents)
    header = _header(lengths, metadata)
    total = len(header) + sum(map(padded, lengths.values()))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _remove_abandoned(path)
    try:
        free = shutil.disk_usage(path.parent).free
        if free < total:
            raise ArtifactError(f"{path}: needs {total:,} bytes but the disk has {free:,} left; free some space")
        with temporary.open("xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # so that others see that somebody writes it
            file.write(header)
            sums = bytearray()
            for content in contents.values():
                file.write(_filled(content))
                sums += checksum(content)
            for chunk in _checked_planes(wanted, planes, sums):
                file.write(chunk)
            file.write(_filled(bytes(sums)))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written: {error.strerror or error}; nothing was changed") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _remove_abandoned(path: Path) -> None:
    """Remove what processes have left that were killed while they wrote `path`."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def _filled(content: bytes) -> bytes:
    return content.ljust(padded(len(content)), b"\0")


def _lengths(wanted: Sequence[Plane], contents: Mapping[str, bytes]) -> dict[str, int]:
    """The true length of every tensor, in file order."""
    blobs = {name: len(content) for name, content in contents.items()}
    planes = {WEIGHTS + plane.name: plane.nbytes for plane in wanted}
    return {**blobs, **planes, CHECKSUMS: SIZE * (len(blobs) + len(planes))}


def _header(lengths: Mapping[str, int], metadata: Mapping[str, str]) -> bytes:
    blobs = {name: length for name, length in lengths.items() if not name.startswith(WEIGHTS)}
    facts = {
        RUNTIME: READ_BY,
        **metadata,  # of a thin artifact that is linked it has the range of who compiled it
        "format": "impc",
        "format_version": FORMAT_VERSION,
        "lengths": json.dumps(blobs, sort_keys=True, separators=(",", ":")),
    }
    table: dict[str, object] = {"__metadata__": dict(sorted(facts.items()))}
    at = 0
    for name, size in zip(lengths, map(padded, lengths.values()), strict=True):
        table[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(table, separators=(",", ":")).encode()
    text = text.ljust(padded(8 + len(text)) - 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"the header has {len(text)} bytes, more than {MAX_HEADER_BYTES}")
    return len(text).to_bytes(8, "little") + text


def _checked_planes(
    wanted: Sequence[Plane], planes: Iterable[tuple[str, Iterable[Chunk]]], sums: bytearray
) -> Iterator[memoryview]:
    """The bytes of all planes with their paddings; ValueError where they differ from the plan.

    The checksum of each is added to `sums`.
    """
    given = iter(planes)
    for plane in wanted:
        name, chunks = next(given, ("nothing", ()))
        if name != plane.name:
            raise ValueError(f"the next plane must be {plane.name!r}, not {name!r}")
        done, total = 0, Checksum()
        for chunk in chunks:
            view = chunk.reshape(-1).view(np.uint8).data if isinstance(chunk, np.ndarray) else memoryview(chunk)
            done += len(view)
            if done > plane.nbytes:
                break
            total.add(view)
            yield view
        if done != plane.nbytes:
            raise ValueError(f"plane {name!r} must have {plane.nbytes} bytes, not {done}")
        sums += total.value
        yield memoryview(_ZEROS)[: padded(done) - done]
    if (extra := next(given, None)) is not None:
        raise ValueError(f"plane {extra[0]!r} is not in the plan")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
