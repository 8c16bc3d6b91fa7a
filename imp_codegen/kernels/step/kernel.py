"""The step kernel (stage/step.h): its type, its arguments, its memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import ceil

from imp_codegen.graph import Weight, label
from imp_codegen.kernels.attention.parts import core_config, norm_weights, sinks
from imp_codegen.kernels.attention.sizes import attention_warps, core_bytes, queries_of_cta
from imp_codegen.kernels.kernel_spec import Argument, Arguments, Config, Cpp, KernelSpec, Param, Scalar
from imp_codegen.kernels.linear_add import LinearAdd
from imp_codegen.kernels.lowering import Lowering, round_up
from imp_codegen.kernels.step.copies import Copies
from imp_codegen.kernels.step.model import Kind, Layer, StepModel, end
from imp_codegen.kernels.step.schedule import Attending, Flow, Phase, Schedule, check, flows
from imp_codegen.kernels.stream import activation, bias_mask, biases, encode_config, encoded_bytes
from imp_codegen.kernels.vector import Sum, Vector, norm_weight, up_of
from imp_codegen.ops import Attention, Linear
from imp_codegen.predict import step_tiles_us
from imp_codegen.tune.step import LEAST_TILES, Step
from imp_runtime.plan import BLOCK_TOKENS, CacheRead


def tuned(model: StepModel) -> Step:
    """The kernel as tuning tables know it."""
    low, matrices = model.low, model.matrices()
    count = Counter(low.shape(weight) for weight in matrices)
    each = ", ".join(f"{n} of {shape}" for shape, n in sorted(count.items()))
    sizes = (f"{op.heads}/{op.kv_heads} heads of {op.head_dim}" for op in _attentions(model))
    heads = ", ".join(dict.fromkeys(sizes))
    return Step(
        f"{len(model.layers)} layers, {heads}, {each}, head {low.shape(model.head.linear.weight)}",
        max(low.tile_bytes(weight) for weight in matrices),
        _slots(model) - _warps(model),
    )


def shortage(model: StepModel) -> str | None:
    """Why the target has too little shared memory for the kernel, or None."""
    if tuned(model).possible:
        return None
    target, phases = model.low.target, _scratch(model) + _shared_state(model)
    return (
        f"{target.name} has {target.max_shared:,} bytes of shared memory, its phases take {phases:,}, and "
        f"{_slots(model)} tiles of {_slot_bytes(model):,} fit beside them; {_warps(model) + LEAST_TILES} are needed"
    )


def step_kernel(model: StepModel) -> KernelSpec:
    """The kernel; there must be no `shortage`."""
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
    parts = model.heads.values()
    return KernelSpec(
        name="step",
        entry="step",
        headers=(
            "stage/step",
            *sorted({low.cache_header(each.op.layer) for each in parts}),
            *low.headers(*matrices, head.linear.weight),
        ),
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
        phases=_phase_count(model) * len(model.layers) + 1,
        weight_bytes=low.weight_bytes(*matrices, head.linear.weight),
        other_bytes=logits.width * 4,
        cache_reads=_cache_reads(model),
        flops=2 * sum(w.rows * w.cols for w in (*matrices, head.linear.weight)),
    )


def least_units(model: StepModel) -> int:
    """Units of the phase that has the fewest."""
    return min(phase.units for layer in model.layers for phase in _products(model, layer, 0))


def tiles_us(model: StepModel) -> float:
    """What the tiles of all matrices, the head's included, take the card's multiprocessors, whatever memory does."""
    low, weights = model.low, (*model.matrices(), model.head.linear.weight)
    return step_tiles_us(low.target.card, ((weight.rows, weight.cols, low.tile(weight)) for weight in weights))


def _phase_count(model: StepModel) -> int:
    """Of a layer, attention among them."""
    return len(model.first.groups())


def _attentions(model: StepModel) -> tuple[Attention, ...]:
    """One of each kind of heads."""
    return tuple(parts.op for parts in model.heads.values())


def _cache_reads(model: StepModel) -> tuple[CacheRead, ...]:
    """Of all layers, those with the same window together."""
    nbytes: Counter[int] = Counter()
    for layer in model.layers:
        nbytes[layer.op.window] += model.low.cache.layers[layer.op.layer].position_bytes
    return tuple(CacheRead(window, count) for window, count in sorted(nbytes.items()))


def _arguments(model: StepModel, copies: Copies) -> Arguments:
    """What the kernel reads by name (stage/step.h): the step's own pointers, then those of each layer, a phase each."""
    low, head, layers = model.low, model.head, model.layers

    def words(name: str, ctype: str, nbytes: int) -> Argument:
        return Param(ctype, low.buffer(f"step.{name}", nbytes))

    vectors = [_vectors(low, layer) for layer in layers]
    one_length = all(each == vectors[0] for each in vectors)
    args: dict[str, Argument] = {
        "x": low.value("std::uint32_t*", model.embedding.op.out),
        **(vectors[0] if one_length else {}),
        "partial": words("partial", "std::uint64_t*", max(_partial_bytes(low, op) for op in _attentions(model))),
        "counters": words("counters", "std::uint32_t*", (1 + _phase_count(model)) * 128),
        "rows": low.step_rows(),
        "positions": low.state("const std::int32_t*", "seq.position"),
    }
    if one_cache := _one_cache(model):
        args |= {"cache": low.layer_cache(0), "table": low.layer_table(0)}
    if model.shares():
        args["handed"] = words("handed", "std::uint64_t*", len(layers) * _handed_words(model) * 8)
    if ropes := model.ropes():
        args["turns"] = tuple(map(low.turns, ropes))
    if head.vector.sum:
        names = ("branch", "sum", "middle") if model.first.extra else ("branch", "sum")
        args |= {name: words(name, "std::uint32_t*", head.vector.value.width * 4) for name in names}
    stored = {name: argument for name, argument in head.stored(low).items() if name != "bias"}
    args["head"] = {**stored, **_product_arguments(low, (head.linear,), head.vector)}
    widest = max(len(layer.qkv.linears) for layer in layers)
    of_layer = [
        _layer_arguments(low, layer, last, copies, widest, own_cache=not one_cache)
        for layer, last in zip(layers, model.last_sums(), strict=True)
    ]
    varying = [{} if one_length else {"vectors": each} for each in vectors]
    args["layer"] = tuple({**own, **each} for own, each in zip(of_layer, varying, strict=True))
    return args


