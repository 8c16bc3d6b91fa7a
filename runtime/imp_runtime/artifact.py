"""The `.impc` container: a safetensors file that holds one compiled model.

Format (https://github.com/huggingface/safetensors, README, "Format"): eight bytes little-endian header length, the
header as JSON that may end in spaces, then the tensors' bytes without holes. Here every tensor is U8 of one dimension;
the header is padded so that the data begins at a multiple of 256 bytes, and every tensor's length is padded with zeros
to a multiple of 256, so that each begins aligned in the file. True lengths: a plane's in the plan, a blob's in
`__metadata__["lengths"]`.

Blobs come first ("plan.json", "tokenizer.json", "code/<target>", ...), then the packed weights ("weights/<plane>") in
the plan's order. The same content gives the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from imp_runtime.errors import ImpError
from imp_runtime.plan import Plan, PlanError
from imp_runtime.plan_check import WEIGHTS, check_plan
from imp_runtime.text import visible

FORMAT_VERSION = "1"
ALIGNMENT = 256
MAX_HEADER_BYTES = 16 << 20
PLAN = "plan.json"
REQUIRED_METADATA = ("imp_version", "model_hash")
_ZEROS = bytes(ALIGNMENT)

Chunk = bytes | memoryview | npt.NDArray[np.generic]


class ArtifactError(ImpError):
    """The file is not an artifact that this version can read, or it could not be written."""


def is_artifact(path: Path) -> bool:
    """Whether a file says that it is an artifact, of whatever version; OSError if it cannot be read."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        head = file.read(length) if length <= MAX_HEADER_BYTES else b""
    try:
        header = json.loads(head)
    except (ValueError, RecursionError):
        return False
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return isinstance(metadata, dict) and metadata.get("format") == "impc"


def padded(nbytes: int) -> int:
    """`nbytes` rounded up to the alignment of planes and blobs."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True)
class Artifact:
    """An open, memory-mapped `.impc` file whose header, sizes, paddings and plan have been checked."""

    path: Path
    plan: Plan
    metadata: Mapping[str, str]
    _data: npt.NDArray[np.uint8]
    _tensors: Mapping[str, tuple[int, int]]

    @staticmethod
    def open(path: Path) -> Artifact:
        """Open and check; nothing in the file is executed. Raises ArtifactError or PlanError."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < 8:
                    raise ArtifactError(f"{path}: {size} bytes is too short for an .impc file; compile the model again")
                data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from None
        if data[:4].tobytes() == b"GGUF":
            raise ArtifactError(
                f"{path}: is a GGUF file, not a compiled model; compile it first: "
                f"imp compile {path} -o {path.stem}.impc"
            )
        extents, metadata = _read_header(path, data)
        lengths = _read_lengths(path, metadata, extents)
        tensors = {name: (extents[name][0], length) for name, length in lengths.items()}
        if PLAN not in tensors:
            raise ArtifactError(
                f"{path}: has no {PLAN}; it is not an .impc file or it is damaged: compile the model again"
            )
        begin, length = tensors[PLAN]
        try:
            plan = Plan.from_json(data[begin : begin + length].tobytes())
            check_plan(plan)
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from None
        _add_planes(path, plan, extents, tensors)
        for name, (begin, length) in tensors.items():
            if np.any(data[begin + length : begin + padded(length)]):
                raise ArtifactError(
                    f"{path}: the padding of {name!r} is not zero; the file is damaged, compile the model again"
                )
        for target in plan.targets:
            if target.code not in lengths:
                raise ArtifactError(
                    f"{path}: has no tensor {target.code!r:.80}, the code of target {target.target!r:.80}"
                )
        public = {key: value for key, value in metadata.items() if key != "lengths"}
        return Artifact(path, plan, MappingProxyType(public), data, MappingProxyType(tensors))

    def names(self) -> list[tuple[str, int]]:
        """Every blob and plane (`weights/...`) with its true length in bytes, in file order."""
        return [(name, length) for name, (_, length) in self._tensors.items()]

    def has(self, name: str) -> bool:
        """Whether there is a blob or plane (`weights/...`) of that name."""
        return name in self._tensors

    def read(self, name: str) -> bytes:
        """The bytes of a blob. Raises ArtifactError when there is none of that name."""
        return self._view(name).tobytes()

    def plane(self, name: str) -> npt.NDArray[np.uint8]:
        """The packed plane `name` (without `weights/`): uint8 [nbytes], read-only, memory-mapped."""
        return self._view(WEIGHTS + name)

    def _view(self, name: str) -> npt.NDArray[np.uint8]:
        if name not in self._tensors:
            raise ArtifactError(f"{self.path}: has no {name!r}; compile the model again with this version")
        begin, length = self._tensors[name]
        return self._data[begin : begin + length]


