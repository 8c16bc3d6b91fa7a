"""GGUF versions 2 and 3, little-endian, memory-mapped. Source of the format: ggml/docs/gguf.md.

    magic "GGUF" · version u32 · tensor count u64 · key count u64
    keys:    name string · type u32 · value                                       (string: length u64, UTF-8 bytes)
    tensors: name string · dimensions u32 · size u64 each, innermost first · type u32 · offset u64
    padding to general.alignment · tensor data, to which the offsets are relative

Files come from strangers: every count, length and offset is held against the size of the file before it is used.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from imp_codegen.checkpoint.contract import CheckpointError, Dialect, TensorInfo, row_range
from imp_codegen.checkpoint.mapped import MappedFile
from imp_codegen.checkpoint.metadata import Metadata, Value
from imp_codegen.formats import FormatError, format_of_ggml, ggml_formats

GGUF_MAGIC = b"GGUF"

_SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_LEAST_KEY = 8 + 1 + 4 + 1  # bytes of the shortest key: name of one byte, type, value of one byte
_LEAST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8
_LONGEST_HEAD = 1 << 27  # everything before the tensor data; real ones stay below 32 MiB
_LONGEST_NAME = 1024
_MOST_DIMENSIONS = 4
_LARGEST_ALIGNMENT = 1 << 20
_DEFAULT_ALIGNMENT = 32

# Of files that llama-gguf-split or a converter has split: the first part has the keys, every part some tensors.
_NUMBER, _COUNT, _TENSORS = "split.no", "split.count", "split.tensors.count"
_PART = re.compile(
    r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<ending>\.gguf)", re.ASCII | re.IGNORECASE | re.DOTALL
)

# Names of the types that ggml numbers, for the message that refuses one.
_GGML_NAMES = {
    2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 13: "Q5_K", 15: "Q8_K",
    16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS",
    24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
    40: "NVFP4",
}  # fmt: skip


class GgufCheckpoint:
    """An open GGUF file, or all parts of one that was split, whichever of them is named."""

    __slots__ = ("_file_of", "_files", "metadata", "path", "tensors")

    dialect: Dialect = "gguf"
    metadata: Metadata
    tensors: Mapping[str, TensorInfo]

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: list[MappedFile] = []
        self._file_of: dict[str, MappedFile] = {}
        try:
            self.metadata, self.tensors = self._open(path)
        except CheckpointError:
            self.close()
            raise

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, or its parts in order."""
        return (self.path,) if len(self._files) == 1 else parts_of(self.path)

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.metadata.string("general.name", default=whole_stem(self.path))

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._file_of[name].path

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Stored bytes of the rows start..stop of a tensor, uint8[stop - start, row bytes], a view of its file."""
        tensor = row_range(self.path, self.tensors, name, start, stop)
        row_bytes = tensor.nbytes // tensor.rows
        count = (stop - start) * row_bytes
        return self._file_of[name].view(tensor.offset + start * row_bytes, count).reshape(stop - start, row_bytes)

    def text(self, name: str, longest: int) -> None:
        """Nothing: whatever a GGUF file says is in its keys."""

    def close(self) -> None:
        """Release the files; while views of them are alive they stay mapped."""
        for file in self._files:
            file.close()

    def _open(self, path: Path) -> tuple[Metadata, Mapping[str, TensorInfo]]:
        metadata, tensors = self._read(path)
        count = metadata.integer(_COUNT, 1)
        if count <= 1:
            return metadata, MappingProxyType(tensors)
        number = metadata.integer(_NUMBER)
        paths = parts_of(path)
        if number >= count or len(paths) != count or paths[number] != path:
            raise CheckpointError(
                f"{path}: is part {number + 1} of {count} of a split model, but not called so; give all its parts the "
                f"names that they came with, like {whole_stem(path)}-{number + 1:05}-of-{count:05}.gguf"
            )
        read = [(metadata, tensors) if part == path else self._read_part(part) for part in paths]
        return _joined(paths, read)

    def _read_part(self, path: Path) -> tuple[Metadata, dict[str, TensorInfo]]:
        if not path.exists():
            raise CheckpointError(
                f"{path}: does not exist, but {self.path.name} is one of {len(parts_of(path))} parts; download it"
            )
        return self._read(path)

    def _read(self, path: Path) -> tuple[Metadata, dict[str, TensorInfo]]:
        file = MappedFile(path)
        self._files.append(file)
        if file.data[:4] != GGUF_MAGIC:
            raise CheckpointError(f"{path}: begins with {file.data[:4]!r}, so it is no GGUF file")
        metadata, tensors = _Reader(path, file.data, len(file.data)).read()
        self._file_of |= dict.fromkeys(tensors, file)
        return metadata, tensors


def parts_of(path: Path) -> tuple[Path, ...]:
    """The paths of all parts of which `path` is one by its name, in order; else `path` alone."""
    match = _PART.fullmatch(path.name)
    if match is None or not 1 <= int(match["number"]) <= int(match["count"]):
        return (path,)
    count = int(match["count"])
    return tuple(path.with_name(f"{match['stem']}-{n:05}-of-{count:05}{match['ending']}") for n in range(1, count + 1))


def whole_stem(path: Path) -> str:
    """The file's name without its ending, and without what says which part it is."""
    match = _PART.fullmatch(path.name)
    return match["stem"] if match else path.stem


