"""What the step kernel is made of: a model as a list of layers, whose phases are the groups of the graph form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from imp_codegen.graph import Weight, label
from imp_codegen.kernels.attention.family import CachedAttention
from imp_codegen.kernels.embed import Embedding
from imp_codegen.kernels.family import Block, Body, Match
from imp_codegen.kernels.gate_up import GateUp
from imp_codegen.kernels.head import Head
from imp_codegen.kernels.linear_add import LinearAdd
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.norm_linear import NormLinear
from imp_codegen.kernels.vector import Sum, Vector
from imp_codegen.ops import Attention, Linear
from imp_codegen.rope import RopeSpec

End = LinearAdd | NormLinear
"""The end of a branch, which is added at once, or later by who reads the sum."""

_PHASES = (NormLinear, CachedAttention, End, GateUp, End)  # of a layer


@dataclass(frozen=True, slots=True)
class Layer:
    """The groups of one layer, a phase each."""

    qkv: NormLinear
    attention: CachedAttention
    out: End
    gate_up: GateUp
    down: End

    @property
    def op(self) -> Attention:
        """The attention itself."""
        return self.attention.parts.op

    def groups(self) -> tuple[Match, ...]:
        """All, in order."""
        return (self.qkv, self.attention, self.out, self.gate_up, self.down)

    def products(self) -> tuple[tuple[Linear, ...], ...]:
        """The matrices of each phase but attention."""
        return (self.qkv.linears, (end(self.out),), (self.gate_up.gate, self.gate_up.up), (end(self.down),))

    def matrices(self) -> tuple[Weight, ...]:
        """In the order of the phases."""
        return tuple(op.weight for linears in self.products() for op in linears)


def end(match: End) -> Linear:
    """The matrix that ends a branch."""
    return match.linear if isinstance(match, LinearAdd) else match.linears[0]


@dataclass(frozen=True, slots=True)
class StepModel:
    """Such layers between an embedding and a head."""

    low: Lowering
    embedding: Embedding
    layers: tuple[Layer, ...]
    head: Head

    @property
    def first(self) -> Layer:
        """The layer that all others resemble."""
        return self.layers[0]

    def vectors(self) -> tuple[Vector, ...]:
        """What the phases but attention multiply, and the head: of the first layer, as if a branch came before it."""
        layer = self.first
        qkv = replace(layer.qkv.vector, sum=self.head.vector.sum)
        return (qkv, layer.out.vector, layer.gate_up.vector, layer.down.vector, self.head.vector)

    def mlp_sums(self) -> tuple[Sum | None, ...]:
        """Of the stream and the MLP's branch of each layer."""
        return (*(layer.qkv.vector.sum for layer in self.layers[1:]), self.head.vector.sum)

    def ropes(self) -> tuple[RopeSpec, ...]:
        """The different ways in which layers turn, in the order of first use."""
        return tuple(dict.fromkeys(rope for layer in self.layers if (rope := layer.attention.parts.rope)))

    def matrices(self) -> tuple[Weight, ...]:
        """All layers' in the order of the phases."""
        return tuple(weight for layer in self.layers for weight in layer.matrices())


def misfit(body: Body) -> str | None:
    """Why one kernel cannot decode the model, or None."""
    wrong = next(_strangers(body.matches), None)
    if wrong:
        where = " to ".join(dict.fromkeys((label(wrong.ops[0]), label(wrong.ops[-1]))))
        return f"its layers are not all attention and a gated MLP ({where})"
    return next(_obstacles(step_model(body)), None)


def step_model(body: Body) -> StepModel:
    """The model; `misfit` must have found none."""
    first, *groups, head = body.matches
    assert isinstance(first, Embedding)
    assert isinstance(head, Head)
    return StepModel(body.low, first, tuple(_layers(groups)), head)


def _layers(groups: list[Match]) -> Iterator[Layer]:
    for at in range(0, len(groups), len(_PHASES)):
        qkv, attention, out, gate_up, down = groups[at : at + len(_PHASES)]
        assert isinstance(qkv, NormLinear)
        assert isinstance(attention, CachedAttention)
        assert isinstance(out, LinearAdd | NormLinear)
        assert isinstance(gate_up, GateUp)
        assert isinstance(down, LinearAdd | NormLinear)
        yield Layer(qkv, attention, out, gate_up, down)