def _read_header(path: Path, data: npt.NDArray[np.uint8]) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Checked header: absolute [begin, end) of every tensor in file order, and `__metadata__`."""

    def bad(what: str) -> ArtifactError:
        return ArtifactError(f"{path}: {what}; it is not an .impc file or it is damaged: compile the model again")

    size = len(data)
    header_bytes = int.from_bytes(data[:8].tobytes(), "little")
    start = 8 + header_bytes
    if header_bytes > MAX_HEADER_BYTES or start > size:
        raise bad(
            f"header length {header_bytes} is more than the file's {size} bytes or the {MAX_HEADER_BYTES} allowed"
        )
    try:
        # The reference parser has its own idea of what is valid; a file must please both.
        with safe_open(path, framework="np"):
            pass
        header = json.loads(data[8:start].tobytes(), object_pairs_hook=_no_duplicates)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise bad(f"the header cannot be read ({str(error)[:200]})") from None
    if not isinstance(header, dict):
        raise bad("the header is not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise bad("__metadata__ is not a table of strings")
    for name in (*header, *(text for pair in metadata.items() for text in pair)):
        if name != visible(name):
            raise bad(f"the header holds a control character: {name!r:.80}")
    if metadata.get("format") != "impc":
        raise ArtifactError(
            f"{path}: is not an .impc file (__metadata__.format is {metadata.get('format')!r:.80}, not 'impc')"
        )
    if metadata.get("format_version") != FORMAT_VERSION:
        found = metadata.get("format_version")
        raise ArtifactError(
            f"{path}: format_version is {found!r:.80}, this version reads {FORMAT_VERSION!r}; compile the model again"
        )
    for key in REQUIRED_METADATA:
        if key not in metadata:
            raise bad(f"__metadata__ lacks {key}")
    if start % ALIGNMENT:
        raise bad(f"the data begins at byte {start}, not at a multiple of {ALIGNMENT}")
    extents: dict[str, tuple[int, int]] = {}
    for name, info in header.items():
        match info:
            case {"dtype": "U8", "shape": [int(n)], "data_offsets": [int(begin), int(end)]} if len(info) == 3:
                if not (0 <= begin <= end <= size - start and end - begin == n and n % ALIGNMENT == 0):
                    raise bad(f"tensor {name!r:.80}: shape [{n}] and data_offsets [{begin}, {end}] do not fit the file")
                extents[name] = (start + begin, start + end)
            case _:
                raise bad(f"tensor {name!r:.80} is not U8 of one dimension: {info!r:.120}")
    extents = dict(sorted(extents.items(), key=lambda item: item[1]))
    at = start
    for name, (begin, end) in extents.items():
        if begin != at:
            raise bad(f"tensor {name!r:.80} begins at byte {begin}, expected {at}")
        at = end
    if at != size:
        raise bad(f"the tensors end at byte {at} but the file has {size}")
    return extents, metadata


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _read_lengths(path: Path, metadata: Mapping[str, str], extents: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """True length of every blob, in file order."""
    try:
        lengths = json.loads(metadata.get("lengths", ""))
    except (ValueError, RecursionError):
        lengths = None
    if not isinstance(lengths, dict) or not all(type(value) is int for value in lengths.values()):
        raise ArtifactError(
            f"{path}: __metadata__.lengths is not a table of numbers; the file is damaged, compile the model again"
        )
    for name, length in lengths.items():
        begin, end = extents.get(name, (0, -1))
        if name.startswith(WEIGHTS) or length < 0 or padded(length) != end - begin:
            raise ArtifactError(
                f"{path}: lengths[{name!r:.80}] is {length}, which does not fit its tensor of {end - begin} bytes; "
                "the file is damaged, compile the model again"
            )
    return {name: lengths[name] for name in extents if name in lengths}


def _add_planes(
    path: Path, plan: Plan, extents: Mapping[str, tuple[int, int]], tensors: dict[str, tuple[int, int]]
) -> None:
    """Add the plan's planes to `tensors` and check that file and plan agree about which tensors there are."""
    for plane in plan.planes:
        name = WEIGHTS + plane.name
        begin, end = extents.get(name, (0, 0))
        if end - begin != padded(plane.nbytes):
            raise ArtifactError(
                f"{path}: plane {plane.name!r:.80} has {end - begin} bytes, the plan says {padded(plane.nbytes)}; "
                "the file is damaged, compile the model again"
            )
        tensors[name] = (begin, plane.nbytes)
    for name in extents:
        if name not in tensors:
            raise ArtifactError(
                f"{path}: tensor {name!r:.80} is named neither by lengths nor by the plan; compile the model again"
            )


