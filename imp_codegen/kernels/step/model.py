"""What the step kernel is made of: a model as a list of layers, whose phases are the groups of the graph form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from imp_codegen.graph import Op, Weight, label
from imp_codegen.kernels.attention.family import CachedAttention
from imp_codegen.kernels.attention.parts import Parts
from imp_codegen.kernels.embed import Embedding
from imp_codegen.kernels.family import Block, Body, Match
from imp_codegen.kernels.gate_up import GateUp
from imp_codegen.kernels.gated_linear import GatedLinear
from imp_codegen.kernels.head import Head
from imp_codegen.kernels.linear_add import LinearAdd
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.norm_linear import NormLinear
from imp_codegen.kernels.token_input import TokenInput
from imp_codegen.kernels.vector import Sum, Vector
from imp_codegen.ops import Attention, Linear
from imp_codegen.rope import RopeSpec

End = LinearAdd | NormLinear
"""The end of a branch, which is added at once, or later by who reads the sum."""

_PHASES = (NormLinear, CachedAttention, End, GateUp, End)  # of a layer
_OWN_INPUT = (GatedLinear, End)  # more of them, where the token brings every layer an input of its own
_MOST_KINDS = 8  # of a phase: each is a piece of code


Kind = tuple[int | bool, ...]
"""What of the attention of several layers must be the same where one code serves them."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The groups of one layer, a phase each. `extra`: the gate of the token's own input and the end of that branch."""

    qkv: NormLinear
    attention: CachedAttention
    out: End
    gate_up: GateUp
    down: End
    extra: tuple[GatedLinear, End] | None = None

    @property
    def op(self) -> Attention:
        """The attention itself."""
        return self.attention.parts.op

    def groups(self) -> tuple[Match, ...]:
        """All, in order."""
        return (self.qkv, self.attention, self.out, self.gate_up, self.down, *(self.extra or ()))

    def products(self) -> tuple[tuple[Linear, ...], ...]:
        """The matrices of each phase but attention."""
        gate_up = (self.gate_up.gate, self.gate_up.up)
        found = (self.qkv.linears, (end(self.out),), gate_up, (end(self.down),))
        return (*found, (self.extra[0].linear,), (end(self.extra[1]),)) if self.extra else found

    def vectors(self) -> tuple[Vector, ...]:
        """What each phase but attention multiplies."""
        phases = (self.qkv, self.out, self.gate_up, self.down, *(self.extra or ()))
        return tuple(phase.vector for phase in phases)

    def matrices(self) -> tuple[Weight, ...]:
        """In the order of the phases."""
        return tuple(op.weight for linears in self.products() for op in linears)


def end(match: End) -> Linear:
    """The matrix that ends a branch."""
    return match.linear if isinstance(match, LinearAdd) else match.linears[0]


@dataclass(frozen=True, slots=True)
class StepModel:
    """Such layers between an embedding and a head.

    `before`: what kernels of their own make of the embedding. `kinds`: of each layer's heads. `heads`: of each kind a
    layer's that has its own cache and turns, if there is one.
    """

    low: Lowering
    embedding: Embedding
    before: tuple[Match, ...]
    layers: tuple[Layer, ...]
    head: Head
    kinds: tuple[Kind, ...]
    heads: Mapping[Kind, Parts]

    @property
    def first(self) -> Layer:
        """The layer that all others resemble."""
        return self.layers[0]

    def vectors(self) -> tuple[tuple[Vector, ...], ...]:
        """What each phase but attention multiplies, in each layer: as the first has it, but for its length.

        And the head. The first layer's is as if a branch came before it.
        """
        qkv, *others = self.first.vectors()
        usual = (replace(qkv, sum=self.head.vector.sum), *others)
        each = [
            [replace(vector, value=own.value) for vector, own in zip(usual, layer.vectors(), strict=True)]
            for layer in self.layers
        ]
        return (*zip(*each, strict=True), (self.head.vector,))

    def products(self) -> tuple[tuple[tuple[Linear, ...], ...], ...]:
        """Their matrices, in each layer, and the head's."""
        return (*zip(*(layer.products() for layer in self.layers), strict=True), ((self.head.linear,),))

    def last_sums(self) -> tuple[Sum | None, ...]:
        """Of the stream and the last branch of each layer."""
        return (*(layer.qkv.vector.sum for layer in self.layers[1:]), self.head.vector.sum)

    def ropes(self) -> tuple[RopeSpec, ...]:
        """The different ways in which layers turn, in the order of first use."""
        return tuple(dict.fromkeys(rope for layer in self.layers if (rope := layer.attention.parts.rope)))

    def owners(self) -> tuple[int, ...]:
        """The layer whose cache each layer reads."""
        return _owners(self.layers)

    def shares(self) -> bool:
        """Whether a layer reads another's cache."""
        return any(layer.op.k is None for layer in self.layers)

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
    before = _before(body.matches)
    assert isinstance(first, Embedding)
    assert isinstance(head, Head)
    layers = tuple(_layers(groups[len(before) :], extra=bool(before)))
    kinds, heads = _kinds(layers), dict[Kind, Parts]()
    for kind, layer in zip(kinds, layers, strict=True):
        parts = layer.attention.parts
        if layer.op.k and (kind not in heads or not heads[kind].ropes):
            heads[kind] = parts
    return StepModel(body.low, first, before, layers, head, kinds, heads)


