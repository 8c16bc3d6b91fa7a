"""Quantised weights of several tensors: which belong to one, and what config.json may say of them.

What counts is what is stored: of each matrix the type, and its companions. Modules that a recipe leaves out are then
plain tensors, and no list of their names need be understood. `quantization_config` has to agree, key by key.
transformers, utils/quantization_config.py; compressed-tensors, quantization/quant_args.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from imp_codegen.checkpoint import Checkpoint, CheckpointError
from imp_codegen.checkpoint.json_text import keys_and_values, parse_object
from imp_codegen.checkpoint.metadata import Metadata
from imp_codegen.sources import (
    Below,
    Codes,
    EverySecond,
    Flat,
    Float32,
    Group,
    HalfOfEach,
    HeadColumns,
    HeadRows,
    Mxfp4,
    Permute,
    Plus,
    Reciprocal,
    Rounded,
    Rows,
    Source,
    Stack,
    Tensor,
    Times,
    Transposed,
    Unstacked,
)

PREFIX = "quantization_config."
_METHOD = f"{PREFIX}quant_method"
_MODELOPT, _OWN_PREFIX, _LONGEST = "hf_quant_config.json", "quantization.", 1 << 22
_SCALES = ("weight_scale_inv", "weight_scale")
"""What the scales of a weight in F8_E4M3 are called; it has one tensor of them. Both are multiplied by."""

_PACKED = "_packed"
"""What compressed-tensors adds to the name of a weight whose codes share bytes; ModelOpt adds nothing."""

_BLOCKS_OF, _EXPONENTS = "_blocks", "_scales"
"""What a stack in MXFP4 is called, which lies the right way round, and not as transposed as one of floats."""


def with_scales(source: Source, checkpoint: Checkpoint) -> Source:
    """The source, each quantised matrix with the tensors that belong to it. CheckpointError if it lacks them."""
    match source:
        case Tensor(name):
            match _stored_as(checkpoint, name):
                case "U8":
                    return _four_bits(name, checkpoint)
                case None if f"{name}{_PACKED}" in checkpoint.tensors:
                    return _four_bits(f"{name}{_PACKED}", checkpoint)
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
        case HalfOfEach(inner, half):
            return HalfOfEach(with_scales(inner, checkpoint), half)
        case Stack(sources):
            return Stack(tuple(with_scales(each, checkpoint) for each in sources))
        case EverySecond(inner, first):
            return EverySecond(with_scales(inner, checkpoint), first)
        case Transposed(Tensor(name)) if f"{name}{_BLOCKS_OF}" in checkpoint.tensors:
            return Mxfp4(Tensor(f"{name}{_BLOCKS_OF}"), Tensor(f"{name}{_EXPONENTS}"))
        case (
            Plus() | Times() | Float32() | Group() | Flat() | Transposed() | Mxfp4() | Below() | Codes() | Reciprocal()
        ):
            return source
        case Rounded():
            return source


def _stored_as(checkpoint: Checkpoint, name: str) -> str | None:
    tensor = checkpoint.tensors.get(name)
    return tensor.format if tensor else None


def _four_bits(codes: str, checkpoint: Checkpoint) -> Source:
    """Two e2m1 a byte, as ModelOpt and compressed-tensors write them; scales and factors say which format it is.

    ModelOpt's `weight_scale_2` is multiplied by, compressed-tensors' `weight_global_scale` divided by.
    """
    weight = codes.removesuffix(_PACKED)
    scales = f"{weight}_scale"
    factors = [name for name in (f"{weight}_scale_2", f"{weight}_global_scale") if name in checkpoint.tensors]
    match _stored_as(checkpoint, scales), factors:
        case "F8_E4M3", [factor]:
            stored = Tensor(factor)
            by = Reciprocal(stored) if factor.endswith("_global_scale") else Float32(stored)
            return Group("NVFP4_TENSORS", (Codes(codes), Codes(scales, _MOST_E4M3), by))
        case "U8" | "F8_E8M0", []:
            return Group("MXFP4_TENSORS", (Codes(codes), Codes(scales, _MOST_E8M0)))
        case kind, _:
            raise CheckpointError(
                f"{checkpoint.path}: tensor {codes!r} is U8, and {scales!r} is {kind or 'missing'} with "
                f"{' and '.join(factors) or 'no factor'}; expected F8_E4M3 with weight_scale_2 or weight_global_scale "
                "(NVFP4), or U8 alone (MXFP4)"
            )


def _grouped(codes: Tensor, checkpoint: Checkpoint) -> Source:
    module = codes.name.removesuffix("weight")
    found = [name for name in _SCALES if f"{module}{name}" in checkpoint.tensors]
    if len(found) != 1:
        what = " and ".join(f"{module}{name}" for name in found) or f"neither {module}" + f" nor {module}".join(_SCALES)
        raise CheckpointError(
            f"{checkpoint.path}: tensor {codes.name!r} is F8_E4M3, which needs one tensor of scales; there is {what}"
        )
    scales = Tensor(f"{module}{found[0]}")
    match checkpoint.tensors[scales.name].shape, checkpoint.tensors[codes.name].shape:
        case (count, columns), (rows, _) if columns > 1 or 1 < count < rows:
            return Group("FP8_BLOCKS", (codes, Float32(scales)))
    return Group("FP8_ROWS", (codes, Float32(scales)))


_MOST_E4M3, _MOST_E8M0 = 0x7E, 0xFE
"""The largest scales that are positive numbers."""

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
    r"config_groups\.\w+\.weights\.num_bits": (4, 8),
    r"config_groups\.\w+\.weights\.type": ("float",),
    r"config_groups\.\w+\.weights\.symmetric": (True,),
    r"config_groups\.\w+\.weights\.dynamic": (False,),
    r"config_groups\.\w+\.weights\.strategy": ("tensor", "channel", "block", "tensor_group", "group"),
    r"config_groups\.\w+\.weights\.group_size": (16, 32),  # those of NVFP4 and MXFP4
    r"config_groups\.\w+\.weights\.(scale|zp)_dtype": _ANY,
    r"config_groups\.\w+\.weights\.block_structure": _BLOCKS,
}
_FORMATS = ("float-quantized", "naive-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mixed-precision")
# ModelOpt's, and as what weights are then stored; what they say of activations changes nothing here.
_ALGORITHMS: Mapping[str, tuple[str, ...]] = {
    "FP8": ("F8_E4M3",),
    "NVFP4": ("U8",),
    "W4A16_NVFP4": ("U8",),
    "MXFP4": ("U8",),
    "MIXED_PRECISION": ("F8_E4M3", "U8"),
}
_METHODS: Mapping[str, Mapping[str, Allowed]] = {
    "fp8": {"fmt": ("e4m3",), "weight_block_size": _BLOCKS, "activation_scheme": _ANY, **_OTHERS},
    "compressed-tensors": {
        r"(config_groups\.\w+\.)?format": _FORMATS,
        r"sparsity_config\.format": ("dense",),
        **_WEIGHTS,
        **_OTHERS,
    },
    "modelopt": {
        r"quant_algo|quantized_layers\..+\.quant_algo": tuple(_ALGORITHMS),
        r"(quantized_layers\..+\.)?group_size": (16, 32),
        "exclude_modules": _ANY,
        **_WEIGHTS,
        **_OTHERS,
    },
    "mxfp4": _OTHERS,
}


def check_method(checkpoint: Checkpoint) -> str:
    """How the matrices of a folder are quantised, empty if they are not; CheckpointError where nobody here reads that.

    To be asked before its tensors are looked for, which other methods call otherwise.
    """
    metadata = checkpoint.metadata
    if not any(key.startswith(PREFIX) for key in metadata):
        return ""
    method = metadata.value(_METHOD)
    if not isinstance(method, str) or method not in _METHODS:
        raise metadata.wrong(_METHOD, f"{', '.join(_METHODS)}: choose such a model, one not quantised, or a GGUF file")
    return method


def check_key(checkpoint: Checkpoint, key: str) -> None:
    """CheckpointError if a key of `quantization_config` says other than what `with_scales` reads."""
    metadata, method = checkpoint.metadata, check_method(checkpoint)
    if key == _METHOD:
        stored = {"mxfp4": ("U8",), "fp8": ("F8_E4M3",)}.get(method, ("F8_E4M3", "U8"))
        _check_stored(checkpoint, metadata, key, stored)
        return
    _check_rule(checkpoint, metadata, key, PREFIX, method)


def check_recipe_beside(checkpoint: Checkpoint) -> None:
    """The same of ModelOpt's own file, which folders have beside config.json or in place of its words."""
    raw = checkpoint.text(_MODELOPT, _LONGEST) if checkpoint.dialect == "hf" else None
    if raw is None:
        return
    path = checkpoint.path / _MODELOPT
    recipe = Metadata(path, keys_and_values(parse_object(raw, str(path)), path))
    for key in recipe:
        if key.startswith(_OWN_PREFIX) and recipe.value(key) is not None:
            _check_rule(checkpoint, recipe, key, _OWN_PREFIX, "modelopt")


