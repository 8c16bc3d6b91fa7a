"""Other fields, or other tensors, in a copy of a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from converted import stored

Tensors = dict[str, tuple[str, list[int], bytes]]


def say(folder: Path, **fields: Any) -> Path:
    """Other fields in config.json; ... takes one away."""
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8")) | fields
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}), "utf-8")
    return folder


def hold(folder: Path, tensors: Tensors) -> Path:
    """Write the weights anew."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


def weights(folder: Path) -> Tensors:
    return stored(folder / "model.safetensors")