def _owners(layers: Sequence[Layer]) -> tuple[int, ...]:
    own = {layer.op.layer: index for index, layer in enumerate(layers) if layer.op.k}
    return tuple(own[layer.op.layer] for layer in layers)


def _kinds(layers: Sequence[Layer]) -> tuple[Kind, ...]:
    """Of each layer. Layers that do not turn go with those that do."""
    shapes: dict[tuple[int, ...], tuple[int | bool, ...]] = {}
    for layer in layers:
        if rope := layer.attention.parts.rope:
            shapes.setdefault(_size(layer.op), _shape(rope))
    return tuple(
        (
            *_size(layer.op),
            layers[owner].attention.parts.values,
            *(_shape(rope) if (rope := layer.attention.parts.rope) else shapes.get(_size(layer.op), ())),
        )
        for layer, owner in zip(layers, _owners(layers), strict=True)
    )


def _before(matches: tuple[Match, ...]) -> tuple[Match, ...]:
    """The token's own inputs: a product with the embedding, and what it becomes together with a row of a table."""
    found = matches[1:3]
    return found if len(found) == 2 and isinstance(found[1], TokenInput) else ()


def _layers(groups: list[Match], *, extra: bool) -> Iterator[Layer]:
    count = len(_PHASES) + (len(_OWN_INPUT) if extra else 0)
    for at in range(0, len(groups), count):
        qkv, attention, out, gate_up, down, *more = groups[at : at + count]
        assert isinstance(qkv, NormLinear)
        assert isinstance(attention, CachedAttention)
        assert isinstance(out, LinearAdd | NormLinear)
        assert isinstance(gate_up, GateUp)
        assert isinstance(down, LinearAdd | NormLinear)
        layer = Layer(qkv, attention, out, gate_up, down)
        if more:
            gate, proj = more
            assert isinstance(gate, GatedLinear)
            assert isinstance(proj, LinearAdd | NormLinear)
            layer = replace(layer, extra=(gate, proj))
        yield layer


def _strangers(matches: tuple[Match, ...]) -> Iterator[Match]:
    """Groups that are not the phase which comes next, or do not read what the phases before have made."""
    inputs = _before(matches)
    phases = (*_PHASES, *_OWN_INPUT) if inputs else _PHASES
    first, *others = matches
    if not isinstance(first, Embedding):
        yield first
    before = first.writes[0]
    stream: tuple[Block, ...] = (before,)  # the residual stream, and a branch that is not yet added
    if inputs:
        product, made = inputs
        if not isinstance(product, NormLinear) or product.reads != stream:
            yield product
        if made.reads != product.writes:
            yield made
    for at, match in enumerate(others[len(inputs) :]):
        last, phase = match is matches[-1], at % len(phases)
        kind = Head if last else phases[phase]
        wanted = stream
        if kind is CachedAttention:
            wanted = (before,)
        elif kind is End:
            wanted = (before, *stream) if isinstance(match, LinearAdd) else (before,)
        elif kind is GatedLinear:
            wanted = (*stream, inputs[1].writes[0])
        if not isinstance(match, kind) or match.reads != wanted or (last and phase != 0):
            yield match
        before = match.writes[0]
        if kind is End:
            stream = (before,) if isinstance(match, LinearAdd) else (*stream, before)
        elif len(stream) > 1:
            stream = match.writes[1:]


def _obstacles(model: StepModel) -> Iterator[str]:
    for layer in model.layers:
        first, tiles = layer.qkv.linears[0].weight, {_tiles(model.low, op) for op in layer.qkv.linears}
        if len(tiles) > 1:
            yield f"{first.name}: q, k and v are cut into different numbers of tiles"
    if model.head.vector.norm and model.head.vector.norm.weight is None:
        yield f"{label(model.head.vector.norm)} has no weight"
    yield from _of_branches(model)
    for layer in model.layers[1:]:
        for (name, what, value), (other, _, wanted) in zip(_alike(layer), _alike(model.first), strict=False):
            if value != wanted:
                yield f"{name}: its {what} ({value}) is not that of {other} ({wanted})"
    yield from _of_biases(model)
    yield from _of_heads(model)
    for each in zip(*(layer.products() for layer in model.layers), strict=True):
        kinds = {tuple(model.low.matrix(op.weight) for op in linears) for linears in each}
        if len(kinds) > _MOST_KINDS:
            yield f"{label(each[0][0])} and its like in other layers have {len(kinds)} shapes, more than {_MOST_KINDS}"


