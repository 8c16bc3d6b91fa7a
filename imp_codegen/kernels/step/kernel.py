"""The step kernel (stage/step.h): its type, its arguments, its memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil

from imp_codegen.graph import Weight, label
from imp_codegen.kernels.attention.parts import Parts, core_config, norm_params, turns_param
from imp_codegen.kernels.attention.sizes import attention_warps, core_bytes, queries_of_cta
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec, Param, Scalar
from imp_codegen.kernels.lowering import Lowering, round_up
from imp_codegen.kernels.step.model import Layer, StepModel
from imp_codegen.kernels.step.schedule import Phase, Schedule, check
from imp_codegen.kernels.stream import encode_config, encoded_bytes
from imp_codegen.ops import Attention, RmsNorm
from imp_codegen.tuning.step import Step
from imp_runtime.plan import BLOCK_TOKENS, Binding


def tuned(model: StepModel) -> Step:
    """The kernel as tuning tables know it."""
    low, op, matrices = model.low, model.first.op, model.matrices()
    count = Counter(low.shape(weight) for weight in matrices)
    each = ", ".join(f"{n} of {shape}" for shape, n in sorted(count.items()))
    heads = f"{op.heads}/{op.kv_heads} heads of {op.head_dim}"
    return Step(
        f"{len(model.layers)} layers, {heads}, {each}, head {low.shape(model.head.linear.weight)}",
        max(low.tile_bytes(weight) for weight in matrices),
        _slots(model) - _warps(model),
    )


def step_kernel(model: StepModel) -> KernelSpec:
    """The kernel; it must be possible by `tuned`."""
    low, head = model.low, model.head
    matrices, target, slots, warps = model.matrices(), low.target, _slots(model), _warps(model)
    choice = low.choose_step(tuned(model))
    step = Config(
        "StepConfig",
        (
            ("warps", warps),
            ("grid", target.sms),
            ("slots", slots),
            ("in_flight", choice.in_flight),
            ("lanes", choice.lanes),
            ("layer_bytes", low.cache.layers[0].nbytes),
        ),
    )
    # None if a phase has fewer units than there are CTAs: nobody waits for what a CTA without one makes, so that the
    # vector that it still reads could be written again.
    early = target.early_ctas if least_units(model) >= target.sms else 0
    check(_schedule(model, dict(step.fields), early))
    ops = [op for layer in model.layers for match in layer.groups() for op in match.ops]
    logits = head.linear.out
    return KernelSpec(
        name="step",
        entry="step",
        headers=("stage/step", *low.headers(*matrices, head.linear.weight)),
        stage=Cpp("Step", (step, _attention(model), *_phases(model, early))),
        call=(_arguments(model),),
        grid=(target.sms, 1, 1),
        threads=(warps + 1) * 32,
        shared_bytes=slots * _slot_bytes(model) + 2 * round_up(slots * 8, 16) + _scratch(model) + _shared_state(model),
        ops=tuple(map(label, (*ops, *head.ops[:2]))),
        overlap=True,
        resident=True,
        outputs=low.output(logits),
        phases=5 * len(model.layers) + 1,
        weight_bytes=low.weight_bytes(*matrices, head.linear.weight),
        other_bytes=logits.width * 4,
        cache_bytes=sum(layer.position_bytes for layer in low.cache.layers),
        flops=2 * sum(w.rows * w.cols for w in (*matrices, head.linear.weight)),
    )


def least_units(model: StepModel) -> int:
    """Units of the phase that has the fewest."""
    return min(phase.units for layer in model.layers for phase in _products(model, layer, 0))


def _arguments(model: StepModel) -> tuple[Param, ...]:
    """The pointers of Step::Args (stage/step.h): the step's own, then those of each layer."""
    low, first, head = model.low, model.first, model.head
    op, sms, queries = first.op, low.target.sms, queries_of_cta(first.op)
    partial = op.heads // queries * _splits(low, op) * queries * (op.head_dim + 2) * 8
    params: list[Param] = [
        low.value("std::uint32_t*", "x", model.embedding.op.out),
        Param("std::uint32_t*", "qkv", low.buffer("step.qkv", first.attention.parts.width * 4)),
        Param("std::uint32_t*", "attention", low.buffer("step.attention", op.out.width * 4)),
        Param("std::uint32_t*", "gated", low.buffer("step.gated", first.gate_up.gated.out.width * 4)),
        Param("std::uint64_t*", "partial", low.buffer("step.partial", partial)),
        Param("std::uint32_t*", "counters", low.buffer("step.counters", 5 * 128)),
        *(turns_param(low, parts) for parts in _kinds(model) if parts.ropes),
        Param("std::uint8_t*", "cache", Binding("kv")),
        low.state("const std::int32_t*", "step.input"),
        low.state("const std::int32_t*", "seq.position"),
        low.state("const std::int32_t*", "seq.table"),
        low.plane(head.norm.weight, "head_norm"),
        low.plane(head.linear.weight, "head"),
        low.value("float*", "logits", head.linear.out),
        Param("float*", "best_value", low.buffer("head.best_value", sms * 4)),
        Param("std::uint32_t*", "best", low.buffer("head.best", sms * 4)),
    ]
    for layer in model.layers:
        params += [param for param in norm_params(low, layer.attention.parts.norms) if param.binding]
        params += [low.plane(layer.qkv.norm.weight, "norm"), low.plane(layer.gate_up.norm.weight, "norm")]
        params += [low.plane(weight, "matrix") for weight in layer.matrices()]
    return tuple(params)


