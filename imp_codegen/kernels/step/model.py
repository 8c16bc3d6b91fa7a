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
    low, sums = model.low, [*model.mlp_sums(), *(layer.gate_up.vector.sum for layer in model.layers)]
    for layer in model.layers:
        first = layer.qkv.linears[0].weight
        if len(layer.qkv.linears) != 3:
            yield f"{first.name}: q, k and v are not three matrices"
        if layer.attention.parts.whole:
            yield f"{label(layer.attention.parts.norms[0])} is one of all heads together"
        if len({op.weight.cols // low.tile(op.weight).cols for op in layer.qkv.linears}) > 1:
            yield f"{first.name}: q, k and v are cut into different numbers of tiles"
    if model.head.vector.norm and model.head.vector.norm.weight is None:
        yield f"{label(model.head.vector.norm)} has no weight"
    normed = [each for each in sums if each]
    if 0 < len(normed) < len(sums):
        yield f"{label(normed[0].norm)} is the norm of a branch, and others have none"
    for each in normed:
        if each.scale:
            yield f"{label(each.scale)} scales the residual stream"
        if each.norm.eps == 0:
            yield f"{label(each.norm)} has an eps of 0"
        if each.norm.eps != normed[0].norm.eps:
            yield f"{label(each.norm)} differs from {label(normed[0].norm)}"
    for layer in model.layers[1:]:
        for item, first_item in zip(_alike(layer), _alike(model.first), strict=True):
            if item[1:] != first_item[1:]:
                yield f"{item[0]} differs from {first_item[0]}"
    ropes = [rope for layer in model.layers for rope in layer.attention.parts.ropes]
    for rope in ropes:
        if _shape(rope.rope) != _shape(ropes[0].rope):
            yield f"{label(rope)} differs from {label(ropes[0])}"


def _alike(layer: Layer) -> tuple[tuple[object, ...], ...]:
    """What the kernel has once for all layers: each operation's label, and what must be the same of it."""
    op, parts, gated = layer.op, layer.attention.parts, layer.gate_up.gated
    norms = [
        (label(match.ops[0]), norm and (norm.eps, norm.weight is None))
        for match, norm in ((layer.qkv, layer.qkv.vector.norm), (layer.gate_up, layer.gate_up.vector.norm))
    ]
    biases = [(label(linear), linear.bias is None) for linears in layer.products() for linear in linears]
    ends = [
        (label(match.ops[-1]), isinstance(match, LinearAdd) and match.add.scale) for match in (layer.out, layer.down)
    ]
    head_norms = (len(parts.norms), len(parts.value_norms), *(n.eps for n in (*parts.norms, *parts.value_norms)))
    heads = (label(op), op.heads, op.kv_heads, op.head_dim, op.scale, op.softcap, head_norms)
    return (*norms, *biases, *ends, heads, (label(gated), gated.out.width, gated.activation))


def _shape(rope: RopeSpec) -> tuple[object, ...]:
    """All but the angles."""
    return rope.dim, rope.interleaved, rope.magnitude
