"""Sizes that all parts of the step kernel go by: warps, slots, shared memory, what CTAs leave each other."""

from __future__ import annotations

from collections.abc import Sequence

from imp_codegen.graph import Weight
from imp_codegen.kernels.attention.sizes import attention_warps, core_bytes, queries_of_cta
from imp_codegen.kernels.lowering import Lowering, round_up
from imp_codegen.kernels.step.model import Layer, StepModel
from imp_codegen.kernels.stream import encoded_bytes
from imp_codegen.ops import Attention, Linear
from imp_runtime.plan import BLOCK_TOKENS


def attentions(model: StepModel) -> tuple[Attention, ...]:
    """One of each kind of heads."""
    return tuple(parts.op for parts in model.heads.values())


def phase_count(model: StepModel) -> int:
    """Of a layer, attention among them."""
    return len(model.first.groups())


def warps(model: StepModel) -> int:
    """Warps that compute: in every phase as many as in the attention that has the most."""
    return max(attention_warps(model.low, op) for op in attentions(model))


def slots(model: StepModel) -> int:
    """Tiles that the ring holds: what shared memory the phases leave."""
    room = model.low.target.max_shared - scratch(model) - shared_state(model) - 32
    return max(room // (slot_bytes(model) + 16), 0)


def widths(layer: Layer) -> dict[str, int]:
    """Of what a layer's phases hand on, but of the stream and its branches."""
    found = {
        "qkv": layer.attention.parts.width,
        "attention": layer.op.out.width,
        "gated": layer.gate_up.gated.out.width,
    }
    return found | ({"extra": layer.extra[0].gated.out.width} if layer.extra else {})


def all_weights(layers: Sequence[tuple[Linear, ...]]) -> tuple[Weight, ...]:
    """Of a phase, what it multiplies in each of the layers."""
    return tuple(op.weight for linears in layers for op in linears)


def splits(low: Lowering, op: Attention) -> int:
    """CTAs that share a head's blocks: as many as there are, at least one."""
    return max(low.target.sms // (op.heads // queries_of_cta(op)), 1)


def partial_bytes(low: Lowering, op: Attention) -> int:
    """Of the parts of all heads, which CTAs leave each other: words with a tag."""
    queries = queries_of_cta(op)
    return op.heads // queries * splits(low, op) * queries * (op.head_dim + 2) * 8


def handed_words(model: StepModel) -> int:
    """Of one layer's new rows: the twin of StepAttention's."""
    return max(op.kv_heads * 2 * _row_bytes(model.low, op) // 4 for op in attentions(model))


def slot_bytes(model: StepModel) -> int:
    """Of the largest tile, of weights or of the cache."""
    low = model.low
    tiles = [low.tile_bytes(weight) for weight in (*model.matrices(), model.head.linear.weight)]
    return max(*tiles, *(BLOCK_TOKENS * _row_bytes(low, op) // pieces(low, op) for op in attentions(model)))


def pieces(low: Lowering, op: Attention) -> int:
    """Slots that a tile of the cache takes: the twin of StepHeads'."""
    tile = BLOCK_TOKENS * _row_bytes(low, op)
    return next(n for n in (1, 2, 4, 8) if tile <= n * 4096 or n == BLOCK_TOKENS // 2)


def scratch(model: StepModel) -> int:
    """Shared memory of the phases, which take turns."""
    low, head = model.low, round_up(warps(model) * 8, 16)
    *sizes, last = (
        max(encoded_bytes(low, vector, all_weights(layers)) for vector in vectors)
        for layers, vectors in zip(model.products(), model.vectors(), strict=True)
    )
    attention = (core_bytes(op, _row_bytes(low, op), attention_warps(low, op)) for op in attentions(model))
    return max(*attention, *sizes, last + head)


def shared_state(model: StepModel) -> int:
    """Bytes of Step::Shared, four words and the angles of a head's pairs in each table, and of what counts writes."""
    ropes, pairs = model.ropes(), max(op.head_dim for op in attentions(model)) // 2
    still = any(not layer.attention.parts.ropes for layer in model.layers)
    lengths = {tuple(widths(layer).values()) for layer in model.layers}
    counts = round_up(2 * len(model.layers), 16) if len(lengths) > 1 else 0
    return round_up(16 + (len(ropes) + still) * pairs * 8, 16) + counts


def _row_bytes(low: Lowering, op: Attention) -> int:
    """Of the cache that the attention reads."""
    return low.cache.layers[op.layer].row_bytes
