"""The `.impc` container: a safetensors file that holds one compiled model.

Format (https://github.com/huggingface/safetensors, README, "Format"): eight bytes little-endian header length, the
header as JSON that may end in spaces, then the tensors' bytes without holes. Here every tensor is U8 of one dimension;
the header is padded so that the data begins at a multiple of 256 bytes, and every tensor's length is padded with zeros
to a multiple of 256, so that each begins aligned in the file. True lengths: a plane's in the plan, a blob's in
`__metadata__["lengths"]`.

Blobs come first ("plan.json", "tokenizer.json", "code/<target>", ...), then the packed weights ("weights/<plane>") in
the plan's order, at last "checksums": eight bytes for each tensor before it, of its content without the padding (see
checksums.py). The same content gives the same bytes.

`__metadata__["runtime"]` says which versions of imp read it, as pip writes it: `>=0.1.0,<0.2.0`; it is looked at before
all that other versions may have changed. `imp_version` is the one that wrote it.

A thin artifact has the blob "weights.json", the recipe for its weights, and no planes; `imp link` makes a whole one of
it, which has planes and no recipe and is otherwise the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from imp_runtime.checksums import SIZE, Comparison, checksum
from imp_runtime.errors import ImpError
from imp_runtime.plan import Plan, Plane, PlanError
from imp_runtime.plan_check import WEIGHTS, check_plan
from imp_runtime.text import visible
from imp_runtime.version import misfit

FORMAT_VERSION = "2"
ALIGNMENT = 256
MAX_HEADER_BYTES = 16 << 20
PLAN = "plan.json"
CHECKSUMS = "checksums"
RECIPE = "weights.json"
REQUIRED_METADATA = ("imp_version",)
RUNTIME = "runtime"


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
    _tensors: _Tensors

    @staticmethod
    def open(path: Path, *, thin: bool = False) -> Artifact:
        """Open and check; nothing in the file is executed. Raises ArtifactError or PlanError.

        `thin`: an artifact without weights will do, too.
        """
        path = Path(path)
        if path.is_dir():
            raise ArtifactError(
                f"{path}: is a folder, not a compiled model; compile it first: "
                f"imp compile {path} -o {path.resolve().name or 'model'}.impc"
            )
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
        tensors = _Tensors(path, data, {name: (extents[name][0], length) for name, length in lengths.items()}, {})
        for name in (PLAN, CHECKSUMS):
            if name not in lengths:
                raise ArtifactError(
                    f"{path}: has no {name}; it is not an .impc file or it is damaged: compile the model again"
                )
        if RECIPE in lengths and not thin:
            stem, _, thin_name = path.stem.rpartition(".thin")
            raise ArtifactError(
                f"{path}: is thin, it holds no weights; add those of its model first: "
                f"imp link {path} MODEL -o {'model' if thin_name else stem or 'model'}.impc"
            )
        tensors.read_checksums(list(extents))
        try:
            plan = Plan.from_json(tensors.intact(PLAN).tobytes())
            check_plan(plan)
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from None
        _add_planes(path, () if RECIPE in lengths else plan.planes, extents, tensors.places)
        for name, (begin, length) in tensors.places.items():
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
        return Artifact(path, plan, MappingProxyType(public), tensors)

    @property
    def thin(self) -> bool:
        """Whether it has a recipe for weights in place of weights."""
        return self.has(RECIPE)

    def in_graph_form(self, target: str) -> Artifact:
        """The same whose steps on `target` are graphs of kernels."""
        targets = (t.in_graph_form("as asked for") if t.target == target else t for t in self.plan.targets)
        return replace(self, plan=replace(self.plan, targets=tuple(targets)))

    def names(self) -> list[tuple[str, int]]:
        """Every blob and plane (`weights/...`) with its true length in bytes, in file order."""
        return [(name, length) for name, (_, length) in sorted(self._tensors.places.items(), key=lambda item: item[1])]

    def has(self, name: str) -> bool:
        """Whether there is a blob or plane (`weights/...`) of that name."""
        return name in self._tensors.places

    def read(self, name: str) -> bytes:
        """The bytes of a blob. Raises ArtifactError when there is none of that name, or when it is damaged."""
        return self._tensors.intact(name).tobytes()

    def plane(self, name: str) -> npt.NDArray[np.uint8]:
        """The packed plane `name` (without `weights/`): uint8 [nbytes], read-only, memory-mapped."""
        return self._tensors.view(WEIGHTS + name)

    def checksum(self, name: str) -> bytes:
        """What the file says is the checksum of a blob or plane; none of it is read."""
        return self._tensors.sums[name]

    @property
    def weights_hash(self) -> str:
        """Tells one model's weights from another's: 256 bits of the planes' names and checksums, in hexadecimal.

        A thin artifact has none.
        """
        digest = hashlib.sha256()
        for plane in self.plan.planes:
            digest.update(plane.name.encode() + b"\0" + self._tensors.sums[WEIGHTS + plane.name])
        return digest.hexdigest()

    @contextlib.contextmanager
    def compared(self) -> Iterator[None]:
        """Compare all blobs and planes with their checksums beside what the block does, on all cores.

        Raises ArtifactError at its end, naming the first that is damaged.
        """
        tensors = self._tensors
        with Comparison({name: (tensors.view(name).data, wanted) for name, wanted in tensors.sums.items()}) as found:
            yield
            if (name := found.different()) is not None:
                raise tensors.damaged(name)


@dataclass(frozen=True, slots=True)
class _Tensors:
    """Where each tensor's content begins in the file, its length, and what its checksum should be."""

    path: Path
    data: npt.NDArray[np.uint8]
    places: dict[str, tuple[int, int]]
    sums: dict[str, bytes]

    def view(self, name: str) -> npt.NDArray[np.uint8]:
        """The content of a tensor, as it lies there."""
        if name not in self.places:
            raise ArtifactError(f"{self.path}: has no {name!r}; compile the model again with this version")
        begin, length = self.places[name]
        return self.data[begin : begin + length]

    def intact(self, name: str) -> npt.NDArray[np.uint8]:
        """The content of a tensor that is as it was written. Raises ArtifactError."""
        content = self.view(name)
        if name != CHECKSUMS and checksum(content.data) != self.sums[name]:
            raise self.damaged(name)
        return content

    def damaged(self, name: str) -> ArtifactError:
        """What to say of a tensor that is not."""
        what = f"plane {name.removeprefix(WEIGHTS)!r:.80}" if name.startswith(WEIGHTS) else f"{name!r:.80}"
        return ArtifactError(
            f"{self.path}: {what} is not what its checksum says; the file is damaged: copy it again or compile again"
        )

    def read_checksums(self, names: list[str]) -> None:
        """Take the checksums of the tensors `names` from the file, where they stand in this order."""
        names = [name for name in names if name != CHECKSUMS]
        stored = self.view(CHECKSUMS).tobytes()
        if len(stored) != SIZE * len(names):
            raise ArtifactError(
                f"{self.path}: {CHECKSUMS} has {len(stored)} bytes, expected {SIZE} for each of {len(names)} tensors; "
                "the file is damaged, compile the model again"
            )
        self.sums.update({name: stored[i * SIZE : (i + 1) * SIZE] for i, name in enumerate(names)})


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
    try:
        told = misfit(metadata[RUNTIME]) if RUNTIME in metadata else None
    except ValueError as error:
        raise bad(f"__metadata__.{RUNTIME}: {error}") from None
    if told is not None:
        raise ArtifactError(f"{path}: {told}")
    if metadata.get("format_version") != FORMAT_VERSION:
        found = metadata.get("format_version")
        raise ArtifactError(
            f"{path}: format_version is {found!r:.80}, this version reads {FORMAT_VERSION!r}; compile the model again"
        )
    for key in (*REQUIRED_METADATA, RUNTIME):
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
    path: Path, planes: Iterable[Plane], extents: Mapping[str, tuple[int, int]], tensors: dict[str, tuple[int, int]]
) -> None:
    """Add the plan's planes to `tensors` and check that file and plan agree about which tensors there are."""
    for plane in planes:
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
