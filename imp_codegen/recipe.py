"""The recipe for an artifact's weights: which tensors of which files become which planes. A thin artifact's blob.

As JSON: `files`; `tensors` by name; `planes` by name, each with the source that it is packed from, nested like
`{"Rows": {"source": {"Tensor": {"name": "x"}}, "begin": 0, "end": 8}}`, or `{"bytes": ...}` in hexadecimal where no
tensor has it; `packing`, a hash of the code that packs, without which the bytes would be others. Where only the heads
of the files were at hand, tensors have no hashes, and those of the files stand for them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

import imp_codegen
from imp_codegen.checkpoint import Checkpoint, WeightFile
from imp_codegen.checkpoint.heads import HeadCheckpoint
from imp_codegen.formats import Bytes
from imp_codegen.sources import Source, spans_of
from imp_runtime.errors import ImpError
from imp_runtime.text import visible

_VERSION = 1
_SOURCES = {kind.__name__: kind for kind in get_args(Source)}
_PACKING = ("formats", "layouts", "pack.py", "rounding", "sources.py", "stored")  # what decides how a plane's bytes lie


class RecipeError(ImpError):
    """A recipe that cannot be read, or weights that are not those that it is for."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of the checkpoint, its shape in numpy order; `sha256` of its bytes in hexadecimal, or nothing."""

    format: str
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that turns a checkpoint into planes. A plane is packed from a source, or is here as it is."""

    files: tuple[WeightFile, ...]
    tensors: Mapping[str, StoredTensor]
    planes: Mapping[str, Source | Bytes]
    packing: str

    @property
    def given(self) -> dict[str, Bytes]:
        """The planes that are here."""
        return {name: made for name, made in self.planes.items() if isinstance(made, np.ndarray)}

    def source(self, plane: str) -> Source:
        """What a plane is packed from."""
        made = self.planes[plane]
        assert not isinstance(made, np.ndarray), plane
        return made

    def to_json(self) -> bytes:
        """Deterministic JSON."""
        document = {
            "version": _VERSION,
            "files": [dataclasses.asdict(file) for file in self.files],
            "tensors": {name: dataclasses.asdict(tensor) for name, tensor in self.tensors.items()},
            "planes": {name: _encoded(made) for name, made in self.planes.items()},
            "packing": self.packing,
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @staticmethod
    def from_json(text: bytes) -> Recipe:
        """Parse. Raises RecipeError that says what is wrong."""
        try:
            document = _adapter().validate_json(text, strict=True)
            planes = {name: _decoded(made) for name, made in document.planes.items()}
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise RecipeError(visible(f"weights.json: {where:.100}: {first['msg']}; compile the model again")) from None
        except (ValueError, TypeError, RecursionError) as error:
            raise RecipeError(visible(f"weights.json: planes: {error!s:.100}; compile the model again")) from None
        return Recipe(document.files, document.tensors, planes, document.packing)


@dataclass(frozen=True, slots=True)
class _Document:
    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    version: Literal[1]
    files: tuple[WeightFile, ...]
    tensors: dict[str, StoredTensor]
    planes: dict[str, Any]
    packing: str


@functools.cache
def _adapter() -> TypeAdapter[_Document]:
    return TypeAdapter(_Document)


def _encoded(made: Source | Bytes) -> dict[str, Any]:
    if isinstance(made, np.ndarray):
        return {"bytes": made.tobytes().hex()}

    def value(of: object) -> object:
        if isinstance(of, tuple):
            return [value(each) for each in of]
        return _encoded(of) if type(of).__name__ in _SOURCES else of  # type: ignore[arg-type]

    return {type(made).__name__: {field.name: value(getattr(made, field.name)) for field in dataclasses.fields(made)}}


def _decoded(made: Any) -> Source | Bytes:
    """ValueError or TypeError where it is neither a source nor bytes."""
    if isinstance(made, dict) and made.keys() == {"bytes"}:
        return np.frombuffer(bytes.fromhex(made["bytes"]), np.uint8)
    return _source(made)


def _source(made: Any) -> Source:
    if not isinstance(made, dict) or len(made) != 1:
        raise ValueError(f"{made!r:.60} is no source")
    ((kind, fields),) = made.items()
    if kind not in _SOURCES:
        raise ValueError(f"{kind!r:.60} is no kind of source; there are {', '.join(_SOURCES)}")
    hints = get_type_hints(_SOURCES[kind])
    if not isinstance(fields, dict) or fields.keys() != hints.keys():
        raise ValueError(f"{kind} must have {', '.join(hints)}")

    def value(hint: Any, of: Any) -> Any:
        if hint == Source or hint in _SOURCES.values():
            of = _source(of)
        if get_origin(hint) is tuple and isinstance(of, list):
            return tuple(value(get_args(hint)[0], each) for each in of)
        if not isinstance(of, hint):
            raise TypeError(f"{kind} has {of!r:.60}")
        return of

    source: Source = _SOURCES[kind](**{name: value(hints[name], of) for name, of in fields.items()})
    return source


def recipe_of(
    checkpoint: Checkpoint,
    sources: Mapping[str, Source],
    given: Mapping[str, Bytes],
    hashed: Callable[[int], None],
) -> Recipe:
    """The recipe for planes of a checkpoint's weights; `hashed` is told how many bytes have been read since."""
    names = list(dict.fromkeys(name for source in sources.values() for name in spans_of(source)))
    if isinstance(checkpoint, HeadCheckpoint):
        known = {name: checkpoint.tensors[name] for name in names}
        tensors = {name: StoredTensor(info.format, info.shape, "") for name, info in known.items()}
        return Recipe(checkpoint.weight_files, tensors, {**sources, **given}, packing_key())

    def tensor(name: str) -> StoredTensor:
        info = checkpoint.tensors[name]
        return StoredTensor(info.format, info.shape, tensor_hash(checkpoint, name))

    with ThreadPoolExecutor() as workers:
        files = workers.map(lambda path: WeightFile(path.name, path.stat().st_size, file_hash(path)), checkpoint.files)
        tensors = {}
        for name, stored in zip(names, workers.map(tensor, names), strict=True):
            tensors[name] = stored
            hashed(checkpoint.tensors[name].nbytes)
        return Recipe(tuple(files), tensors, {**sources, **given}, packing_key())


def tensor_hash(checkpoint: Checkpoint, name: str) -> str:
    """SHA-256 of a tensor's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    tensor = checkpoint.tensors[name]
    step = max(1, (8 << 20) // (tensor.nbytes // tensor.rows))
    for start in range(0, tensor.rows, step):
        digest.update(np.ascontiguousarray(checkpoint.rows(name, start, min(start + step, tensor.rows))).data)
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def packing_key() -> str:
    """A hash of the code that decides how planes lie."""
    root = Path(imp_codegen.__file__).parent
    digest = hashlib.sha256()
    for name in _PACKING:
        for path in sorted((root / name).rglob("*.py")) if (root / name).is_dir() else [root / name]:
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
