"""account: whatever a file says about a model is used, known to change nothing, or an error that names it.

A key counts as used once a getter was asked for it (`Metadata.unread`), a tensor if a source or the spec reads it, all
rows of it. In a GGUF file keys outside of `<architecture>.` describe the file, but for a few; other readers take no
number from them either. In a config.json every key counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

import numpy as np

from imp_codegen.checkpoint import Checkpoint, CheckpointError
from imp_codegen.models._rope import LONG_FACTORS, ROPE_FREQUENCIES, SHORT_FACTORS
from imp_codegen.passes.harmless import FIELDS, HARMLESS_FIELDS, KEYS, NO_WEIGHTS, OTHER_PARTS, OTHERS, TOKENIZER
from imp_codegen.quantized import PREFIX, check_key, check_recipe_beside
from imp_codegen.sources import Source, spans_of
from imp_codegen.spec import ModelSpec

_DRAFTS = "num_nextn_predict_layers"  # behind the others
_LAYER = re.compile(r"(?:blk|model\.layers)\.(\d+)\.", re.ASCII)
_LONG_ROPE = {LONG_FACTORS, SHORT_FACTORS}
_KEYS_AND_VALUES = re.compile(
    r"(?:blk|model\.layers)\.(\d+)\.(?:attn_(?:k|v|k_norm)|self_attn\.(?:k_proj|v_proj|k_norm))\.(?:weight|bias)",
    re.ASCII,
)
# What activations and the cache would be rounded with, were they: here they are not.
_SCALES_OF_OTHERS = re.compile(r"(.+)\.(?:input_scale|input_global_scale|[kv]_scale)", re.ASCII)
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def account(checkpoint: Checkpoint, spec: ModelSpec, sources: Collection[Source]) -> tuple[str, ...]:
    """CheckpointError for the first tensor or key that would change the model and that nothing here reads.

    The result is what else is left out, a line each for people.
    """
    check_recipe_beside(checkpoint)
    notes = _account_for_tensors(checkpoint, spec, sources)
    for key in checkpoint.metadata.unread():
        _account_for_key(checkpoint, spec, key)
    return notes


def _account_for_tensors(checkpoint: Checkpoint, spec: ModelSpec, sources: Collection[Source]) -> tuple[str, ...]:
    used = (
        {ROPE_FREQUENCIES}
        | (_LONG_ROPE if spec.original_context else set())
        | {name for source in sources for name in spans_of(source)}
    )
    _check_spans(checkpoint, sources)
    unused = [name for name in checkpoint.tensors if name not in used]
    left_out = {name: part for name in unused if (part := _other_part(checkpoint, spec, name))}
    extra = [name for name in unused if name not in left_out and not _changes_nothing(checkpoint, spec, name)]
    if extra:
        layer = _LAYER.match(extra[0])
        if layer and int(layer[1]) >= len(spec.layers):
            count = checkpoint.metadata.spelled(f"{spec.architecture}.block_count")
            why = f"lies beyond the {len(spec.layers)} layers of {count}"
        else:
            why = f"is none that imp knows of {spec.architecture}, so it would be left out; choose another checkpoint"
        more = f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
        raise CheckpointError(f"{checkpoint.path}: tensor {extra[0][:80]!r}{more} {why}")
    parts = Counter(left_out.values())
    return tuple(f"{checkpoint.path}: {count} tensors of {part} are left out" for part, count in parts.items())


def _other_part(checkpoint: Checkpoint, spec: ModelSpec, name: str) -> str | None:
    """What a tensor belongs to beside the model of text: images, sound, or layers that only draft tokens."""
    if found := OTHER_PARTS.match(name):
        return found[1]
    drafts = checkpoint.metadata.integer(_DRAFTS, 0) if checkpoint.dialect == "hf" else 0
    layer = _LAYER.match(name)
    return "drafts" if layer and len(spec.layers) <= int(layer[1]) < len(spec.layers) + drafts else None


def _check_spans(checkpoint: Checkpoint, sources: Collection[Source]) -> None:
    """CheckpointError for a tensor of which some rows are read, and others are not."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for source in sources:
        for name, span in spans_of(source).items():
            if span is not None:
                spans.setdefault(name, []).append(span)
    for name, read in spans.items():
        if name not in checkpoint.tensors:
            continue
        rows, end = checkpoint.tensors[name].shape[0], 0
        for first, last in sorted(read):
            if first > end:
                break
            end = max(end, last)
        if end < rows:
            raise CheckpointError(
                f"{checkpoint.path}: tensor {name[:80]!r} has {rows} rows, of which those from {end} would be left out"
            )


def _changes_nothing(checkpoint: Checkpoint, spec: ModelSpec, name: str) -> bool:
    """Whether a tensor is one that transformers computes itself, or does not look at."""
    if NO_WEIGHTS.search(name):
        return True
    if (found := _SCALES_OF_OTHERS.fullmatch(name)) is not None:  # beside a weight that has scales of its own
        weight = checkpoint.tensors.get(f"{found[1]}.weight")
        packed = f"{found[1]}.weight_packed" in checkpoint.tensors
        return packed or (weight is not None and weight.format in ("NVFP4", "F8_E4M3", "U8"))
    if (found := _KEYS_AND_VALUES.fullmatch(name)) and int(found[1]) < len(spec.layers):
        return spec.layers[int(found[1])].mixer.shares is not None
    if not spec.tied_embeddings or name != _HEAD:
        return False
    # A head that is stored beside an embedding that it is tied to is a copy of it; if it is none, which one counts?
    head, embedding = checkpoint.tensors[name], checkpoint.tensors.get(_EMBEDDING)
    if embedding is None or (head.shape, head.format) != (embedding.shape, embedding.format):
        return False
    rows = {0, head.rows // 2, head.rows - 1}
    return all(np.array_equal(checkpoint.rows(name, r, r + 1), checkpoint.rows(_EMBEDDING, r, r + 1)) for r in rows)


def _account_for_key(checkpoint: Checkpoint, spec: ModelSpec, key: str) -> None:
    metadata = checkpoint.metadata
    if checkpoint.dialect == "hf":
        if key.startswith(PREFIX):
            check_key(checkpoint, key)
            return
        if key.partition(".")[0] in HARMLESS_FIELDS:
            return
        rule = FIELDS.get(key)
    elif key.startswith(prefix := f"{spec.architecture}."):
        rule = KEYS.get(key.removeprefix(prefix))
    elif key in OTHERS or (key.startswith("tokenizer.ggml.") and not TOKENIZER.fullmatch(key)):
        rule = OTHERS.get(key)
    else:
        return
    if rule is None:
        raise CheckpointError(
            f"{metadata.path}: key {key[:80]!r} is {metadata.shown(key)}, but imp does not know this key, "
            f"and it may change what {spec.architecture} models answer; choose another checkpoint"
        )
    unchanged, expected = rule
    if not unchanged(metadata.value(key), spec):
        raise metadata.wrong(key, f"{expected}: imp does not compile anything else")