def _phases(model: StepModel, early: int) -> tuple[Cpp, ...]:
    """The C++ types of the products, in the order in which they run; attention is between the first and the second."""
    layers, first, head = model.layers, model.first, model.head
    qkv = [tuple(op.weight for op in layer.qkv.linears) for layer in layers]
    gate_up = [(layer.gate_up.gate.weight, layer.gate_up.up.weight) for layer in layers]
    return (
        _phase(model, qkv, early, first.qkv.norm),
        _phase(model, [(layer.out.linear.weight,) for layer in layers], early, None),
        _phase(model, gate_up, early, first.gate_up.norm, units="PairUnits"),
        _phase(model, [(layer.down.linear.weight,) for layer in layers], early, None),
        _phase(model, [(head.linear.weight,)], early, head.norm),
    )


def _kinds(model: StepModel) -> tuple[Parts, ...]:
    """An attention of every kind, in the order of first use: those of one differ in weights and place alone."""
    found: dict[object, Parts] = {}
    for layer in model.layers:
        found.setdefault(_kind(model, layer.attention.parts), layer.attention.parts)
    return tuple(found.values())


def _kind(model: StepModel, parts: Parts) -> object:
    return core_config(model.low, parts, _splits(model.low, parts.op)), parts.rope


def _attention(model: StepModel) -> Cpp:
    """The C++ type of all layers' attention."""
    kinds = _kinds(model)
    numbers = {_kind(model, parts): number for number, parts in enumerate(kinds)}
    order = Cpp("LayerOrder", tuple(numbers[_kind(model, layer.attention.parts)] for layer in model.layers))
    configs = (core_config(model.low, parts, _splits(model.low, parts.op)) for parts in kinds)
    return Cpp("StepAttention", (order, *configs))


def _phase(
    model: StepModel,
    layers: Sequence[tuple[Weight, ...]],
    early: int,
    norm: RmsNorm | None,
    *,
    units: str = "MatrixUnits",
) -> Cpp:
    """The C++ type of a phase, from its matrices in each layer, and the norm of the vector that they multiply."""
    low, cols = model.low, layers[0][0].cols
    variants: list[Cpp] = []
    order = []
    for weights in layers:
        variant = Cpp(units, tuple(low.matrix(weight) for weight in weights))
        if variant not in variants:
            variants.append(variant)
        order.append(variants.index(variant))
    encode = encode_config(low, cols, _all(layers), _warps(model), norm=norm)
    early = early if cols <= low.target.early_cols else 0
    config = Config("PhaseConfig", (("early", early),))
    return Cpp("StepPhase", (encode, config, Cpp("LayerOrder", tuple(order)), *variants))


def _products(model: StepModel, layer: Layer, early: int) -> tuple[Phase, ...]:
    """A layer's phases but attention, as schedule.py counts them."""
    qkv = tuple(op.weight for op in layer.qkv.linears)
    return (
        _product(model, "q, k and v", qkv, early),
        _product(model, "output projection", (layer.out.linear.weight,), early),
        _product(model, "gate and up", (layer.gate_up.gate.weight, layer.gate_up.up.weight), early, paired=True),
        _product(model, "down projection", (layer.down.linear.weight,), early),
    )