def _strangers(matches: tuple[Match, ...]) -> Iterator[Match]:
    """Groups that are not the phase which comes next, or do not read what the phases before have made."""
    stream: tuple[Block, ...] = ()  # the residual stream, and a branch that is not yet added
    before: Block = ()
    for at, match in enumerate(matches):
        last = at == len(matches) - 1
        phase = (at - 1) % len(_PHASES)
        kind = Embedding if at == 0 else Head if last else _PHASES[phase]
        wanted = () if at == 0 else stream
        if kind is CachedAttention:
            wanted = (before,)
        elif kind is End:
            wanted = (before, *stream) if isinstance(match, LinearAdd) else (before,)
        if not isinstance(match, kind) or match.reads != wanted or (last and phase != 0):
            yield match
        before = match.writes[0]
        if kind in (Embedding, End):
            stream = (before,) if at == 0 or isinstance(match, LinearAdd) else (*stream, before)
        elif len(stream) > 1:
            stream = match.writes[1:]


def _obstacles(model: StepModel) -> Iterator[str]:
    low, mlp, attended = model.low, model.mlp_sums(), [layer.gate_up.vector.sum for layer in model.layers]
    sums = [*mlp, *attended]
    for layer in model.layers:
        first = layer.qkv.linears[0].weight
        if layer.op.k is None:
            yield f"{label(layer.op)} reads another layer's cache"
        if len(layer.qkv.linears) != 3:
            yield f"{first.name}: q, k and v are not three matrices"
        if len({op.weight.cols // low.tile(op.weight).cols for op in layer.qkv.linears}) > 1:
            yield f"{first.name}: q, k and v are cut into different numbers of tiles"
    if model.head.vector.norm and model.head.vector.norm.weight is None:
        yield f"{label(model.head.vector.norm)} has no weight"
    normed = [each for each in sums if each]
    if 0 < len(normed) < len(sums):
        yield f"{label(normed[0].norm)} is the norm of a branch, and others have none"
    for each in normed:
        if each.norm.eps == 0:
            yield f"{label(each.norm)} has an eps of 0"
        if each.norm.eps != normed[0].norm.eps:
            yield f"{label(each.norm)} differs from {label(normed[0].norm)}"
    for ends in (mlp, attended):
        scales = [each.scale for each in ends if each]
        if (scaled := next(filter(None, scales), None)) and None in scales:
            yield f"{label(scaled)} scales the residual stream, and not every layer does"
    for layer in model.layers[1:]:
        for (name, what, value), (other, _, wanted) in zip(_alike(layer), _alike(model.first), strict=True):
            if value != wanted:
                yield f"{name}: its {what} ({value}) is not that of {other} ({wanted})"
    ropes = [rope for layer in model.layers for rope in layer.attention.parts.ropes]
    for rope in ropes:
        if _shape(rope.rope) != _shape(ropes[0].rope):
            yield f"{label(rope)} differs from {label(ropes[0])}"


def _alike(layer: Layer) -> Iterator[tuple[str, str, object]]:
    """What the kernel has once for all layers: each operation's label, and what must be the same of it."""
    op, parts, gated = layer.op, layer.attention.parts, layer.gate_up.gated
    for match in (layer.qkv, layer.gate_up):
        norm = match.vector.norm
        yield label(match.ops[0]), "norm before it", bool(norm)
        yield label(match.ops[0]), "eps", norm and norm.eps
        yield label(match.ops[0]), "norm's weight", bool(norm and norm.weight)
    for linears in layer.products():
        for linear in linears:
            yield label(linear), "bias", bool(linear.bias)
    for end_of in (layer.out, layer.down):
        yield label(end_of.ops[-1]), "factor", end_of.add.scale if isinstance(end_of, LinearAdd) else 1
    yield label(op), "number of heads", op.heads
    yield label(op), "number of KV heads", op.kv_heads
    yield label(op), "size of a head", op.head_dim
    yield label(op), "scale", op.scale
    yield label(op), "soft cap", op.softcap
    norms = (*parts.norms, *parts.value_norms)
    yield label(op), "norms of q, k and v", (parts.whole, len(parts.norms), *(norm.eps for norm in norms))
    yield label(gated), "width", gated.out.width
    yield label(gated), "activation", gated.activation


def _shape(rope: RopeSpec) -> tuple[object, ...]:
    """All but the angles and what they are multiplied by."""
    return rope.dim, rope.interleaved
