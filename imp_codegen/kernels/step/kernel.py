"""The step kernel (stage/step.h): its type, its arguments, its memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil

from imp_codegen.graph import Weight, label
from imp_codegen.kernels.attention.parts import core_config, norm_weights
from imp_codegen.kernels.attention.sizes import attention_warps, core_bytes, queries_of_cta
from imp_codegen.kernels.kernel_spec import Argument, Arguments, Config, Cpp, KernelSpec, Param, Scalar
from imp_codegen.kernels.linear_add import LinearAdd
from imp_codegen.kernels.lowering import Lowering, round_up
from imp_codegen.kernels.step.copies import Copies
from imp_codegen.kernels.step.model import Layer, StepModel
from imp_codegen.kernels.step.schedule import Flow, Phase, Schedule, check, flows
from imp_codegen.kernels.stream import activation, bias_mask, biases, encode_config, encoded_bytes
from imp_codegen.kernels.vector import Sum, Vector, norm_weight
from imp_codegen.ops import Attention, Linear, RmsNorm
from imp_codegen.tune.step import Step
from imp_runtime.plan import BLOCK_TOKENS, CacheRead


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
    early = target.card.formulas.early_ctas if least_units(model) >= target.sms else 0
    check(_schedule(model, dict(step.fields), early))
    ops = [op for layer in model.layers for match in layer.groups() for op in match.ops]
    logits, copies = head.logits, Copies(low)
    return KernelSpec(
        name="step",
        entry="step",
        headers=("stage/step", low.cache_header(model.first.op.layer), *low.headers(*matrices, head.linear.weight)),
        stage=Cpp("Step", (step, *_phases(model, early))),
        args=_arguments(model, copies),
        indexed=True,
        grid=(target.sms, 1, 1),
        threads=(warps + 1) * 32,
        shared_bytes=slots * _slot_bytes(model) + 2 * round_up(slots * 8, 16) + _scratch(model) + _shared_state(model),
        ops=tuple(map(label, (*ops, *head.ops[:-1]))),
        overlap=True,
        resident=True,
        outputs=(*copies.outputs, *low.output(logits)),
        phases=5 * len(model.layers) + 1,
        weight_bytes=low.weight_bytes(*matrices, head.linear.weight),
        other_bytes=logits.width * 4,
        cache_reads=_cache_reads(model),
        flops=2 * sum(w.rows * w.cols for w in (*matrices, head.linear.weight)),
    )


def least_units(model: StepModel) -> int:
    """Units of the phase that has the fewest."""
    return min(phase.units for layer in model.layers for phase in _products(model, layer, 0))


def _cache_reads(model: StepModel) -> tuple[CacheRead, ...]:
    """Of all layers, those with the same window together."""
    nbytes: Counter[int] = Counter()
    for layer in model.layers:
        nbytes[layer.op.window] += model.low.cache.layers[layer.op.layer].position_bytes
    return tuple(CacheRead(window, count) for window, count in sorted(nbytes.items()))


def _arguments(model: StepModel, copies: Copies) -> Arguments:
    """What the kernel reads by name (stage/step.h): the step's own pointers, then those of each layer, a phase each."""
    low, first, head = model.low, model.first, model.head
    op, queries = first.op, queries_of_cta(first.op)
    partial = op.heads // queries * _splits(low, op) * queries * (op.head_dim + 2) * 8
    args: dict[str, Argument] = {
        "x": low.value("std::uint32_t*", model.embedding.op.out),
        "qkv": Param("std::uint32_t*", low.buffer("step.qkv", first.attention.parts.width * 4)),
        "attention": Param("std::uint32_t*", low.buffer("step.attention", op.out.width * 4)),
        "gated": Param("std::uint32_t*", low.buffer("step.gated", first.gate_up.gated.out.width * 4)),
        "partial": Param("std::uint64_t*", low.buffer("step.partial", partial)),
        "counters": Param("std::uint32_t*", low.buffer("step.counters", 5 * 128)),
        "rows": low.step_rows(),
        "positions": low.state("const std::int32_t*", "seq.position"),
    }
    if len(low.cache.groups) == 1:
        args |= {"cache": low.layer_cache(0), "table": low.layer_table(0)}
    if ropes := model.ropes():
        args["turns"] = tuple(map(low.turns, ropes))
    if head.vector.sum:
        width = head.vector.value.width * 4
        args |= {name: Param("std::uint32_t*", low.buffer(f"step.{name}", width)) for name in ("branch", "sum")}
    stored = {name: argument for name, argument in head.stored(low).items() if name != "bias"}
    args["head"] = {**stored, **_product_arguments(low, (head.linear,), head.vector.norm, head.vector.sum)}
    args["layer"] = tuple(
        _layer_arguments(low, layer, mlp_sum, copies)
        for layer, mlp_sum in zip(model.layers, model.mlp_sums(), strict=True)
    )
    return args


