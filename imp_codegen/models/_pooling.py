"""What an embedding of a text is made of, as its file or folder says."""

from __future__ import annotations

import re
from collections.abc import Mapping

from imp_codegen.checkpoint import Checkpoint, CheckpointError, Metadata
from imp_codegen.checkpoint.json_text import LONGEST_FILE, keys_and_values, parse_json, parse_object, shown_name
from imp_runtime.plan import Pooling

_MODULES = "modules.json"
_PLAIN_FOLDER = re.compile(r"\w[\w.-]*", re.ASCII)
# By number: llama.cpp (include/llama.h, llama_pooling_type).
_KINDS: tuple[Pooling, ...] = ("none", "mean", "cls", "last")
# By the names of sentence-transformers (modules/pooling.py), and the switches that older versions had for them.
_MODES: Mapping[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_OLD_MODES = {
    "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "lasttoken",
}  # fmt: skip
_USUAL: Pooling = "mean"


def read_pooling(checkpoint: Checkpoint, architecture: str) -> Pooling:
    """The pooling of a GGUF file's key or a folder's modules.json; the mean where neither says anything."""
    if checkpoint.dialect == "hf":
        return _of_folder(checkpoint)
    key = f"{architecture}.pooling_type"
    number = checkpoint.metadata.integer(key, _KINDS.index(_USUAL))
    if number >= len(_KINDS):
        raise checkpoint.metadata.wrong(key, "0 (none), 1 (mean), 2 (cls) or 3 (last)")
    return _KINDS[number]


def _of_folder(checkpoint: Checkpoint) -> Pooling:
    """By sentence-transformers' list of modules: the model, pooling, perhaps normalisation, which imp always does."""
    raw = checkpoint.text(_MODULES, LONGEST_FILE)
    if raw is None:
        return _USUAL
    path = checkpoint.path / _MODULES
    modules = parse_json(raw, f"{path}: the file")
    pooling = _USUAL
    for module in modules if isinstance(modules, list) else [None]:
        kind, folder = (module.get("type"), module.get("path")) if isinstance(module, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(folder, str):
            raise CheckpointError(f"{path}: must be a list of modules, each with type and path; download it again")
        name = kind.rpartition(".")[2]
        if name == "Pooling":
            pooling = _of_module(checkpoint, folder)
        elif name not in ("Transformer", "Normalize"):
            raise CheckpointError(
                f"{path}: has a module {shown_name(kind)}, which changes embeddings; imp knows Transformer, Pooling "
                "and Normalize: choose another checkpoint"
            )
    return pooling


def _of_module(checkpoint: Checkpoint, folder: str) -> Pooling:
    if not _PLAIN_FOLDER.fullmatch(folder):
        raise CheckpointError(
            f"{checkpoint.path / _MODULES}: the path of Pooling is {shown_name(folder)}, expected the name of a folder"
        )
    name = f"{folder}/config.json"
    path = checkpoint.path / name
    raw = checkpoint.text(name, LONGEST_FILE)
    if raw is None:
        raise CheckpointError(f"{path}: does not exist, but {_MODULES} names it; download it")
    config = Metadata(path, keys_and_values(parse_object(raw, f"{path}: the file"), path))
    key = "pooling_mode"
    if isinstance(config.value(key), str):
        modes = [config.string(key)]
    elif key in config:
        modes = config.strings(key)
    else:  # versions before 5.3
        modes = [_OLD_MODES.get(each, each) for each in config if each.startswith(f"{key}_") and config.boolean(each)]
        modes = modes or [_USUAL]
    if len(modes) != 1 or modes[0] not in _MODES:
        raise CheckpointError(
            f"{path}: pooling_mode is {', '.join(map(shown_name, modes)) or 'nothing'}, expected one of "
            f"{', '.join(_MODES)}"
        )
    return _MODES[modes[0]]