def _widths(layer: Layer) -> dict[str, int]:
    """Of what a layer's phases hand on, but of the stream and its branches."""
    widths = {
        "qkv": layer.attention.parts.width,
        "attention": layer.op.out.width,
        "gated": layer.gate_up.gated.out.width,
    }
    return widths | ({"extra": layer.extra[0].gated.out.width} if layer.extra else {})


def _vectors(low: Lowering, layer: Layer) -> dict[str, Argument]:
    """These; of each length there are other words."""
    return {
        name: Param("std::uint32_t*", low.buffer(f"step.{name}.{width}", width * 4))
        for name, width in _widths(layer).items()
    }


def _one_cache(model: StepModel) -> bool:
    """Whether layers lie in a block one after the other, all alike."""
    cache = model.low.cache
    return len(cache.groups) == 1 and not model.shares() and len({part.nbytes for part in cache.layers}) == 1


def _layer_arguments(
    low: Lowering, layer: Layer, last: Sum | None, copies: Copies, widest: int, *, own_cache: bool
) -> Arguments:
    """A layer's pointers; the first layer, which finds no branch to add, has those for it, too: its `last` branch's.

    All layers have as many: `widest` matrices of q, k and v, and a norm of k, even where nobody reads them.
    """
    parts, (qkv, out, gate_up, down, *extra) = layer.attention.parts, layer.products()
    vector = layer.qkv.vector
    qkv_sum = copies.of("sum_copy", (vector.sum.out,)) if vector.sum else {}
    if last and not vector.sum:
        vector, qkv_sum = replace(vector, sum=last), copies.unread("sum_copy", last.out.width)
    args: dict[str, Argument] = {
        "qkv": _product_arguments(low, qkv, vector, widest)
        | qkv_sum
        | copies.of("copy", tuple(linear.out for linear in qkv))
    }
    norms = norm_weights(low, parts)
    attention: dict[str, Argument] = {name: norm or norms["q_norm"] for name, norm in norms.items() if norms["q_norm"]}
    if parts.op.sinks:
        attention["sinks"] = sinks(low, parts.op)
    if own_cache:
        attention |= {"cache": low.layer_cache(parts.op.layer), "table": low.layer_table(parts.op.layer)}
    if attention := attention | copies.of("copy", (parts.op.out,)):
        args["attention"] = attention
    copies.cache(parts)
    args["out"] = _product_arguments(low, out) | copies.of("copy", layer.out.writes[0])
    args["gate_up"] = (
        _product_arguments(low, gate_up, layer.gate_up.vector)
        | _kept(layer.gate_up.vector, copies)
        | copies.of("copy", (layer.gate_up.gated.out,))
    )
    args["down"] = _product_arguments(low, down) | copies.of("copy", layer.down.writes[0])
    if layer.extra:
        (gate, proj), matrices = layer.extra, extra
        args["gate"] = (
            _product_arguments(low, matrices[0], gate.vector)
            | {"up": up_of(low, gate.gated)}
            | _kept(gate.vector, copies)
            | copies.of("copy", (gate.gated.out,))
        )
        args["proj"] = _product_arguments(low, matrices[1]) | copies.of("copy", proj.writes[0])
    return args