def _check_rule(checkpoint: Checkpoint, metadata: Metadata, key: str, prefix: str, method: str) -> None:
    rules, value = _METHODS[method], metadata.value(key)
    if key == f"{prefix}quant_algo":
        _check_stored(checkpoint, metadata, key, _ALGORITHMS.get(str(value), ("F8_E4M3", "U8")))
    if key.endswith(".weights.num_bits") and value in (4, 8):
        _check_stored(checkpoint, metadata, key, ("U8",) if value == 4 else ("F8_E4M3",))
    rule = next((rule for rule in rules if re.fullmatch(rule, key.removeprefix(prefix), re.ASCII)), None)
    if rule is None:
        raise CheckpointError(
            f"{metadata.path}: key {key[:80]!r} is {metadata.shown(key)}, but imp does not know this key of {method}, "
            "and it may change what weights mean; choose another checkpoint"
        )
    allowed = rules[rule]
    if allowed is not None and value not in allowed:
        raise metadata.wrong(key, f"{' or '.join(map(str, allowed))}: imp does not read anything else")


def _check_stored(checkpoint: Checkpoint, metadata: Metadata, key: str, formats: tuple[str, ...]) -> None:
    """CheckpointError where a key speaks of weights as which none is stored; scales are none."""
    weights = (tensor for name, tensor in checkpoint.tensors.items() if not name.endswith(("_scale", _EXPONENTS)))
    if all(tensor.format not in formats for tensor in weights):
        shown = metadata.shown(key)
        raise CheckpointError(f"{metadata.path}: {key} is {shown}, but no tensor is {' or '.join(formats)}")