def _joined(
    paths: Sequence[Path], read: Sequence[tuple[Metadata, dict[str, TensorInfo]]]
) -> tuple[Metadata, Mapping[str, TensorInfo]]:
    """The keys of the first part, and the tensors of all. CheckpointError where parts are not of one model."""
    first = read[0][0]
    total = first.integer(_TENSORS, maximum=1 << 31)
    tensors: dict[str, TensorInfo] = {}
    for number, (path, (metadata, own)) in enumerate(zip(paths, read, strict=True)):
        for key, expected in ((_NUMBER, number), (_COUNT, len(paths)), (_TENSORS, total)):
            if metadata.integer(key, maximum=1 << 31) != expected:
                raise metadata.wrong(key, f"{expected}, by its name and {paths[0].name}; download all parts again")
        for key in metadata:
            if key not in first or (key != _NUMBER and metadata.value(key) != first.value(key)):
                raise CheckpointError(f"{path}: has the key {_shown(key)}, which belongs into the first part")
        if twice := tensors.keys() & own.keys():
            raise CheckpointError(f"{path}: tensor {_shown(min(twice))} is in another part, too; download all again")
        tensors |= own
    if len(tensors) != total:
        raise CheckpointError(
            f"{paths[0]}: {_TENSORS} is {total}, but the {len(paths)} parts have {len(tensors)} tensors; "
            "download them again"
        )
    return first, MappingProxyType(tensors)


def holds_head(beginning: bytes, size: int) -> bool:
    """Whether the beginning of a file of `size` bytes has its head, or enough to see what is wrong with it."""
    try:
        _Reader(Path(), beginning, size).read()
    except _EndError:
        return len(beginning) >= min(size, _LONGEST_HEAD)
    except CheckpointError:
        pass
    return True


class _EndError(CheckpointError):
    """The head goes on behind what can be read of it."""