def _kept(vector: Vector, copies: Copies) -> dict[str, Argument]:
    return copies.of("sum_copy", (vector.sum.out,)) if vector.sum else {}


def _product_arguments(
    low: Lowering, linears: tuple[Linear, ...], vector: Vector | None = None, count: int = 0
) -> dict[str, Argument]:
    """A product's weights: its norm's, the branch's that it adds, that sum's scale, biases, matrices; what there is.

    Matrices and biases are filled up to as many as `count` matrices have.
    """
    norm, post = (vector.norm, vector.sum) if vector else (None, None)
    filled = linears + linears[-1:] * (count - len(linears))
    weights: dict[str, Argument] = {
        "norm": norm_weight(low, norm),
        "post": norm_weight(low, post.norm) if post else None,
        "scale": low.plane(post.scale.weight) if post and post.scale else None,
        "bias": biases(low, filled) if bias_mask(linears) else None,
        "plane": tuple(low.plane(linear.weight) for linear in filled),
    }
    return {name: argument for name, argument in weights.items() if argument}


def _phases(model: StepModel, early: int) -> tuple[Cpp, Cpp]:
    """The C++ types of a layer's phases, in the order in which they run, and of the head's product."""
    first, head = model.first, model.head
    logits = dict(head.config(_warps(model)).fields)
    ends = (first.out, first.down, *(first.extra[1:] if first.extra else ()))
    out, down, *proj = (match.add.scale if isinstance(match, LinearAdd) else 1.0 for match in ends)
    places = [Cpp("AtQkv"), Cpp("AtOut"), Cpp("AtGateUp"), Cpp("AtDown"), Cpp("AtHead")]
    scales = [1.0, out, 1.0, down, *((1.0, *proj) if proj else ())]
    if first.extra:
        places[4:4] = [Cpp("AtGate", (activation(first.extra[0].gated),)), Cpp("AtProj")]
    configs: list[dict[str, Scalar]] = [{"scale": scale, "cap": 0.0} for scale in scales]
    configs.append({"scale": logits["scale"], "cap": logits["cap"]})
    qkv, attention, *others = _flows(model)
    products = [
        _phase(model, (place, flow), layers, vectors, early, config)
        for place, flow, layers, vectors, config in zip(
            places, (qkv, *others), model.products(), model.vectors(), configs, strict=True
        )
    ]
    return Cpp("Phases", (products[0], _attention(model, attention), *products[1:-1])), products[-1]


def _flows(model: StepModel) -> tuple[Flow, ...]:
    return flows(normed=model.head.vector.sum is not None, extra=model.first.extra is not None)


def _flow(flow: Flow) -> Cpp:
    """What a phase reads and writes, as a type."""
    vectors = (Cpp(f"Vector::{name or 'none'}") for name in (flow.reads, flow.writes, flow.branch, flow.kept))
    return Cpp("Flow", (*vectors, flow.adds))


def _order(numbers: Iterable[int]) -> Cpp:
    """A number of each layer."""
    return Cpp("LayerOrder", tuple(numbers))


def _by_layer(types: Sequence[Cpp]) -> Cpp:
    """The type of each layer."""
    variants = [*dict.fromkeys(types)]
    return Cpp("ByLayer", (_order(map(variants.index, types)), *variants))