def _product(model: StepModel, name: str, weights: tuple[Weight, ...], early: int, *, paired: bool = False) -> Phase:
    """The twin of MatrixUnits or PairUnits (stage/units.h), and of the step's choice of their order (Shape)."""
    low = model.low
    rows = [low.tile(weight).rows for weight in weights]
    tiles = [weight.cols // low.tile(weight).cols for weight in weights]
    cols, target = weights[0].cols, low.target
    early = early if cols <= target.early_cols else 0
    if paired:
        unit_tiles = sum(max(rows) // r * t for r, t in zip(rows, tiles, strict=True))
        return Phase(name, -(-weights[0].rows // max(rows)), unit_tiles, cols, weights[0].rows, early=early)
    units = sum(-(-weight.rows // r) for weight, r in zip(weights, rows, strict=True))
    most = ceil(ceil(units / target.sms) / _warps(model))
    alike = len({low.matrix(weight).args[0] for weight in weights}) == 1 and not low.wants_dense(*weights)
    may_sweep = alike and tiles[0] > 1 and most * rows[0] <= 8
    return Phase(name, units, tiles[0], cols, sum(weight.rows for weight in weights), may_sweep, early)


def _schedule(model: StepModel, step: Mapping[str, Scalar], early: int) -> Schedule:
    """The kernel's numbers, for the check that it cannot hang."""
    low, op = model.low, model.first.op
    return Schedule(
        grid=int(step["grid"]),
        warps=int(step["warps"]),
        slots=int(step["slots"]),
        in_flight=int(step["in_flight"]),
        lanes=int(step["lanes"]),
        layers=tuple(dict.fromkeys(_products(model, layer, early) for layer in model.layers)),
        head=_product(model, "LM head", (model.head.linear.weight,), early),
        windows=tuple(dict.fromkeys(layer.op.window for layer in model.layers)),
        items=op.heads // queries_of_cta(op),
        splits=_splits(low, op),
        blocks=low.table_blocks,
        qkv=(op.heads + 2 * op.kv_heads) * op.head_dim,
        attention=op.heads * op.head_dim,
    )


def _all(layers: Sequence[tuple[Weight, ...]]) -> tuple[Weight, ...]:
    return tuple(weight for weights in layers for weight in weights)


def _warps(model: StepModel) -> int:
    """Warps that compute, in every phase as many as in attention."""
    return attention_warps(model.low, model.first.op)


def _splits(low: Lowering, op: Attention) -> int:
    """CTAs that share a head's blocks: as many as there are, at least one."""
    return max(low.target.sms // (op.heads // queries_of_cta(op)), 1)


def _slot_bytes(model: StepModel) -> int:
    tiles = [model.low.tile_bytes(weight) for weight in (*model.matrices(), model.head.linear.weight)]
    return max(*tiles, BLOCK_TOKENS * model.first.op.head_dim * 2)


def _scratch(model: StepModel) -> int:
    """Shared memory of the phases, which take turns."""
    low, layers, first, warps = model.low, model.layers, model.first, _warps(model)
    hidden = model.head.norm.x.width
    gate_up = tuple(op.weight for layer in layers for op in (layer.gate_up.gate, layer.gate_up.up))
    sizes = [
        core_bytes(first.op, warps),
        encoded_bytes(low, hidden, (model.head.linear.weight,), norm=True) + round_up(warps * 8, 16),
        encoded_bytes(low, hidden, tuple(op.weight for layer in layers for op in layer.qkv.linears), norm=True),
        encoded_bytes(low, first.op.out.width, tuple(layer.out.linear.weight for layer in layers), norm=False),
        encoded_bytes(low, hidden, gate_up, norm=True),
        encoded_bytes(low, first.down.linear.x.width, tuple(layer.down.linear.weight for layer in layers), norm=False),
    ]
    return max(sizes)


def _shared_state(model: StepModel) -> int:
    """Bytes of Step::Shared: four words, and the angles of a head's pairs for every kind that turns."""
    tables = max(sum(bool(parts.ropes) for parts in _kinds(model)), 1)
    return round_up(16 + tables * model.first.op.head_dim // 2 * 8, 16)


def _slots(model: StepModel) -> int:
    """Tiles that the ring holds: what shared memory the phases leave."""
    room = model.low.target.max_shared - _scratch(model) - _shared_state(model) - 32
    return max(room // (_slot_bytes(model) + 16), 0)
