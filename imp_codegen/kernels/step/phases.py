"""The step kernel's phases as C++ types (stage/step_phase.h, step_attention.h)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from imp_codegen.kernels.attention.parts import core_config
from imp_codegen.kernels.kernel_spec import Config, Cpp, Scalar
from imp_codegen.kernels.linear_add import LinearAdd
from imp_codegen.kernels.step import sizes
from imp_codegen.kernels.step.model import StepModel
from imp_codegen.kernels.step.schedule import Flow
from imp_codegen.kernels.step.units import first_turns, model_flows
from imp_codegen.kernels.stream import activation, bias_mask, encode_config
from imp_codegen.kernels.vector import Vector
from imp_codegen.ops import Linear


def phase_types(model: StepModel, early: int) -> tuple[Cpp, Cpp]:
    """The C++ types of a layer's phases, in the order in which they run, and of the head's product."""
    first, head = model.first, model.head
    logits = dict(head.config(sizes.warps(model)).fields)
    ends = (first.out, first.down, *(first.extra[1:] if first.extra else ()))
    out, down, *proj = (match.add.scale if isinstance(match, LinearAdd) else 1.0 for match in ends)
    places = [Cpp("AtQkv"), Cpp("AtOut"), Cpp("AtGateUp"), Cpp("AtDown"), Cpp("AtHead")]
    scales = [1.0, out, 1.0, down, *((1.0, *proj) if proj else ())]
    if first.extra:
        places[4:4] = [Cpp("AtGate", (activation(first.extra[0].gated),)), Cpp("AtProj")]
    configs: list[dict[str, Scalar]] = [{"scale": scale, "cap": 0.0} for scale in scales]
    configs.append({"scale": logits["scale"], "cap": logits["cap"]})
    qkv, attention, *others = model_flows(model)
    products = [
        _phase(model, (place, flow), layers, vectors, early, config)
        for place, flow, layers, vectors, config in zip(
            places, (qkv, *others), model.products(), model.vectors(), configs, strict=True
        )
    ]
    return Cpp("Phases", (products[0], _attention(model, attention), *products[1:-1])), products[-1]


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
        core = core_config(low, parts, sizes.splits(low, parts.op), window)
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
    encoders = [
        Cpp("Encoder", (encode_config(low, each, sizes.all_weights(layers), sizes.warps(model)),)) for each in vectors
    ]
    early = early if max(each.value.width for each in vectors) <= low.target.card.formulas.early_cols else 0
    turns = first_turns(model) if place.name == "AtDown" else 0
    biased = bias_mask(max(layers, key=len))
    phase = Config("PhaseConfig", (("early", early), ("first_turns", turns), ("biased", biased), *config.items()))
    return Cpp("StepPhase", (place, _flow(flow), phase, _by_layer(encoders), _by_layer(units)))