def _tiles(low: Lowering, op: Linear) -> int:
    """Of a row."""
    return op.weight.cols // low.tile(op.weight).cols


def _of_branches(model: StepModel) -> Iterator[str]:
    """All have norms, or none has, and scales."""
    ends = [model.last_sums(), *(tuple(sums) for sums in zip(*map(_inner_sums, model.layers), strict=True))]
    sums = [each for of_branch in ends for each in of_branch]
    normed = [each for each in sums if each]
    if 0 < len(normed) < len(sums):
        yield f"{label(normed[0].norm)} is the norm of a branch, and others have none"
    for each in normed:
        if each.norm.eps == 0:
            yield f"{label(each.norm)} has an eps of 0"
        if each.norm.eps != normed[0].norm.eps:
            yield f"{label(each.norm)} differs from {label(normed[0].norm)}"
    for of_branch in ends:
        scales = [each.scale for each in of_branch if each]
        if (scaled := next(filter(None, scales), None)) and None in scales:
            yield f"{label(scaled)} scales the residual stream, and not every layer does"


def _inner_sums(layer: Layer) -> tuple[Sum | None, ...]:
    """Of the stream and each branch of a layer but its last one."""
    return (layer.gate_up.vector.sum, *((layer.extra[0].vector.sum,) if layer.extra else ()))


def _of_biases(model: StepModel) -> Iterator[str]:
    """A phase has them once for all layers."""
    widest = max(model.layers, key=lambda layer: len(layer.qkv.linears))
    for layer in model.layers:
        for linears, wanted in zip(layer.products(), widest.products(), strict=True):
            for linear, other in zip(linears, wanted, strict=False):
                if bool(linear.bias) != bool(other.bias):
                    bare, biased = (linear, other) if other.bias else (other, linear)
                    yield f"{label(bare)} has no bias, and {label(biased)} has one"


def _of_heads(model: StepModel) -> Iterator[str]:
    """Of kinds of heads there are few, and each has a layer with a cache of its own."""
    found = model.heads
    for layer, kind, owner in zip(model.layers, model.kinds, model.owners(), strict=True):
        if kind not in found:
            yield f"{label(layer.op)} reads the cache of {label(model.layers[owner].op)}, which has other heads"
    if len(found) > _MOST_KINDS:
        yield f"its layers have {len(found)} kinds of heads, more than {_MOST_KINDS}"
    whole = next((parts for parts in found.values() if parts.whole), None)
    if whole and len(found) > 1:
        yield f"{label(whole.norms[0])} is a norm of all heads together, and other layers have other heads"


def _alike(layer: Layer) -> Iterator[tuple[str, str, object]]:
    """What the kernel has once for all layers: each operation's label, and what must be the same of it.

    The last is missing of layers that have no v.
    """
    op, parts, gated = layer.op, layer.attention.parts, layer.gate_up.gated
    normed: list[tuple[Op, Vector]] = [(match.ops[0], match.vector) for match in (layer.qkv, layer.gate_up)]
    for first, vector in normed:
        norm = vector.norm
        yield label(first), "norm before it", bool(norm)
        yield label(first), "eps", norm and norm.eps
        yield label(first), "norm's weight", bool(norm and norm.weight)
    for end_of in (layer.out, layer.down, *(layer.extra[1:] if layer.extra else ())):
        yield label(end_of.ops[-1]), "factor", end_of.add.scale if isinstance(end_of, LinearAdd) else 1
    yield label(op), "scale", op.scale
    yield label(op), "soft cap", op.softcap
    yield label(op), "use of sinks", bool(op.sinks)
    first_norm = parts.norms[0] if parts.norms else None
    yield label(op), "norm of q and k", bool(first_norm)
    yield label(first_norm or op), "norm of all heads", parts.whole
    yield label(first_norm or op), "eps", first_norm and first_norm.eps
    yield label(gated), "activation", gated.activation
    if layer.extra:
        yield label(layer.extra[0].gated), "activation", layer.extra[0].gated.activation
    if op.v:
        yield label(op), "norm of v", bool(parts.value_norms)


def _size(op: Attention) -> tuple[int, int, int]:
    return op.heads, op.kv_heads, op.head_dim


def _shape(rope: RopeSpec) -> tuple[int | bool, ...]:
    """All but the angles and what they are multiplied by."""
    return rope.dim, rope.interleaved
