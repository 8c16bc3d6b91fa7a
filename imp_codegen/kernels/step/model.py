"""What the step kernel is made of: a model as a list of layers, whose phases are the groups of the graph form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from imp_codegen.graph import Value, Weight, label
from imp_codegen.kernels.attention.family import CachedAttention
from imp_codegen.kernels.embed import Embedding
from imp_codegen.kernels.family import Body, Match
from imp_codegen.kernels.gate_up import GateUp
from imp_codegen.kernels.head import Head
from imp_codegen.kernels.linear_add import LinearAdd
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.norm_linear import NormLinear
from imp_codegen.ops import Attention

_PHASES = (NormLinear, CachedAttention, LinearAdd, GateUp, LinearAdd)  # of a layer


@dataclass(frozen=True, slots=True)
class Layer:
    """The groups of one layer, a phase each."""

    qkv: NormLinear
    attention: CachedAttention
    out: LinearAdd
    gate_up: GateUp
    down: LinearAdd

    @property
    def op(self) -> Attention:
        """The attention itself."""
        return self.attention.parts.op

    def groups(self) -> tuple[Match, ...]:
        """All, in order."""
        return (self.qkv, self.attention, self.out, self.gate_up, self.down)

    def matrices(self) -> tuple[Weight, ...]:
        """In the order of the phases."""
        mlp = (self.gate_up.gate, self.gate_up.up, self.down.linear)
        return tuple(op.weight for op in (*self.qkv.linears, self.out.linear, *mlp))


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
        assert isinstance(out, LinearAdd)
        assert isinstance(gate_up, GateUp)
        assert isinstance(down, LinearAdd)
        yield Layer(qkv, attention, out, gate_up, down)


def _strangers(matches: tuple[Match, ...]) -> Iterator[Match]:
    """Groups that are not the phase which comes next, or do not read what the phases before have made."""
    x: tuple[Value, ...] = ()  # the residual stream
    before: tuple[Value, ...] = ()
    for at, match in enumerate(matches):
        if at == 0 or at == len(matches) - 1:
            kind: type[Match] = Head if at else Embedding
        else:
            kind = _PHASES[(at - 1) % len(_PHASES)]
        whole = at < len(matches) - 1 or at % len(_PHASES) == 1
        wanted = {
            Embedding: (),
            CachedAttention: (before,),
            LinearAdd: (before, x),
        }.get(kind, (x,))
        if not isinstance(match, kind) or match.reads != wanted or not whole:
            yield match
        before = match.writes[0]
        if kind in (Embedding, LinearAdd):
            x = before


def _obstacles(model: StepModel) -> Iterator[str]:
    low = model.low
    for layer in model.layers:
        biased = [op for op in (*layer.qkv.linears, layer.out.linear, layer.down.linear) if op.bias]
        if biased:
            yield f"{biased[0].weight.name} has a bias"
        first = layer.qkv.linears[0].weight
        if len(layer.qkv.linears) != 3:
            yield f"{first.name}: q, k and v are not three matrices"
        if len({op.weight.cols // low.tile(op.weight).cols for op in layer.qkv.linears}) > 1:
            yield f"{first.name}: q, k and v are cut into different numbers of tiles"
    for layer in model.layers[1:]:
        for item, first_item in zip(_alike(layer), _alike(model.first), strict=True):
            if item[1:] != first_item[1:]:
                yield f"{item[0]} differs from {first_item[0]}"


def _alike(layer: Layer) -> tuple[tuple[object, ...], ...]:
    """What the kernel has once for all layers: each operation's label, and what must be the same of it."""
    op, gate = layer.op, layer.gate_up.gate
    eps = [(label(norm), norm.eps) for norm in (layer.qkv.norm, layer.gate_up.norm)]
    heads = (label(op), op.heads, op.kv_heads, op.head_dim, len(layer.attention.parts.norms))
    return (*eps, heads, (label(gate), gate.out.width))