def _attention(model: StepModel, flow: Flow) -> Cpp:
    """The C++ type of all layers' attention. Layers that do not turn have the table after the last."""
    low, layers, ropes = model.low, model.layers, model.ropes()
    types = {}
    for kind, parts in model.heads.items():
        window = max(layer.op.window for layer, own in zip(layers, model.kinds, strict=True) if own == kind)
        core = core_config(low, parts, _splits(low, parts.op), window)
        types[kind] = Cpp("StepHeads", (core, low.cache_row(parts.op.layer)))
    tables = [ropes.index(rope) if (rope := layer.attention.parts.rope) else len(ropes) for layer in layers]
    turns = tuple(
        Config("RopeTable", (("pairs", rope.dim // 2), ("magnitude", float(rope.magnitude)))) for rope in ropes
    )
    owners = _order(model.owners()) if model.shares() else Cpp("OwnCaches")
    return Cpp(
        "StepAttention",
        (
            _flow(flow),
            _by_layer([types[kind] for kind in model.kinds]),
            _order(layer.op.window for layer in layers),
            _order(tables),
            Cpp("RopeTables", turns) if turns else Cpp("NoTurns"),
            owners,
        ),
    )


def _phase(
    model: StepModel,
    at: tuple[Cpp, Flow],
    layers: Sequence[tuple[Linear, ...]],
    vectors: Sequence[Vector],
    early: int,
    config: Mapping[str, Scalar],
) -> Cpp:
    """The C++ type of a phase: what it multiplies in each layer, its matrices, what becomes of a gate and of a row."""
    low, (place, flow) = model.low, at
    gate = (activation(model.first.gate_up.gated),) if place.name == "AtGateUp" else ()
    units = [
        Cpp("PairUnits" if gate else "MatrixUnits", (*(low.matrix(op.weight) for op in linears), *gate))
        for linears in layers
    ]
    encoders = [Cpp("Encoder", (encode_config(low, each, _all(layers), _warps(model)),)) for each in vectors]
    early = early if max(each.value.width for each in vectors) <= low.target.card.formulas.early_cols else 0
    turns = _first_turns(model) if place.name == "AtDown" else 0
    biased = bias_mask(max(layers, key=len))
    phase = Config("PhaseConfig", (("early", early), ("first_turns", turns), ("biased", biased), *config.items()))
    return Cpp("StepPhase", (place, _flow(flow), phase, _by_layer(encoders), _by_layer(units)))


def _products(model: StepModel, layer: Layer, early: int) -> tuple[Phase, ...]:
    """A layer's phases but attention, as schedule.py counts them."""
    names = ("q, k and v", "output projection", "gate and up", "down projection", "input gate", "input projection")
    qkv, out, gate_up, down, *extra = (
        _product(model, name, tuple(op.weight for op in linears), early, paired=name == "gate and up")
        for name, linears in zip(names, layer.products(), strict=False)
    )
    tile = model.low.tile(end(layer.down).weight)
    return (qkv, out, gate_up, replace(down, before=_first_turns(model) * _turn(model) // tile.cols), *extra)


def _first_turns(model: StepModel) -> int:
    """Turns of down's encoder that do not wait until gate and up are complete, or 0.

    Gate and up make their rows in order, so that a CTA that has made its own finds all there but those of the end: a
    fifth is more than CTAs differ by. All layers must have tiles that so many columns are enough for, and take them
    before the others.
    """
    weights = [end(layer.down).weight for layer in model.layers]
    cols = weights[0].cols
    turns = ceil(cols / _turn(model))
    first = turns - ceil(turns / 5)
    useful = cols > model.low.target.card.formulas.whole_cols and all(
        weight.cols == cols and _may_sweep(model, (weight,)) and model.low.tile(weight).cols <= first * _turn(model)
        for weight in weights
    )
    return first if useful else 0


def _turn(model: StepModel) -> int:
    """Columns that the warps encode at a time."""
    return _warps(model) * 128


def _may_sweep(model: StepModel, weights: tuple[Weight, ...]) -> bool:
    """The twin of WarpUnits::kMaySweep (stage/warp_units.h)."""
    low, tile = model.low, model.low.tile(weights[0])
    most = ceil(ceil(_units(model, weights) / low.target.sms) / _warps(model))
    alike = len({low.matrix(weight).args[0] for weight in weights}) == 1 and not low.wants_dense(*weights)
    return alike and weights[0].cols > tile.cols and most * tile.rows <= 8


def _units(model: StepModel, weights: tuple[Weight, ...]) -> int:
    return sum(-(-weight.rows // model.low.tile(weight).rows) for weight in weights)


def _product(model: StepModel, name: str, weights: tuple[Weight, ...], early: int, *, paired: bool = False) -> Phase:
    """The twin of MatrixUnits or PairUnits (stage/units.h), and of the step's choice of their order (Shape)."""
    low = model.low
    rows = [low.tile(weight).rows for weight in weights]
    tiles = [weight.cols // low.tile(weight).cols for weight in weights]
    cols = weights[0].cols
    early = early if cols <= low.target.card.formulas.early_cols else 0
    if paired:
        unit_tiles = sum(max(rows) // r * t for r, t in zip(rows, tiles, strict=True))
        return Phase(name, -(-weights[0].rows // max(rows)), unit_tiles, cols, weights[0].rows, early=early)
    may_sweep = _may_sweep(model, weights)
    return Phase(name, _units(model, weights), tiles[0], cols, sum(weight.rows for weight in weights), may_sweep, early)


def _schedule(model: StepModel, step: Mapping[str, Scalar], early: int) -> Schedule:
    """The kernel's numbers, for the check that it cannot hang."""

    def phases(layer: Layer, kind: Kind) -> tuple[Phase | Attending, ...]:
        qkv, *others = _products(model, layer, early)
        return (qkv, _attending(model.low, layer, model.heads[kind].op), *others)

    return Schedule(
        grid=int(step["grid"]),
        warps=int(step["warps"]),
        slots=int(step["slots"]),
        in_flight=int(step["in_flight"]),
        lanes=int(step["lanes"]),
        layers=tuple(map(phases, model.layers, model.kinds)),
        head=_product(model, "LM head", (model.head.linear.weight,), early),
        blocks=model.low.table_blocks,
        flows=_flows(model),
    )


def _attending(low: Lowering, layer: Layer, kind: Attention) -> Attending:
    """A layer's attention, as schedule.py counts it; `kind`: that of its kind."""
    op = layer.op
    return Attending(
        cols=layer.attention.parts.width,
        rows=op.out.width,
        window=op.window,
        items=op.heads // queries_of_cta(op),
        splits=_splits(low, kind),
        warps=attention_warps(low, kind),
        pieces=_pieces(low, kind),
    )


def _all(layers: Sequence[tuple[Linear, ...]]) -> tuple[Weight, ...]:
    return tuple(op.weight for linears in layers for op in linears)


def _warps(model: StepModel) -> int:
    """Warps that compute: in every phase as many as in the attention that has the most."""
    return max(attention_warps(model.low, op) for op in _attentions(model))


def _splits(low: Lowering, op: Attention) -> int:
    """CTAs that share a head's blocks: as many as there are, at least one."""
    return max(low.target.sms // (op.heads // queries_of_cta(op)), 1)


def _partial_bytes(low: Lowering, op: Attention) -> int:
    queries = queries_of_cta(op)
    return op.heads // queries * _splits(low, op) * queries * (op.head_dim + 2) * 8


def _handed_words(model: StepModel) -> int:
    """Of one layer's new rows: the twin of StepAttention's."""
    return max(op.kv_heads * 2 * _row_bytes(model.low, op) // 4 for op in _attentions(model))


def _slot_bytes(model: StepModel) -> int:
    low = model.low
    tiles = [low.tile_bytes(weight) for weight in (*model.matrices(), model.head.linear.weight)]
    return max(*tiles, *(BLOCK_TOKENS * _row_bytes(low, op) // _pieces(low, op) for op in _attentions(model)))


def _pieces(low: Lowering, op: Attention) -> int:
    """Slots that a tile of the cache takes: the twin of StepHeads'."""
    tile = BLOCK_TOKENS * _row_bytes(low, op)
    return next(n for n in (1, 2, 4, 8) if tile <= n * 4096 or n == BLOCK_TOKENS // 2)


def _row_bytes(low: Lowering, op: Attention) -> int:
    """Of the cache that the attention reads."""
    return low.cache.layers[op.layer].row_bytes


def _scratch(model: StepModel) -> int:
    """Shared memory of the phases, which take turns."""
    low, head = model.low, round_up(_warps(model) * 8, 16)
    *sizes, last = (
        max(encoded_bytes(low, vector, _all(layers)) for vector in vectors)
        for layers, vectors in zip(model.products(), model.vectors(), strict=True)
    )
    attention = (core_bytes(op, _row_bytes(low, op), attention_warps(low, op)) for op in _attentions(model))
    return max(*attention, *sizes, last + head)


def _shared_state(model: StepModel) -> int:
    """Bytes of Step::Shared, four words and the angles of a head's pairs in each table, and of what counts writes."""
    ropes, pairs = model.ropes(), max(op.head_dim for op in _attentions(model)) // 2
    still = any(not layer.attention.parts.ropes for layer in model.layers)
    lengths = {tuple(_widths(layer).values()) for layer in model.layers}
    counts = round_up(2 * len(model.layers), 16) if len(lengths) > 1 else 0
    return round_up(16 + (len(ropes) + still) * pairs * 8, 16) + counts


def _slots(model: StepModel) -> int:
    """Tiles that the ring holds: what shared memory the phases leave."""
    room = model.low.target.max_shared - _scratch(model) - _shared_state(model) - 32
    return max(room // (_slot_bytes(model) + 16), 0)
