"""What a phase of the step kernel consists of, the twin of stage/units.h, and the schedule that is checked with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil

from imp_codegen.graph import Weight
from imp_codegen.kernels.attention.sizes import attention_warps, queries_of_cta
from imp_codegen.kernels.kernel_spec import Scalar
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.step import sizes
from imp_codegen.kernels.step.model import Kind, Layer, StepModel, end
from imp_codegen.kernels.step.schedule import Attending, Flow, Phase, Schedule, flows
from imp_codegen.ops import Attention


def least_units(model: StepModel) -> int:
    """Units of the phase that has the fewest."""
    return min(phase.units for layer in model.layers for phase in _products(model, layer, 0))


def step_schedule(model: StepModel, step: Mapping[str, Scalar], early: int) -> Schedule:
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
        flows=model_flows(model),
    )


def model_flows(model: StepModel) -> tuple[Flow, ...]:
    """What each phase of a layer reads and writes."""
    return flows(normed=model.head.vector.sum is not None, extra=model.first.extra is not None)


def first_turns(model: StepModel) -> int:
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


def _products(model: StepModel, layer: Layer, early: int) -> tuple[Phase, ...]:
    """A layer's phases but attention, as schedule.py counts them."""
    names = ("q, k and v", "output projection", "gate and up", "down projection", "input gate", "input projection")
    qkv, out, gate_up, down, *extra = (
        _product(model, name, tuple(op.weight for op in linears), early, paired=name == "gate and up")
        for name, linears in zip(names, layer.products(), strict=False)
    )
    tile = model.low.tile(end(layer.down).weight)
    return (qkv, out, gate_up, replace(down, before=first_turns(model) * _turn(model) // tile.cols), *extra)


def _turn(model: StepModel) -> int:
    """Columns that the warps encode at a time."""
    return sizes.warps(model) * 128


def _may_sweep(model: StepModel, weights: tuple[Weight, ...]) -> bool:
    """The twin of WarpUnits::kMaySweep (stage/warp_units.h)."""
    low, tile = model.low, model.low.tile(weights[0])
    most = ceil(ceil(_units(model, weights) / low.target.sms) / sizes.warps(model))
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


def _attending(low: Lowering, layer: Layer, kind: Attention) -> Attending:
    """A layer's attention, as schedule.py counts it; `kind`: that of its kind."""
    op = layer.op
    return Attending(
        cols=layer.attention.parts.width,
        rows=op.out.width,
        window=op.window,
        items=op.heads // queries_of_cta(op),
        splits=sizes.splits(low, kind),
        warps=attention_warps(low, kind),
        pieces=sizes.pieces(low, kind),
    )
