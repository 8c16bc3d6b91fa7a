"""A model as Hugging Face stores it: a folder with config.json, safetensors files and the tokenizer's texts.

Weights are in the files that `model.safetensors.index.json` names; without it in `model.safetensors`, or in the only
safetensors file that there is. Nothing else of the folder is read: repositories hold other copies of a model, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from imp_codegen.checkpoint.config import CONFIG, read_config
from imp_codegen.checkpoint.contract import CheckpointError, Dialect, TensorInfo
from imp_codegen.checkpoint.json_text import parse_object, read_file, shown_name
from imp_codegen.checkpoint.metadata import Metadata
from imp_codegen.checkpoint.safetensors import SafetensorsFile

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_ADAPTER = "adapter_config.json"
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.onnx")
_LONGEST_INDEX = 1 << 26
_LONGEST_FILE_NAME = 255  # bytes
_DEEPER = re.compile(r"^(?:model\.language_model\.|language_model\.model\.)")


class FolderCheckpoint:
    """An open folder. Its dialect is "hf": keys are those of config.json, tensors are called as transformers does."""

    __slots__ = ("_files", "_last", "_stored", "metadata", "path", "tensors")

    dialect: Dialect = "hf"
    metadata: Metadata
    tensors: Mapping[str, TensorInfo]

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: list[SafetensorsFile] = []
        if (path / _ADAPTER).exists():
            raise CheckpointError(f"{path}: is an adapter (LoRA), which changes a model; merge it into its model first")
        self.metadata = read_config(path / CONFIG)
        index = path / INDEX
        raw = read_file(index, _LONGEST_INDEX)
        try:
            if raw is None:
                self._open(_only_file(path))
                file_of = dict.fromkeys(self._files[0].tensors, self._files[0])
            else:
                file_of = self._open_shards(index, _read_index(index, raw))
        except CheckpointError:
            self.close()
            raise
        self._stored: Mapping[str, tuple[SafetensorsFile, str]] = _as_text_model(path, file_of)
        self._last = self._files[0]  # that rows were read of
        self.tensors = MappingProxyType({name: file.tensors[as_is] for name, (file, as_is) in self._stored.items()})

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of weights."""
        return tuple(file.path for file in self._files)

    @property
    def name(self) -> str:
        """What the model is called: as its folder; in a cache of the Hub, whose folders are hashes, its repository."""
        path = self.path.resolve()
        return path.parent.parent.name.rpartition("--")[2] if path.parent.name == "snapshots" else path.name

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._stored[name][0].path

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Stored bytes of the rows start..stop of a tensor, uint8[stop - start, row bytes], a view of its file."""
        if name not in self._stored:
            raise CheckpointError(f"{self.path}: has no tensor {name!r}; it is incomplete or of another architecture")
        file, as_is = self._stored[name]
        if file is not self._last:
            self._last.release()
            self._last = file
        return file.rows(as_is, start, stop)

    def text(self, name: str, longest: int) -> bytes | None:
        """The bytes of a file beside the weights, at most `longest`; None if there is none of that name."""
        return read_file(self.path / name, longest)

    def close(self) -> None:
        """Release the files; while views of them are alive they stay mapped."""
        for file in self._files:
            file.close()

    def _open(self, path: Path) -> SafetensorsFile:
        self._files.append(SafetensorsFile(path))
        return self._files[-1]

    def _open_shards(self, index: Path, shard_of: Mapping[str, str]) -> dict[str, SafetensorsFile]:
        """Every tensor's file; what the index says of a shard must be what is in it."""
        shards: dict[str, SafetensorsFile] = {}
        for name, shard in shard_of.items():
            if shard not in shards:
                if not (self.path / shard).exists():
                    raise CheckpointError(
                        f"{index}: weight_map names the file {shown_name(shard)}, which the folder lacks; download it"
                    )
                shards[shard] = self._open(self.path / shard)
            if name not in shards[shard].tensors:
                raise CheckpointError(
                    f"{index}: weight_map says that {shown_name(name)} is in {shown_name(shard)}, but it is not; "
                    "download both files again"
                )
        for shard, file in shards.items():
            for name in file.tensors:
                if (other := shard_of.get(name)) != shard:
                    where = "in no file" if other is None else f"in {shown_name(other)}"
                    raise CheckpointError(
                        f"{index}: weight_map has {shown_name(name)} {where}, but it is in {shown_name(shard)}"
                        f"{'' if other is None else ', too'}; download both files again"
                    )
        if SINGLE not in shards and (self.path / SINGLE).exists():
            raise CheckpointError(
                f"{self.path}: has {SINGLE} beside {INDEX}, which does not name it; remove the one that is not meant"
            )
        return {name: shards[shard] for name, shard in shard_of.items()}


def _as_text_model(path: Path, file_of: Mapping[str, SafetensorsFile]) -> dict[str, tuple[SafetensorsFile, str]]:
    """Every tensor by the name that a text model has for it, with its file and the name that it is stored under.

    A model of text and images has the same tensors of text one level deeper.
    """
    found: dict[str, tuple[SafetensorsFile, str]] = {}
    for as_is, file in file_of.items():
        name = _DEEPER.sub("model.", as_is).replace("language_model.lm_head.", "lm_head.")
        if name in found:
            raise CheckpointError(f"{path}: tensors {shown_name(as_is)} and {shown_name(found[name][1])} are the same")
        found[name] = file, as_is
    return found


def _read_index(path: Path, raw: bytes) -> dict[str, str]:
    """The file of every tensor, by name."""
    weight_map = parse_object(raw, f"{path}: the file").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: has no weight_map, which says where each tensor is; download it again")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _is_plain(shard):
            raise CheckpointError(
                f"{path}: weight_map.{shown_name(name)} is {shown_name(str(shard))}, expected the name of a "
                ".safetensors file in the same folder"
            )
    return weight_map


def _is_plain(name: str) -> bool:
    """Whether a file's name stays within its folder, and is one, on any system."""
    fits = name.endswith(".safetensors") and len(name.encode(errors="replace")) <= _LONGEST_FILE_NAME
    return fits and name.isprintable() and not set(name) & set("/\\:") and name[0] != "."


def _only_file(path: Path) -> Path:
    if (path / SINGLE).exists():
        return path / SINGLE
    files = sorted(file.name for file in path.glob("*.safetensors"))
    if len(files) == 1:
        return path / files[0]
    if files:
        raise CheckpointError(
            f"{path}: has {len(files)} safetensors files ({', '.join(map(shown_name, files[:3]))}, ...) and no {INDEX} "
            "that says what is in them; download it"
        )
    others = sorted(file.name for pattern in _OTHER_WEIGHTS for file in path.glob(pattern))
    kept = f"; {shown_name(others[0])} is no safetensors file, convert it" if others else "; download the weights"
    raise CheckpointError(f"{path}: has {CONFIG} but no {SINGLE}{kept}")
