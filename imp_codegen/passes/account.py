"""account: whatever a file says about a model is used, known to change nothing, or an error that names it.

A key counts as used once a getter was asked for it (`Metadata.unread`), a tensor if the graph or the spec reads it.
Keys outside of `<architecture>.` describe the file, but for a few; other readers take no number from them either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from imp_codegen.checkpoint import Checkpoint, CheckpointError
from imp_codegen.graph import Graph
from imp_codegen.models._rope import ROPE_FREQUENCIES
from imp_codegen.spec import ModelSpec

Scalar = int | float | bool | str | None
Harmless = Callable[[Scalar, ModelSpec], bool]


def account(checkpoint: Checkpoint, spec: ModelSpec, graph: Graph) -> None:
    """CheckpointError for the first tensor or key that would change the model and that nothing here reads."""
    _account_for_tensors(checkpoint, spec, graph)
    prefix = f"{spec.architecture}."
    for key in checkpoint.metadata.unread():
        if key.startswith(prefix):
            _account_for_key(checkpoint, spec, key, _KEYS.get(key.removeprefix(prefix)))
        elif key in _OTHERS or (key.startswith("tokenizer.ggml.") and not _TOKENIZER.fullmatch(key)):
            _account_for_key(checkpoint, spec, key, _OTHERS.get(key))


def _account_for_tensors(checkpoint: Checkpoint, spec: ModelSpec, graph: Graph) -> None:
    used = graph.weights().keys() | {ROPE_FREQUENCIES}
    extra = [name for name in checkpoint.tensors if name not in used]
    if not extra:
        return
    layer = re.match(r"blk\.(\d+)\.", extra[0], re.ASCII)
    if layer and int(layer[1]) >= len(spec.layers):
        why = f"lies beyond the {len(spec.layers)} layers of {spec.architecture}.block_count"
    else:
        why = f"is none that imp knows of {spec.architecture}, so it would be left out; choose another checkpoint"
    more = f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
    raise CheckpointError(f"{checkpoint.path}: tensor {extra[0][:80]!r}{more} {why}")


def _account_for_key(checkpoint: Checkpoint, spec: ModelSpec, key: str, harmless: tuple[Harmless, str] | None) -> None:
    if harmless is None:
        raise CheckpointError(
            f"{checkpoint.path}: key {key[:80]!r} is {checkpoint.metadata.shown(key)}, but imp does not know this key, "
            f"and it may change what {spec.architecture} models answer; choose another checkpoint"
        )
    unchanged, expected = harmless
    if not unchanged(checkpoint.metadata.scalar(key), spec):
        raise checkpoint.metadata.wrong(key, f"{expected}: imp does not compile anything else")


def _one_of(*values: Scalar) -> Harmless:
    return lambda value, _: any(type(value) is type(v) and value == v for v in (*values, *map(_as_float, values)))


def _as_float(value: Scalar) -> Scalar:
    return float(value) if type(value) is int else value


def _anything(value: Scalar, spec: ModelSpec) -> bool:
    return True


def _nothing(value: Scalar, spec: ModelSpec) -> bool:
    return False


_OFF = (_one_of(0), "0")
_NEUTRAL = (_one_of(0, 1), "1")
_ONE = (_one_of(1), "1")
_FALSE = (_one_of(False), "false")

# The values at which a key that imp does not read changes nothing: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
_KEYS: Mapping[str, tuple[Harmless, str]] = {
    "attention.causal": (_one_of(True), "true"),
    "attention.clamp_kqv": _OFF,
    "attention.max_alibi_bias": _OFF,
    "attention.shared_kv_layers": _OFF,
    "attention.sliding_window_pattern": (
        lambda value, spec: not any(layer.mixer.window for layer in spec.layers),
        "nothing beside a window that all layers have",
    ),
    "attn_logit_softcapping": _OFF,
    "final_logit_softcapping": _OFF,
    "router_logit_softcapping": _OFF,
    "embedding_length_per_layer_input": _OFF,
    "embedding_scale": _NEUTRAL,
    "logit_scale": _NEUTRAL,
    "residual_scale": _NEUTRAL,
    # Of experts, of which there are none.
    **{
        f"expert_{name}": (_anything, "")
        for name in (
            "used_count",
            "shared_count",
            "feed_forward_length",
            "weights_scale",
            "weights_norm",
            "gating_func",
        )
    },
    "leading_dense_block_count": _OFF,
    "nextn_predict_layers": _OFF,
    # Of YaRN, where rope.scaling.type does not name it.
    "rope.scaling.finetuned": (_anything, ""),
    "rope.scaling.original_context_length": (_anything, ""),
    "rope.scaling.yarn_beta_fast": (_anything, ""),
    "rope.scaling.yarn_beta_slow": (_anything, ""),
    "rope.scaling.yarn_log_multiplier": _OFF,
    "rope.scaling.yarn_ext_factor": _OFF,
    "rope.scaling.attn_factor": _ONE,
    "rope.scaling.yarn_attn_factor": _ONE,
    "swin_norm": _FALSE,
    "tensor_data_layout": (_anything, ""),  # what the converter did; the names of the tensors say it too
    "use_parallel_residual": _FALSE,
    "vocab_size": (lambda value, spec: value == spec.vocab, "the number of rows of token_embd.weight"),
}
_OTHERS: Mapping[str, tuple[Harmless, str]] = {
    "general.quantization_version": (_one_of(2), "2"),
    "tokenizer.ggml.add_sep_token": _FALSE,
    "tokenizer.ggml.precompiled_charsmap": (_nothing, "nothing"),
    "tokenizer.ggml.remove_extra_whitespaces": _FALSE,
    "tokenizer.ggml.suppress_tokens": (_nothing, "nothing"),
}
# Names of tokens, and what one family of tokenizers reads and another does not need.
_TOKENIZER = re.compile(
    r"tokenizer\.ggml\.(\w+_token_ids?|token_type_count|pre|scores|merges|add_space_prefix)", re.ASCII
)