def write_artifact(
    path: Path,
    plan: Plan,
    blobs: Mapping[str, bytes],
    metadata: Mapping[str, str],
    planes: Iterable[tuple[str, Iterable[Chunk]]],
) -> None:
    """Write `path` atomically: whole and synchronised to disk, or not at all.

    `blobs` are every blob but plan.json; `metadata` holds at least `imp_version` and `model_hash`; `planes` yields
    (name, chunks) in the order of `plan.planes`, each exactly as long as the plan says. Raises ArtifactError when the
    disk does not take the file, PlanError when the plan is not sound, ValueError when planes and plan disagree.
    """
    path = Path(path)
    check_plan(plan)
    if missing := [key for key in REQUIRED_METADATA if key not in metadata]:
        raise ValueError(f"metadata lacks {', '.join(missing)}")
    contents = {PLAN: plan.to_json().encode(), **dict(sorted(blobs.items()))}
    if PLAN in blobs or any(name.startswith(WEIGHTS) or name == "__metadata__" for name in blobs):
        raise ValueError("a blob must not be named plan.json, __metadata__ or weights/...")
    if missing := [target.code for target in plan.targets if target.code not in blobs]:
        raise ValueError(f"blobs lack {', '.join(missing)}")
    header = _header(plan, contents, metadata)
    total = len(header) + sum(padded(len(b)) for b in contents.values()) + sum(padded(p.nbytes) for p in plan.planes)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        free = shutil.disk_usage(path.parent).free
        if free < total:
            raise ArtifactError(f"{path}: needs {total:,} bytes but the disk has {free:,} left; free some space")
        with temporary.open("xb") as file:
            file.write(header)
            for content in contents.values():
                file.write(content)
                file.write(_ZEROS[: padded(len(content)) - len(content)])
            for chunk in _checked_planes(plan, planes):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written: {error.strerror or error}; nothing was changed") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _header(plan: Plan, contents: Mapping[str, bytes], metadata: Mapping[str, str]) -> bytes:
    lengths = {name: len(content) for name, content in contents.items()}
    sizes = [(name, padded(n)) for name, n in lengths.items()] + [
        (WEIGHTS + p.name, padded(p.nbytes)) for p in plan.planes
    ]
    facts = {
        **metadata,
        "format": "impc",
        "format_version": FORMAT_VERSION,
        "lengths": json.dumps(lengths, sort_keys=True, separators=(",", ":")),
    }
    table: dict[str, object] = {"__metadata__": dict(sorted(facts.items()))}
    at = 0
    for name, size in sizes:
        table[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(table, separators=(",", ":")).encode()
    text = text.ljust(padded(8 + len(text)) - 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"the header has {len(text)} bytes, more than {MAX_HEADER_BYTES}")
    return len(text).to_bytes(8, "little") + text


def _checked_planes(plan: Plan, planes: Iterable[tuple[str, Iterable[Chunk]]]) -> Iterator[memoryview]:
    """The bytes of all planes with their paddings; ValueError where they differ from the plan."""
    given = iter(planes)
    for plane in plan.planes:
        name, chunks = next(given, ("nothing", ()))
        if name != plane.name:
            raise ValueError(f"the next plane must be {plane.name!r}, not {name!r}")
        done = 0
        for chunk in chunks:
            view = chunk.reshape(-1).view(np.uint8).data if isinstance(chunk, np.ndarray) else memoryview(chunk)
            done += len(view)
            if done > plane.nbytes:
                break
            yield view
        if done != plane.nbytes:
            raise ValueError(f"plane {name!r} must have {plane.nbytes} bytes, not {done}")
        yield memoryview(_ZEROS)[: padded(done) - done]
    if (extra := next(given, None)) is not None:
        raise ValueError(f"plane {extra[0]!r} is not in the plan")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
