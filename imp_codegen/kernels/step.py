"""A decode step as one resident kernel, from the embedded token to the logits: the same stages without launches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from imp_codegen.graph import Attention, Linear, RmsNorm, Weight, label
from imp_codegen.kernels import attention as attention_family
from imp_codegen.kernels import head as head_family
from imp_codegen.kernels.draft import Config, Cpp, Draft, Param, Scalar
from imp_codegen.kernels.lowering import (
    Lowering,
    core_bytes,
    encode_config,
    encoded_bytes,
    op_names,
    output,
    queries_of_cta,
    round_up,
)
from imp_codegen.kernels.schedule import Phase, Schedule, check
from imp_codegen.passes.fuse import Group
from imp_codegen.tuning.step import Step
from imp_runtime.plan import BLOCK_TOKENS, Binding

# What the phases of a layer read, by family: fuse has followed x through them.
_LAYER = (
    ("norm_linear", {"x"}),
    ("attention", {"qkv"}),
    ("linear_add", {"attn", "x"}),
    ("gate_up", {"x"}),
    ("linear_add", {"gated", "x"}),
)


@dataclass(frozen=True, slots=True)
class _Layer:
    """The operations of one layer's phases."""

    attention_norm: RmsNorm
    qkv: tuple[Linear, ...]
    attention: Group
    out: Linear
    mlp_norm: RmsNorm
    gate: Linear
    up: Linear
    down: Linear


def obstacle(low: Lowering, groups: Sequence[Group]) -> str | None:
    """Why the model cannot be decoded by one kernel, or None."""
    phases = (("embed", set[str]()), *_LAYER * ceil((len(groups) - 2) / len(_LAYER)), ("head", {"x"}))
    for group, (family, reads) in zip(groups, phases, strict=False):
        if (group.family, set(group.reads)) != (family, reads):
            return f"its layers are not all attention and a gated MLP ({label(group.ops[-1])})"
    layers = _layers(groups)
    for layer in layers:
        biased = [op.weight.name for op in (*layer.qkv, layer.out, layer.down) if op.bias]
        if biased:
            return f"{biased[0]} has a bias"
        if len(layer.qkv) != 3:
            return f"{layer.qkv[0].weight.name}: q, k and v are not three matrices"
        if len({_tiles_of_row(low, linear.weight) for linear in layer.qkv}) > 1:
            return f"{layer.qkv[0].weight.name}: q, k and v are cut into different numbers of tiles"
    for layer in layers[1:]:
        for op, first in zip(_alike(low, layer), _alike(low, layers[0]), strict=True):
            if op[1:] != first[1:]:
                return f"{op[0]} differs from {first[0]}"
    if not tuned(low, groups).possible:
        return f"{low.target.name} has too little shared memory for its tiles"
    return None


def _alike(low: Lowering, layer: _Layer) -> tuple[tuple[object, ...], ...]:
    """What the kernel has once for all layers: each operation's label, and what must be the same of it."""
    op, rope, _ = attention_family.parts(layer.attention)
    core = attention_family.core_config(low, layer.attention, 1)
    eps = [(label(norm), norm.eps) for norm in (layer.attention_norm, layer.mlp_norm)]
    return (*eps, (label(rope), rope.rope), (label(op), core), (label(layer.gate), layer.gate.out.width))


def tuned(low: Lowering, groups: Sequence[Group]) -> Step:
    """The kernel as tuning tables know it."""
    layers = _layers(groups)
    _, head, _ = head_family.parts(groups[-1])
    op, _, _ = attention_family.parts(layers[0].attention)
    matrices = [weight for layer in layers for weight in _weights(layer)]
    count = Counter(low.shape(weight) for weight in matrices)
    each = ", ".join(f"{n} of {shape}" for shape, n in sorted(count.items()))
    heads = f"{op.heads}/{op.kv_heads} heads of {op.head_dim}"
    return Step(
        f"{len(layers)} layers, {heads}, {each}, head {low.shape(head.weight)}",
        max(low.tile_bytes(weight) for weight in matrices),
        _slots(low, layers, groups) - low.step_warps,
    )


