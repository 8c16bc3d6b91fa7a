"""The step kernel's arguments (stage/step.h): pointers of the step, then those of each layer, a struct a phase."""

from __future__ import annotations

from dataclasses import replace

from imp_codegen.kernels.attention.parts import norm_weights, sinks
from imp_codegen.kernels.kernel_spec import Argument, Arguments, Param
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.step import sizes
from imp_codegen.kernels.step.copies import Copies
from imp_codegen.kernels.step.model import Layer, StepModel
from imp_codegen.kernels.stream import bias_mask, biases
from imp_codegen.kernels.vector import Sum, Vector, norm_weight, up_of
from imp_codegen.ops import Linear


def step_arguments(model: StepModel, copies: Copies) -> Arguments:
    """What the kernel reads by name (stage/step.h): the step's own pointers, then those of each layer, a phase each."""
    low, head, layers = model.low, model.head, model.layers

    def words(name: str, ctype: str, nbytes: int) -> Argument:
        return Param(ctype, low.buffer(f"step.{name}", nbytes))

    vectors = [_vectors(low, layer) for layer in layers]
    partial = max(sizes.partial_bytes(low, op) for op in sizes.attentions(model))
    one_length = all(each == vectors[0] for each in vectors)
    args: dict[str, Argument] = {
        "x": low.value("std::uint32_t*", model.embedding.op.out),
        **(vectors[0] if one_length else {}),
        "partial": words("partial", "std::uint64_t*", partial),
        "counters": words("counters", "std::uint32_t*", (1 + sizes.phase_count(model)) * 128),
        "rows": low.step_rows(),
        "positions": low.state("const std::int32_t*", "seq.position"),
    }
    if one_cache := _one_cache(model):
        args |= {"cache": low.layer_cache(0), "table": low.layer_table(0)}
    if model.shares():
        args["handed"] = words("handed", "std::uint64_t*", len(layers) * sizes.handed_words(model) * 8)
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


def _vectors(low: Lowering, layer: Layer) -> dict[str, Argument]:
    """These; of each length there are other words."""
    return {
        name: Param("std::uint32_t*", low.buffer(f"step.{name}.{width}", width * 4))
        for name, width in sizes.widths(layer).items()
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