def _layer_arguments(low: Lowering, layer: Layer, mlp_sum: Sum | None, copies: Copies) -> Arguments:
    """A layer's pointers; the first layer, which finds no branch to add, has those for it, too: its own branch's."""
    parts, (qkv, out, gate_up, down) = layer.attention.parts, layer.products()
    own, qkv_sum = layer.qkv.vector.sum, {}
    if own:
        qkv_sum = copies.of("sum_copy", (own.out,))
    elif mlp_sum:
        qkv_sum = copies.unread("sum_copy", mlp_sum.out.width)
    args: dict[str, Argument] = {
        "qkv": _product_arguments(low, qkv, layer.qkv.vector.norm, layer.qkv.vector.sum or mlp_sum)
        | qkv_sum
        | copies.of("copy", tuple(linear.out for linear in qkv)),
    }
    attention: dict[str, Argument] = {name: norm for name, norm in norm_weights(low, parts).items() if norm}
    if len(low.cache.groups) > 1:
        attention |= {"cache": low.layer_cache(parts.op.layer), "table": low.layer_table(parts.op.layer)}
    if attention := attention | copies.of("copy", (parts.op.out,)):
        args["attention"] = attention
    copies.cache(parts)
    args["out"] = _product_arguments(low, out) | copies.of("copy", layer.out.writes[0])
    add = layer.gate_up.vector.sum
    gate_up_sum = copies.of("sum_copy", (add.out,)) if add else {}
    args["gate_up"] = (
        _product_arguments(low, gate_up, layer.gate_up.vector.norm, layer.gate_up.vector.sum)
        | gate_up_sum
        | copies.of("copy", (layer.gate_up.gated.out,))
    )
    args["down"] = _product_arguments(low, down) | copies.of("copy", layer.down.writes[0])
    return args


def _product_arguments(
    low: Lowering, linears: tuple[Linear, ...], norm: RmsNorm | None = None, post: Sum | None = None
) -> dict[str, Argument]:
    """A product's weights: its norm's, the branch's that it adds, that sum's scale, biases, matrices; what there is."""
    weights: dict[str, Argument] = {
        "norm": norm_weight(low, norm),
        "post": norm_weight(low, post.norm) if post else None,
        "scale": low.plane(post.scale.weight) if post and post.scale else None,
        "bias": biases(low, linears) if bias_mask(linears) else None,
        "plane": tuple(low.plane(linear.weight) for linear in linears),
    }
    return {name: argument for name, argument in weights.items() if argument}


def _phases(model: StepModel, early: int) -> tuple[Cpp, Cpp]:
    """The C++ types of a layer's phases, in the order in which they run, and of the head's product."""
    first, head = model.first, model.head
    each = [*zip(*(layer.products() for layer in model.layers), strict=True), ((head.linear,),)]
    scales = [1.0, *(match.add.scale if isinstance(match, LinearAdd) else 1.0 for match in (first.out, first.down))]
    logits = dict(head.config(_warps(model)).fields)
    configs: list[dict[str, Scalar]] = [{"scale": scale, "cap": 0.0} for scale in (1.0, scales[1], 1.0, scales[2])]
    configs.append({"scale": logits["scale"], "cap": logits["cap"]})
    qkv, attention, *others = flows(head.vector.sum is not None)
    places = zip(("AtQkv", "AtOut", "AtGateUp", "AtDown", "AtHead"), (qkv, *others), strict=True)
    products = [
        _phase(model, place, layers, vector, early, config, activation(first.gate_up.gated) if at == 2 else None)
        for at, (place, layers, vector, config) in enumerate(zip(places, each, model.vectors(), configs, strict=True))
    ]
    return Cpp("Phases", (products[0], _attention(model, attention), *products[1:-1])), products[-1]


def _flow(flow: Flow) -> Cpp:
    """What a phase reads and writes, as a type."""
    vectors = (Cpp(f"Vector::{name or 'none'}") for name in (flow.reads, flow.writes, flow.branch, flow.kept))
    return Cpp("Flow", (*vectors, flow.adds))


def _attention(model: StepModel, flow: Flow) -> Cpp:
    """The C++ type of all layers' attention. Layers that do not turn have the table after the last."""
    low, layers, ropes = model.low, model.layers, model.ropes()
    turning = next((layer for layer in layers if layer.attention.parts.ropes), model.first).attention.parts
    windows = [layer.op.window for layer in layers]
    tables = [ropes.index(rope) if (rope := layer.attention.parts.rope) else len(ropes) for layer in layers]
    core = core_config(low, turning, _splits(low, turning.op), max(windows))
    orders = (Cpp("LayerOrder", tuple(windows)), Cpp("LayerOrder", tuple(tables)))
    row = low.cache_row(model.first.op.layer)
    magnitudes = (float(rope.magnitude) for rope in ropes)
    return Cpp("StepAttention", (_flow(flow), core, row, *orders, *magnitudes))


