"""Quantised weights of several tensors: which belong to one, and what config.json may say of them.

What counts is what is stored: of each matrix the type, and its companions. Modules that a recipe leaves out are then
plain tensors, and no list of their names need be understood. `quantization_config` has to agree, key by key.
transformers, utils/quantization_config.py; compressed-tensors, quantization/quant_args.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from imp_codegen.checkpoint import Checkpoint, CheckpointError
from imp_codegen.sources import (
    Below,
    EverySecond,
    Flat,
    Float32,
    Group,
    HeadColumns,
    HeadRows,
    Mxfp4,
    Permute,
    Plus,
    Rows,
    Source,
    Stack,
    Tensor,
    Transposed,
    Unstacked,
)

PREFIX = "quantization_config."
_METHOD = f"{PREFIX}quant_method"
_SCALES = ("weight_scale_inv", "weight_scale")
"""What the scales of a weight in F8_E4M3 are called; it has one tensor of them. Both are multiplied by."""

_BLOCKS_OF, _EXPONENTS = "_blocks", "_scales"
"""What a stack in MXFP4 is called, which lies the right way round, and not as transposed as one of floats."""


def with_scales(source: Source, checkpoint: Checkpoint) -> Source:
    """The source, each quantised matrix with the tensors that belong to it. CheckpointError if it lacks them."""
    match source:
        case Tensor(name):
            match _stored_as(checkpoint, name):
                case "F8_E4M3":
                    return _grouped(source, checkpoint)
                case "NVFP4" if (factor := f"{name.removesuffix('.weight')}.scale") in checkpoint.tensors:
                    return Group("NVFP4_SCALED", (source, Tensor(factor)))  # as GGUF files have it
            return source
        case Rows(inner, begin, end):
            return Rows(with_scales(inner, checkpoint), begin, end)
        case Permute(inner, heads):
            return Permute(with_scales(inner, checkpoint), heads)
        case Unstacked(inner):
            return Unstacked(with_scales(inner, checkpoint))
        case HeadRows(inner, heads, begin, end):
            return HeadRows(with_scales(inner, checkpoint), heads, begin, end)
        case HeadColumns(inner, heads):
            return HeadColumns(with_scales(inner, checkpoint), heads)
        case Stack(sources):
            return Stack(tuple(with_scales(each, checkpoint) for each in sources))
        case EverySecond(inner, first):
            return EverySecond(with_scales(inner, checkpoint), first)
        case Transposed(Tensor(name)) if f"{name}{_BLOCKS_OF}" in checkpoint.tensors:
            return Mxfp4(Tensor(f"{name}{_BLOCKS_OF}"), Tensor(f"{name}{_EXPONENTS}"))
        case Plus() | Float32() | Group() | Flat() | Transposed() | Mxfp4() | Below():
            return source


def _stored_as(checkpoint: Checkpoint, name: str) -> str | None:
    tensor = checkpoint.tensors.get(name)
    return tensor.format if tensor else None


def _grouped(codes: Tensor, checkpoint: Checkpoint) -> Source:
    module = codes.name.removesuffix("weight")
    found = [name for name in _SCALES if f"{module}{name}" in checkpoint.tensors]
    if len(found) != 1:
        what = " and ".join(f"{module}{name}" for name in found) or f"neither {module}" + f" nor {module}".join(_SCALES)
        raise CheckpointError(
            f"{checkpoint.path}: tensor {codes.name!r} is F8_E4M3, which needs one tensor of scales; there is {what}"
        )
    scales = Tensor(f"{module}{found[0]}")
    match checkpoint.tensors[scales.name].shape:
        case (_, columns) if columns > 1:
            return Group("FP8_BLOCKS", (codes, Float32(scales)))
    return Group("FP8_ROWS", (codes, Float32(scales)))


Allowed = Collection[object] | None
"""Values of a key that say what is read anyway; None for any."""

_ANY: Allowed = None
_BLOCKS: Allowed = ([128, 128],)
# How activations and the cache would be rounded, were they: here they are not.
_NOT_WEIGHTS = r"kv_cache_scheme(\..*)?|kv_cache_quant_algo|config_groups\.\w+\.(input|output)_activations\..*"
_HISTORY = r"version|quantization_status|global_compression_ratio|producer\..*|config_groups\.\w+\.weights\.observer.*"
_EXCEPT = r"ignore|modules_to_not_convert|config_groups\.\w+\.targets"
_OTHERS: Mapping[str, Allowed] = {_NOT_WEIGHTS: _ANY, _HISTORY: _ANY, _EXCEPT: _ANY}
_WEIGHTS: Mapping[str, Allowed] = {
    r"config_groups\.\w+\.weights\.num_bits": (8,),
    r"config_groups\.\w+\.weights\.type": ("float",),
    r"config_groups\.\w+\.weights\.symmetric": (True,),
    r"config_groups\.\w+\.weights\.dynamic": (False,),
    r"config_groups\.\w+\.weights\.strategy": ("tensor", "channel", "block"),
    r"config_groups\.\w+\.weights\.block_structure": _BLOCKS,
}
_METHODS: Mapping[str, Mapping[str, Allowed]] = {
    "fp8": {"fmt": ("e4m3",), "weight_block_size": _BLOCKS, "activation_scheme": _ANY, **_OTHERS},
    "compressed-tensors": {
        r"(config_groups\.\w+\.)?format": ("float-quantized", "naive-quantized"),
        r"sparsity_config\.format": ("dense",),
        **_WEIGHTS,
        **_OTHERS,
    },
    "modelopt": {"quant_algo": ("FP8",), **_WEIGHTS, **_OTHERS},
    "mxfp4": _OTHERS,
}


def check_key(checkpoint: Checkpoint, key: str) -> None:
    """CheckpointError if a key of `quantization_config` says other than what `with_scales` reads."""
    metadata = checkpoint.metadata
    method = metadata.value(_METHOD)
    rules = _METHODS.get(method) if isinstance(method, str) else None
    if rules is None:
        raise metadata.wrong(_METHOD, f"{', '.join(_METHODS)}: choose such a model, one not quantised, or a GGUF file")
    if key == _METHOD:
        stored = "U8" if method == "mxfp4" else "F8_E4M3"
        if all(tensor.format != stored for tensor in checkpoint.tensors.values()):
            raise CheckpointError(f"{metadata.path}: {_METHOD} is {metadata.shown(key)}, but no tensor is {stored}")
        return
    rule = next((rule for rule in rules if re.fullmatch(rule, key.removeprefix(PREFIX), re.ASCII)), None)
    if rule is None:
        raise CheckpointError(
            f"{metadata.path}: key {key[:80]!r} is {metadata.shown(key)}, but imp does not know this key of {method}, "
            "and it may change what weights mean; choose another checkpoint"
        )
    allowed = rules[rule]
    if allowed is not None and metadata.value(key) not in allowed:
        raise metadata.wrong(key, f"{' or '.join(map(str, allowed))}: imp does not read anything else")