class _Reader:
    """One pass over the head of a file; `at` is the position, and nothing is read beyond `end`.

    `data` is the file of `size` bytes, or its beginning.
    """

    def __init__(self, path: Path, data: mmap.mmap | bytes, size: int) -> None:
        self.path = path
        self.data = data
        self.size = size
        self.end = min(len(data), _LONGEST_HEAD)
        self.at = 0

    def read(self) -> tuple[Metadata, dict[str, TensorInfo]]:
        tensor_count, key_count = self._head()
        metadata = self._keys(key_count)
        return metadata, self._tensors(tensor_count, metadata)

    def _error(self, text: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {text}")

    def _need(self, nbytes: int, what: str) -> None:
        if nbytes > self.end - self.at:
            raise _EndError(
                f"{self.path}: {what} at byte {self.at} needs {nbytes} bytes and {self._limit()} after "
                f"{self.end - self.at}; it is truncated or damaged, download it again"
            )

    def _limit(self) -> str:
        return "the file ends" if self.end == self.size else "the largest head that imp reads ends"

    def _number(self, form: str, what: str) -> int:
        nbytes = struct.calcsize(form)
        self._need(nbytes, what)
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += nbytes
        return int(value)

    def _head(self) -> tuple[int, int]:
        self.at = len(GGUF_MAGIC)
        version = self._number("<I", "the version")
        if version & 0xFFFF == 0 and version:
            raise self._error("is a big-endian GGUF; convert it with gguf-convert-endian FILE little")
        if version not in (2, 3):
            raise self._error(f"is GGUF version {version}, imp reads 2 and 3; convert it with a current llama.cpp")
        tensor_count = self._number("<Q", "the tensor count")
        key_count = self._number("<Q", "the key count")
        room = min(self.size, _LONGEST_HEAD) - self.at
        if key_count * _LEAST_KEY + tensor_count * _LEAST_TENSOR > room:
            raise self._error(
                f"claims {key_count} keys and {tensor_count} tensors in {room} bytes; the file is damaged or truncated"
            )
        return tensor_count, key_count

    def _name(self, what: str) -> str:
        length = self._number("<Q", f"the length of {what}")
        if not 1 <= length <= _LONGEST_NAME:
            raise self._error(f"{what} is {length} bytes long, expected 1..{_LONGEST_NAME}; the file is damaged")
        self._need(length, what)
        raw = self.data[self.at : self.at + length]
        self.at += length
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self._error(f"{what} is not UTF-8 ({raw[:40]!r}); the file is damaged") from None

    def _keys(self, count: int) -> Metadata:
        values: dict[str, Value] = {}
        for number in range(count):
            key = self._name(f"the name of key {number}")
            if key in values:
                raise self._error(f"key {_shown(key)} occurs twice; the file is damaged")
            values[key] = self._value(key, self._number("<I", f"the type of {_shown(key)}"))
        return Metadata(self.path, values)

    def _value(self, key: str, kind: int) -> Value:
        shown = _shown(key)
        what = f"the value of {shown}"
        if kind == _STRING:
            return self._strings(1, what)[0]
        if kind == _ARRAY:
            kind = self._number("<I", f"the element type of {shown}")
            count = self._number("<Q", f"the length of {shown}")
            if kind == _ARRAY:
                raise self._error(f"{shown} is an array of arrays, which imp does not read")
            return self._strings(count, what) if kind == _STRING else self._scalars(kind, count, what)
        scalar: int | float | bool = self._scalars(kind, 1, what)[0].item()
        return scalar

    def _scalars(self, kind: int, count: int, what: str) -> NDArray[np.generic]:
        if kind != _BOOL and kind not in _SCALARS:
            raise self._error(f"{what} has the unknown type {kind}, expected 0..12; the file is damaged")
        dtype = np.dtype(_SCALARS.get(kind, "<u1"))
        self._need(count * dtype.itemsize, what)
        values: NDArray[np.generic] = np.frombuffer(self.data, dtype, count, self.at).copy()
        self.at += count * dtype.itemsize
        if kind == _BOOL:
            if values.astype(np.uint8).max(initial=0) > 1:
                raise self._error(f"{what} is a boolean other than 0 and 1; the file is damaged")
            values = values.astype(np.bool_)
        return values

    def _strings(self, count: int, what: str) -> list[bytes]:
        self._need(count * 8, what)
        data, at, end = self.data, self.at, self.end
        unpack = struct.Struct("<Q").unpack_from
        strings: list[bytes] = []
        append: Callable[[bytes], None] = strings.append
        last = end - 8
        for _ in range(count):
            if at > last:
                break
            start = at + 8
            at = start + unpack(data, at)[0]
            if at > end:
                break
            append(data[start:at])
        if len(strings) < count:
            raise _EndError(
                f"{self.path}: {what}: text {len(strings)} of {count} goes on after {self._limit()}; "
                "it is truncated or damaged, download it again"
            )
        self.at = at
        return strings

    def _tensors(self, count: int, metadata: Metadata) -> dict[str, TensorInfo]:
        alignment = metadata.integer("general.alignment", _DEFAULT_ALIGNMENT, minimum=1, maximum=_LARGEST_ALIGNMENT)
        if alignment & (alignment - 1):
            raise metadata.wrong("general.alignment", "a power of two")
        tensors: dict[str, TensorInfo] = {}
        for number in range(count):
            name = self._name(f"the name of tensor {number}")
            if name in tensors:
                raise self._error(f"tensor {_shown(name)} occurs twice; the file is damaged")
            tensors[name] = self._tensor(name, alignment)
        start = (self.at + alignment - 1) // alignment * alignment
        placed = [
            TensorInfo(tensor.name, tensor.shape, tensor.format, start + tensor.offset, tensor.nbytes)
            for tensor in tensors.values()
        ]
        self._check_ranges(placed, alignment)
        return {tensor.name: tensor for tensor in placed}

    def _tensor(self, name: str, alignment: int) -> TensorInfo:
        what = f"tensor {_shown(name)}"
        dimensions = self._number("<I", f"the dimension count of {what}")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise self._error(f"{what} has {dimensions} dimensions, expected 1..{_MOST_DIMENSIONS}")
        shape = tuple(self._number("<Q", f"a dimension of {what}") for _ in range(dimensions))[::-1]
        kind = self._number("<I", f"the type of {what}")
        offset = self._number("<Q", f"the offset of {what}")
        try:
            fmt = format_of_ggml(kind)
        except FormatError:
            raise self._error(
                f"{what} has the type {_GGML_NAMES.get(kind, kind)}, which imp does not support; "
                f"supported: {', '.join(ggml_formats())}"
            ) from None
        weights = 1
        for size in shape:
            weights *= size
        if not 0 < weights < 1 << 62:
            raise self._error(f"{what} has the impossible shape {' x '.join(map(str, shape))}; the file is damaged")
        if shape[-1] % fmt.block:
            raise self._error(f"{what}: {shape[-1]} columns are not a whole number of {fmt.name} blocks ({fmt.block})")
        if offset % alignment:
            raise self._error(f"{what} has the offset {offset}, which is not a multiple of the alignment {alignment}")
        return TensorInfo(name, shape, fmt.name, offset, weights // fmt.block * fmt.block_bytes)

    def _check_ranges(self, tensors: list[TensorInfo], alignment: int) -> None:
        end = 0
        previous = ""
        for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
            if tensor.offset < end:
                raise self._error(f"tensors {_shown(previous)} and {_shown(tensor.name)} overlap; the file is damaged")
            end, previous = tensor.offset + tensor.nbytes, tensor.name
        if end > self.size:
            raise self._error(
                f"tensor {_shown(previous)} ends at byte {end}, {end - self.size} bytes past the end of the file; "
                "it is truncated (or its head damaged), download it again"
            )
        padded = (end + alignment - 1) // alignment * alignment
        if tensors and self.size > padded:
            raise self._error(
                f"{self.size - padded} bytes follow the last tensor ({_shown(previous)}); the file is damaged, or "
                "of several that were joined as they are: name one part, and imp reads all"
            )


def _shown(name: str) -> str:
    return repr(name if len(name) <= 64 else name[:61] + "...")