def _phase(
    model: StepModel,
    place: tuple[str, Flow],
    layers: Sequence[tuple[Linear, ...]],
    vector: Vector,
    early: int,
    config: Mapping[str, Scalar],
    gate: Cpp | None,
) -> Cpp:
    """The C++ type of a phase: its matrices in each layer, what they multiply, what becomes of a gate and of a row."""
    low = model.low
    variants: list[Cpp] = []
    order = []
    for linears in layers:
        matrices = tuple(low.matrix(op.weight) for op in linears)
        variant = Cpp("PairUnits", (*matrices, gate)) if gate else Cpp("MatrixUnits", matrices)
        if variant not in variants:
            variants.append(variant)
        order.append(variants.index(variant))
    encode = encode_config(low, vector, _all(layers), _warps(model))
    early = early if vector.value.width <= low.target.card.formulas.early_cols else 0
    phase = Config("PhaseConfig", (("early", early), ("biased", bias_mask(layers[0])), *config.items()))
    name, flow = place
    return Cpp("StepPhase", (Cpp(name), _flow(flow), encode, phase, Cpp("LayerOrder", tuple(order)), *variants))


def _products(model: StepModel, layer: Layer, early: int) -> tuple[Phase, ...]:
    """A layer's phases but attention, as schedule.py counts them."""
    names = ("q, k and v", "output projection", "gate and up", "down projection")
    return tuple(
        _product(model, name, tuple(op.weight for op in linears), early, paired=name == "gate and up")
        for name, linears in zip(names, layer.products(), strict=True)
    )


def _product(model: StepModel, name: str, weights: tuple[Weight, ...], early: int, *, paired: bool = False) -> Phase:
    """The twin of MatrixUnits or PairUnits (stage/units.h), and of the step's choice of their order (Shape)."""
    low = model.low
    rows = [low.tile(weight).rows for weight in weights]
    tiles = [weight.cols // low.tile(weight).cols for weight in weights]
    cols, target = weights[0].cols, low.target
    early = early if cols <= target.card.formulas.early_cols else 0
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
        pieces=_pieces(model),
        blocks=low.table_blocks,
        qkv=(op.heads + 2 * op.kv_heads) * op.head_dim,
        attention=op.heads * op.head_dim,
        flows=flows(model.head.vector.sum is not None),
    )


def _all(layers: Sequence[tuple[Linear, ...]]) -> tuple[Weight, ...]:
    return tuple(op.weight for linears in layers for op in linears)


def _warps(model: StepModel) -> int:
    """Warps that compute, in every phase as many as in attention."""
    return attention_warps(model.low, model.first.op)


def _splits(low: Lowering, op: Attention) -> int:
    """CTAs that share a head's blocks: as many as there are, at least one."""
    return max(low.target.sms // (op.heads // queries_of_cta(op)), 1)


def _slot_bytes(model: StepModel) -> int:
    tiles = [model.low.tile_bytes(weight) for weight in (*model.matrices(), model.head.linear.weight)]
    return max(*tiles, BLOCK_TOKENS * _row_bytes(model) // _pieces(model))


def _pieces(model: StepModel) -> int:
    """Slots that a tile of the cache takes: the twin of StepAttention's."""
    tile = BLOCK_TOKENS * _row_bytes(model)
    return next(n for n in (1, 2, 4, 8) if tile <= n * 4096 or n == BLOCK_TOKENS // 2)


def _row_bytes(model: StepModel) -> int:
    """Of the cache, which the first layer tells of all."""
    return model.low.cache.layers[model.first.op.layer].row_bytes


def _scratch(model: StepModel) -> int:
    """Shared memory of the phases, which take turns."""
    low, warps = model.low, _warps(model)
    each = [*zip(*(layer.products() for layer in model.layers), strict=True), ((model.head.linear,),)]
    sizes = [encoded_bytes(low, vector, _all(layers)) for layers, vector in zip(each, model.vectors(), strict=True)]
    sizes[-1] += round_up(warps * 8, 16)
    return max(core_bytes(model.first.op, _row_bytes(model), warps), *sizes)


def _shared_state(model: StepModel) -> int:
    """Bytes of Step::Shared: four words, and the angles of a head's pairs in each table."""
    ropes = model.ropes()
    still = any(not layer.attention.parts.ropes for layer in model.layers)
    return round_up(16 + (len(ropes) + still) * model.first.op.head_dim // 2 * 8, 16)


def _slots(model: StepModel) -> int:
    """Tiles that the ring holds: what shared memory the phases leave."""
    room = model.low.target.max_shared - _scratch(model) - _shared_state(model) - 32
    return max(room // (_slot_bytes(model) + 16), 0)