def draft(low: Lowering, groups: Sequence[Group]) -> Draft:
    """The kernel; `obstacle` must have found none."""
    layers = _layers(groups)
    target, last = low.target, groups[-1]
    norm, head, _ = head_family.parts(last)
    op, _, _ = attention_family.parts(layers[0].attention)
    core = attention_family.core_config(low, layers[0].attention, _splits(low, op))
    slots = _slots(low, layers, groups)
    slot = _slot_bytes(low, layers, head, op)
    matrices = tuple(w for layer in layers for w in _weights(layer))
    choice = low.choose_step(tuned(low, groups))
    step = Config(
        "StepConfig",
        (
            ("warps", low.step_warps),
            ("grid", target.sms),
            ("slots", slots),
            ("in_flight", choice.in_flight),
            ("lanes", choice.lanes),
            ("layer_bytes", low.kv.block_bytes // low.kv.layers),
        ),
    )
    # None if a phase has fewer units than there are CTAs: nobody waits for what a CTA without one makes, so that the
    # vector that it still reads could be written again.
    early = target.early_ctas if least_units(low, groups) >= target.sms else 0
    check(_schedule(low, layers, groups, dict(step.fields), early))
    ops = tuple(name for group in groups[1:-1] for name in op_names(group.ops))
    return Draft(
        name="step",
        entry="step",
        headers=("stage/step", *low.headers(*matrices, head.weight)),
        stage=Cpp("Step", (step, core, *_phases(low, layers, norm, head, early))),
        call=(_arguments(low, layers, groups),),
        grid=(target.sms, 1, 1),
        threads=(low.step_warps + 1) * 32,
        shared_bytes=slots * slot + 2 * round_up(slots * 8, 16) + _scratch(low, layers, groups) + _shared_state(op),
        ops=(*ops, *op_names(last.ops[:2])),
        overlap=True,
        resident=True,
        outputs=(output(head.out, "logits"),),
        phases=5 * len(layers) + 1,
        weight_bytes=low.weight_bytes(*matrices, head.weight),
        other_bytes=head.out.width * 4,
        flops=2 * sum(w.rows * w.cols for w in (*matrices, head.weight)),
    )


def _arguments(low: Lowering, layers: Sequence[_Layer], groups: Sequence[Group]) -> tuple[Param, ...]:
    """The pointers of Step::Args (stage/step.h): the step's own, then those of each layer."""
    norm, head, _ = head_family.parts(groups[-1])
    op, rope, _ = attention_family.parts(layers[0].attention)
    sms, queries = low.target.sms, queries_of_cta(op)
    partial = op.heads // queries * _splits(low, op) * queries * (op.head_dim + 2) * 8
    params: list[Param] = [
        Param("std::uint32_t*", "x", low.buffer("x", norm.x.width * 4)),
        Param("std::uint32_t*", "qkv", low.buffer("step.qkv", sum(q.out.width for q in layers[0].qkv) * 4)),
        Param("std::uint32_t*", "attention", low.buffer("step.attention", op.out.width * 4)),
        Param("std::uint32_t*", "gated", low.buffer("step.gated", layers[0].gate.out.width * 4)),
        Param("std::uint64_t*", "partial", low.buffer("step.partial", partial)),
        Param("std::uint32_t*", "counters", low.buffer("step.counters", 5 * 128)),
        low.turns(rope.rope),
        Param("std::uint8_t*", "cache", Binding("kv")),
        low.state("const std::int32_t*", "step.input"),
        low.state("const std::int32_t*", "seq.position"),
        low.state("const std::int32_t*", "seq.table"),
        low.plane(norm.weight, "head_norm"),
        low.plane(head.weight, "head"),
        Param("float*", "logits", low.buffer("logits", head.out.width * 4)),
        Param("float*", "best_value", low.buffer("head.best_value", sms * 4)),
        Param("std::uint32_t*", "best", low.buffer("head.best", sms * 4)),
    ]
    for layer in layers:
        _, _, norms = attention_family.parts(layer.attention)
        params += [low.plane(norm.weight, "head_norm") for norm in norms]
        params += [low.plane(layer.attention_norm.weight, "norm"), low.plane(layer.mlp_norm.weight, "norm")]
        params += [low.plane(weight, "matrix") for weight in _weights(layer)]
    return tuple(params)


def _phases(low: Lowering, layers: Sequence[_Layer], norm: RmsNorm, head: Linear, early: int) -> tuple[Cpp, ...]:
    """The C++ types of the products, in the order in which they run; attention is between the first and the second."""
    first = layers[0]
    qkv = [tuple(op.weight for op in layer.qkv) for layer in layers]
    gate_up = [(layer.gate.weight, layer.up.weight) for layer in layers]
    return (
        _phase(low, qkv, early, first.attention_norm),
        _phase(low, [(layer.out.weight,) for layer in layers], early, None),
        _phase(low, gate_up, early, first.mlp_norm, units="PairUnits"),
        _phase(low, [(layer.down.weight,) for layer in layers], early, None),
        _phase(low, [(head.weight,)], early, norm),
    )


def _layers(groups: Sequence[Group]) -> tuple[_Layer, ...]:
    found = []
    for at in range(1, len(groups) - 1, len(_LAYER)):
        qkv, attention, out, mlp, down = groups[at : at + len(_LAYER)]
        ops = [op for group in (qkv, out, mlp, down) for op in group.ops]
        *matrices, projection, gate, up, back = (op for op in ops if isinstance(op, Linear))
        norms = [op for op in ops if isinstance(op, RmsNorm)]
        found.append(_Layer(norms[0], tuple(matrices), attention, projection, norms[1], gate, up, back))
    return tuple(found)


def _weights(layer: _Layer) -> tuple[Weight, ...]:
    """The matrices in the order of the phases."""
    return tuple(op.weight for op in (*layer.qkv, layer.out, layer.gate, layer.up, layer.down))


def _phase(
    low: Lowering,
    layers: Sequence[tuple[Weight, ...]],
    early: int,
    norm: RmsNorm | None,
    *,
    units: str = "MatrixUnits",
) -> Cpp:
    """The C++ type of a phase, from its matrices in each layer, and the norm of the vector that they multiply."""
    variants: list[Cpp] = []
    order = []
    for weights in layers:
        variant = Cpp(units, tuple(low.matrix(weight) for weight in weights))
        if variant not in variants:
            variants.append(variant)
        order.append(variants.index(variant))
    encode = encode_config(low, layers[0][0].cols, _all(layers), low.step_warps, norm=norm)
    early = early if layers[0][0].cols <= low.target.early_cols else 0
    return Cpp("StepPhase", (encode, early, Cpp("LayerOrder", tuple(order)), *variants))


def least_units(low: Lowering, groups: Sequence[Group]) -> int:
    """Units of the phase that has the fewest."""
    return min(phase.units for layer in _layers(groups) for phase in _products(low, layer, 0))


def _products(low: Lowering, layer: _Layer, early: int) -> tuple[Phase, ...]:
    """A layer's phases but attention, as schedule.py counts them."""
    qkv = tuple(op.weight for op in layer.qkv)
    return (
        _product(low, "q, k and v", qkv, early),
        _product(low, "output projection", (layer.out.weight,), early),
        _product(low, "gate and up", (layer.gate.weight, layer.up.weight), early, paired=True),
        _product(low, "down projection", (layer.down.weight,), early),
    )


def _product(low: Lowering, name: str, weights: tuple[Weight, ...], early: int, *, paired: bool = False) -> Phase:
    """The twin of MatrixUnits or PairUnits (stage/units.h), and of the step's choice of their order (Shape)."""
    rows = [low.tile(weight).rows for weight in weights]
    tiles = [weight.cols // low.tile(weight).cols for weight in weights]
    cols, target = weights[0].cols, low.target
    early = early if cols <= target.early_cols else 0
    if paired:
        unit_tiles = sum(max(rows) // r * t for r, t in zip(rows, tiles, strict=True))
        return Phase(name, -(-weights[0].rows // max(rows)), unit_tiles, cols, weights[0].rows, early=early)
    units = sum(-(-weight.rows // r) for weight, r in zip(weights, rows, strict=True))
    most = ceil(ceil(units / target.sms) / low.step_warps)
    alike = len({low.matrix(weight).args[0] for weight in weights}) == 1 and not low.wants_dense(*weights)
    may_sweep = alike and tiles[0] > 1 and most * rows[0] <= 8
    return Phase(name, units, tiles[0], cols, sum(weight.rows for weight in weights), may_sweep, early)


def _schedule(
    low: Lowering, layers: Sequence[_Layer], groups: Sequence[Group], step: Mapping[str, Scalar], early: int
) -> Schedule:
    """The kernel's numbers, for the check that it cannot hang."""
    _, head, _ = head_family.parts(groups[-1])
    op, _, _ = attention_family.parts(layers[0].attention)
    return Schedule(
        grid=int(step["grid"]),
        warps=int(step["warps"]),
        slots=int(step["slots"]),
        in_flight=int(step["in_flight"]),
        lanes=int(step["lanes"]),
        layers=tuple(dict.fromkeys(_products(low, layer, early) for layer in layers)),
        head=_product(low, "LM head", (head.weight,), early),
        items=op.heads // queries_of_cta(op),
        splits=_splits(low, op),
        blocks=low.table_blocks,
        qkv=(op.heads + 2 * op.kv_heads) * op.head_dim,
        attention=op.heads * op.head_dim,
    )


def _all(layers: Sequence[tuple[Weight, ...]]) -> tuple[Weight, ...]:
    return tuple(weight for weights in layers for weight in weights)


def _tiles_of_row(low: Lowering, weight: Weight) -> int:
    return weight.cols // low.tile(weight).cols


def _splits(low: Lowering, op: Attention) -> int:
    """CTAs that share a head's blocks: as many as there are, at least one."""
    return max(low.target.sms // (op.heads // queries_of_cta(op)), 1)


def _slot_bytes(low: Lowering, layers: tuple[_Layer, ...], head: Linear, op: Attention) -> int:
    tiles = [low.tile_bytes(weight) for layer in layers for weight in _weights(layer)]
    return max(*tiles, low.tile_bytes(head.weight), BLOCK_TOKENS * op.head_dim * 2)


def _scratch(low: Lowering, layers: tuple[_Layer, ...], groups: Sequence[Group]) -> int:
    """Shared memory of the phases, which take turns."""
    norm, head, _ = head_family.parts(groups[-1])
    op, _, _ = attention_family.parts(layers[0].attention)
    sizes = [
        core_bytes(op, low.step_warps),
        encoded_bytes(low, norm.x.width, (head.weight,), norm=True) + round_up(low.step_warps * 8, 16),
        encoded_bytes(low, norm.x.width, tuple(op.weight for layer in layers for op in layer.qkv), norm=True),
        encoded_bytes(low, op.out.width, tuple(layer.out.weight for layer in layers), norm=False),
        encoded_bytes(
            low, norm.x.width, tuple(op.weight for layer in layers for op in (layer.gate, layer.up)), norm=True
        ),
        encoded_bytes(low, layers[0].down.x.width, tuple(layer.down.weight for layer in layers), norm=False),
    ]
    return max(sizes)


def _shared_state(op: Attention) -> int:
    """Bytes of Step::Shared: four words, and the angles of a head's pairs."""
    return round_up(16 + op.head_dim // 2 * 8, 16)


def _slots(low: Lowering, layers: tuple[_Layer, ...], groups: Sequence[Group]) -> int:
    """Tiles that the ring holds: what shared memory the phases leave."""
    _, head, _ = head_family.parts(groups[-1])
    op, _, _ = attention_family.parts(layers[0].attention)
    room = low.target.max_shared - _scratch(low, layers, groups) - _shared_state(op) - 32
    return max(room // (_slot_bytes(low, layers, head, op) + 16), 0)
