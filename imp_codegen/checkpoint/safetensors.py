"""One safetensors file, memory-mapped. Source of the format: https://github.com/huggingface/safetensors, "Format".

    length of the header u64 · header as JSON, possibly with spaces behind it · tensor data
    header: name: {"dtype", "shape", "data_offsets": [begin, end]} · "__metadata__": texts by name

Offsets are relative to the data; tensors cover it without gaps. The library that defines the format hands out whole
tensors, in types that numpy has (BF16 is none); here rows are wanted as they are stored, and faults in words. What the
library refuses is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from imp_codegen.checkpoint.contract import CheckpointError, TensorInfo, row_range
from imp_codegen.checkpoint.json_text import parse_object, shown_name
from imp_codegen.checkpoint.mapped import MappedFile

_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
LONGEST_HEADER = 1 << 26  # bytes; 64 real ones would fit
_LONGEST_NAME = 1024
_MOST_DIMENSIONS = 8
_MOST_ELEMENTS = 1 << 62
_LAYOUTS = (None, "pt", "mlx", "np")  # who wrote the file; those of tf and flax hold matrices transposed
_METADATA = "__metadata__"


class SafetensorsFile:
    """An open safetensors file. A tensor's `format` is its dtype, whether imp computes with it or not."""

    __slots__ = ("_file", "path", "tensors")

    tensors: Mapping[str, TensorInfo]

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise CheckpointError(f"{path}: is no regular file")
        self._file = MappedFile(path)
        try:
            self.tensors = MappingProxyType(_read_header(path, memoryview(self._file.data)))
        except CheckpointError:
            self.close()
            raise

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Stored bytes of the rows start..stop of a tensor, uint8[stop - start, row bytes], a view of the file."""
        tensor = row_range(self.path, self.tensors, name, start, stop)
        row_bytes = tensor.nbytes // tensor.rows
        count = (stop - start) * row_bytes
        return self._file.view(tensor.offset + start * row_bytes, count).reshape(stop - start, row_bytes)

    def release(self) -> None:
        """Give the pages back that were read so far."""
        self._file.release()

    def close(self) -> None:
        """Release the file; while views of it are alive it stays mapped."""
        self._file.close()


def _read_header(path: Path, data: memoryview) -> dict[str, TensorInfo]:
    with data:
        size = len(data)
        if size < 8:
            raise CheckpointError(f"{path}: {size} bytes are no safetensors file; it is truncated, download it again")
        length = int.from_bytes(data[:8], "little")
        if length > LONGEST_HEADER:
            raise CheckpointError(
                f"{path}: its header should have {length} bytes, more than the {LONGEST_HEADER} that imp reads; "
                "it is damaged or no safetensors file"
            )
        if length > size - 8:
            raise CheckpointError(
                f"{path}: its header should have {length} bytes and the file ends after {size - 8}; "
                "it is truncated or damaged, download it again"
            )
        raw = bytes(data[8 : 8 + length])
    header = parse_object(raw, f"{path}: the header")
    _check_metadata(path, header.pop(_METADATA, {}))
    tensors = {name: _tensor(path, name, fields, 8 + length) for name, fields in header.items()}
    _check_ranges(path, sorted(tensors.values(), key=lambda t: (t.offset, t.nbytes)), 8 + length, size)
    return tensors


def _check_metadata(path: Path, metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: {_METADATA} must hold texts by name; the file is damaged")
    if (layout := metadata.get("format")) not in _LAYOUTS:
        raise CheckpointError(
            f"{path}: {_METADATA}.format is {shown_name(layout)}, expected pt: matrices of another framework may be "
            "transposed"
        )


def _tensor(path: Path, name: str, fields: object, start: int) -> TensorInfo:
    what = f"{path}: tensor {shown_name(name)}"
    if not 1 <= len(name) <= _LONGEST_NAME:
        raise CheckpointError(f"{what} has a name of {len(name)} characters, expected 1..{_LONGEST_NAME}")
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{what} must have dtype, shape and data_offsets, nothing else; the file is damaged")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise CheckpointError(f"{what}: dtype is {shown_name(str(dtype))}, expected one of {', '.join(_BITS)}")
    if not _is_counts(shape) or len(shape) > _MOST_DIMENSIONS:
        raise CheckpointError(f"{what}: shape is {shape!r:.60}, expected up to {_MOST_DIMENSIONS} sizes")
    if not _is_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{what}: data_offsets is {offsets!r:.60}, expected [begin, end]")
    elements = 1
    for size in shape:
        elements *= size
    if not 0 < elements < _MOST_ELEMENTS:
        raise CheckpointError(f"{what} has the impossible shape {' x '.join(map(str, shape))}; the file is damaged")
    bits = elements * _BITS[dtype]
    if bits % 8 or bits // 8 != offsets[1] - offsets[0]:
        raise CheckpointError(
            f"{what}: data_offsets are {offsets[1] - offsets[0]} bytes apart, but its shape in {dtype} takes "
            f"{-(-bits // 8)}; the file is damaged"
        )
    return TensorInfo(name, tuple(shape), dtype, start + offsets[0], bits // 8)


def _is_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < _MOST_ELEMENTS for item in value)


def _check_ranges(path: Path, tensors: list[TensorInfo], start: int, size: int) -> None:
    end, previous = start, ""
    for tensor in tensors:
        if tensor.offset < end:
            raise CheckpointError(
                f"{path}: tensors {shown_name(previous)} and {shown_name(tensor.name)} overlap; the file is damaged"
            )
        if tensor.offset > end:
            raise CheckpointError(
                f"{path}: {tensor.offset - end} bytes before tensor {shown_name(tensor.name)} belong to none; "
                "the file is damaged"
            )
        end, previous = tensor.offset + tensor.nbytes, tensor.name
    if end > size:
        raise CheckpointError(
            f"{path}: tensor {shown_name(previous)} ends at byte {end}, {end - size} bytes past the end of the file; "
            "it is truncated, download it again"
        )
    if end < size:
        raise CheckpointError(f"{path}: {size - end} bytes follow the last tensor ({shown_name(previous)}); damaged")
