"""Mixtures of experts: reading their numbers, and where folders hold an expert's matrices.

GGUF's keys: ggml/docs/gguf.md; what llama.cpp takes where one is missing: its src/models/*.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from imp_codegen.checkpoint import Checkpoint, CheckpointError, Dialect
from imp_codegen.sources import HalfOfEach, Source, Stack, Tensor
from imp_codegen.spec import Activation, ModelSpec, MoeSpec

MAX_EXPERTS = 512
MAX_USED = 32
_JOINED = "blk.{}.ffn_gate_up_exps.weight"  # what llama.cpp's converter writes for two tensors if it is told to
_MAX_WIDTH = 1 << 20
# What else keys may say of a mixture, the usual value first. Of the router's function 1 is softmax, 0 the usual one
# (llama.cpp, llama_expert_gating_func_type).
_WAYS = {"gating_func": (1, 0), "shared_count": (0,), "group_count": (1, 0), "group_used_count": (1, 0)}


@dataclass(frozen=True, slots=True)
class Experts:
    """How an architecture's mixtures are.

    `width_key`: that of an expert's inner width. `normalise`: whether the shares of those chosen add up to one, where
    the checkpoint does not say it. `shared`: all tokens go to one more, which a gate weighs. `read_router`: what else
    keys say of a mixture, in a way of its own. `leading`: the first layers may be dense.
    """

    width_key: str = "expert_feed_forward_length"
    normalise: bool = True
    shared: bool = False
    read_router: Callable[[Checkpoint, MoeSpec], MoeSpec] | None = None
    leading: bool = False


def read_experts(
    checkpoint: Checkpoint, architecture: str, layers: int, activation: Activation, ways: Experts | None
) -> tuple[MoeSpec | None, ...]:
    """The mixture of each layer, None where it is dense. CheckpointError names the key that is missing, or odd."""
    meta = checkpoint.metadata
    key = f"{architecture}.expert_count"
    count = meta.integer(key, 0, maximum=MAX_EXPERTS)
    if not count:
        return (None,) * layers
    if ways is None:
        raise CheckpointError(
            f"{checkpoint.path}: is a mixture of experts ({meta.spelled(key)} is {count}), which imp does not compile "
            f"of {architecture}; choose a dense model"
        )
    if "blk.0.ffn_gate.0.weight" in checkpoint.tensors:
        raise CheckpointError(
            f"{checkpoint.path}: has a tensor for each expert, such as 'blk.0.ffn_gate.0.weight', as early files of "
            "mixtures do; convert the model again, or download a newer file"
        )
    used = meta.integer(f"{architecture}.expert_used_count", minimum=1, maximum=min(count, MAX_USED))
    width = meta.integer_of_layers(f"{architecture}.{ways.width_key}", layers, minimum=1, maximum=_MAX_WIDTH)
    normalise = meta.boolean(f"{architecture}.expert_weights_norm", ways.normalise)
    moe = MoeSpec(count, used, width, activation, normalise)
    moe = ways.read_router(checkpoint, moe) if ways.read_router else _usual_router(checkpoint, architecture, moe, ways)
    joined = (_JOINED.format(index) in checkpoint.tensors for index in range(layers))
    sparse = _sparse(checkpoint, architecture, layers, ways)
    return tuple(replace(moe, joined=whole) if here else None for whole, here in zip(joined, sparse, strict=True))


def _usual_router(checkpoint: Checkpoint, architecture: str, moe: MoeSpec, ways: Experts) -> MoeSpec:
    meta = checkpoint.metadata
    for name, allowed in _WAYS.items():
        if meta.integer(f"{architecture}.expert_{name}", allowed[0]) not in allowed:
            raise meta.wrong(f"{architecture}.expert_{name}", f"{allowed[0]}: imp does not compile other mixtures")
    if meta.number(f"{architecture}.expert_weights_scale", 1.0) not in (1.0, 0.0):  # 0: none
        raise meta.wrong(f"{architecture}.expert_weights_scale", "1: imp does not compile other mixtures")
    key = f"{architecture}.expert_shared_feed_forward_length"
    shared = meta.integer(key, minimum=1, maximum=_MAX_WIDTH) if ways.shared else 0
    return replace(moe, shared=shared, shared_gate=ways.shared)


def _sparse(checkpoint: Checkpoint, architecture: str, layers: int, ways: Experts) -> tuple[bool, ...]:
    """Which layers are mixtures: in GGUF files all but the leading ones that are said to be dense."""
    meta = checkpoint.metadata
    if ways.leading:
        dense_ones = meta.integer(f"{architecture}.leading_dense_block_count", 0)
        return tuple(index >= dense_ones for index in range(layers))
    if checkpoint.dialect == "gguf":
        return (True,) * layers
    period = meta.integer("decoder_sparse_step", 1, minimum=1, maximum=layers)
    dense = meta.integers("mlp_only_layers", (), minimum=0, maximum=layers - 1)
    return tuple(index not in dense and (index + 1) % period == 0 for index in range(layers))


def experts_source(
    weight: str, spec: ModelSpec, dialect: Dialect, module: str, parts: Mapping[str, str]
) -> Source | None:
    """An expert's matrices: in a folder a tensor each, below one another; in a file gate and up may be one tensor.

    None for weights that are a tensor of their own. `module`: of a layer, which holds the experts. `parts`: what it
    calls their gate, up and down.
    """
    found = re.fullmatch(r"blk\.(\d+)\.ffn_(gate|up|down)_exps\.weight", weight)
    if not found:
        return None
    ffn = spec.layers[int(found[1])].ffn
    assert isinstance(ffn, MoeSpec)
    if dialect == "gguf":
        halves = ("gate", "up") if ffn.joined else ()
        return HalfOfEach(Tensor(_JOINED.format(found[1])), halves.index(found[2])) if found[2] in halves else None
    names = (f"model.layers.{found[1]}.{module}.{expert}.{parts[found[2]]}.weight" for expert in range(ffn.experts))
    return Stack(tuple(map(Tensor, names)))
