"""Tensors as they are stored."""

from __future__ import annotations

import numpy as np

from imp_codegen.checkpoint import Checkpoint, CheckpointError
from imp_codegen.formats import Bytes, Format, Part, formats

_BYTES = Format("U8", 1, (Part(1, 1),), lambda raw: raw.astype(np.float32))


class StoredTensor:
    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        tensor = checkpoint.tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{checkpoint.path}: tensor {name!r} is missing; the checkpoint is incomplete")
        fmt = formats().get(tensor.format)
        if fmt is None:
            raise CheckpointError(
                f"{checkpoint.path}: tensor {name!r} is {tensor.format}, which imp does not support; supported: "
                f"{', '.join(name for name, fmt in formats().items() if not fmt.of)}"
            )
        self.shape = tensor.shape
        self.format = fmt
        self._checkpoint = checkpoint
        self._name = name

    def rows(self, start: int, stop: int) -> Bytes:
        return self._checkpoint.rows(self._name, start, stop)


class StoredCodes:
    def __init__(self, checkpoint: Checkpoint, name: str, most: int) -> None:
        tensor = checkpoint.tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{checkpoint.path}: tensor {name!r} is missing; the checkpoint is incomplete")
        if tensor.format not in ("U8", "F8_E4M3", "F8_E8M0"):
            raise CheckpointError(f"{checkpoint.path}: tensor {name!r} is {tensor.format}, expected U8, a byte each")
        self.shape = tensor.shape
        self.format = _BYTES
        self._checkpoint = checkpoint
        self._name = name
        self._most = most

    def rows(self, start: int, stop: int) -> Bytes:
        found = self._checkpoint.rows(self._name, start, stop)
        if (largest := int(found.max(initial=0))) > self._most:
            raise CheckpointError(
                f"{self._checkpoint.path}: tensor {self._name!r} has a scale whose byte is {largest:#x}, expected at "
                f"most {self._most:#x}: imp reads scales that are positive numbers"
            )
        return found
