"""The step kernel (stage/step.h), and whether a target has room for it."""

from __future__ import annotations

from collections import Counter

from imp_codegen.graph import label
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec
from imp_codegen.kernels.lowering import round_up
from imp_codegen.kernels.step import sizes
from imp_codegen.kernels.step.arguments import step_arguments
from imp_codegen.kernels.step.copies import Copies
from imp_codegen.kernels.step.model import StepModel
from imp_codegen.kernels.step.phases import phase_types
from imp_codegen.kernels.step.schedule import check
from imp_codegen.kernels.step.units import least_units, step_schedule
from imp_codegen.predict import step_tiles_us
from imp_codegen.tune.step import LEAST_TILES, Step
from imp_runtime.plan import CacheRead


def tuned(model: StepModel) -> Step:
    """The kernel as tuning tables know it."""
    low, matrices = model.low, model.matrices()
    count = Counter(low.shape(weight) for weight in matrices)
    each = ", ".join(f"{n} of {shape}" for shape, n in sorted(count.items()))
    kinds = (f"{op.heads}/{op.kv_heads} heads of {op.head_dim}" for op in sizes.attentions(model))
    heads = ", ".join(dict.fromkeys(kinds))
    return Step(
        f"{len(model.layers)} layers, {heads}, {each}, head {low.shape(model.head.linear.weight)}",
        max(low.tile_bytes(weight) for weight in matrices),
        sizes.slots(model) - sizes.warps(model),
    )


def shortage(model: StepModel) -> str | None:
    """Why the target has too little shared memory for the kernel, or None."""
    if tuned(model).possible:
        return None
    target, phases = model.low.target, sizes.scratch(model) + sizes.shared_state(model)
    return (
        f"{target.name} has {target.max_shared:,} bytes of shared memory, its phases take {phases:,}, and "
        f"{sizes.slots(model)} tiles of {sizes.slot_bytes(model):,} fit beside them; "
        f"{sizes.warps(model) + LEAST_TILES} are needed"
    )


def step_kernel(model: StepModel) -> KernelSpec:
    """The kernel; there must be no `shortage`."""
    low, head = model.low, model.head
    matrices, target, slots, warps = model.matrices(), low.target, sizes.slots(model), sizes.warps(model)
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
    check(step_schedule(model, dict(step.fields), early))
    ops = [op for layer in model.layers for match in layer.groups() for op in match.ops]
    logits, copies = head.logits, Copies(low)
    parts = model.heads.values()
    ring = slots * sizes.slot_bytes(model) + 2 * round_up(slots * 8, 16)  # with two barriers a slot
    return KernelSpec(
        name="step",
        entry="step",
        headers=(
            "stage/step",
            *sorted({low.cache_header(each.op.layer) for each in parts}),
            *low.headers(*matrices, head.linear.weight),
        ),
        stage=Cpp("Step", (step, *phase_types(model, early))),
        args=step_arguments(model, copies),
        indexed=True,
        grid=(target.sms, 1, 1),
        threads=(warps + 1) * 32,
        shared_bytes=ring + sizes.scratch(model) + sizes.shared_state(model),
        ops=tuple(map(label, (*ops, *head.ops[:-1]))),
        overlap=True,
        resident=True,
        outputs=(*copies.outputs, *low.output(logits)),
        phases=sizes.phase_count(model) * len(model.layers) + 1,
        weight_bytes=low.weight_bytes(*matrices, head.linear.weight),
        other_bytes=logits.width * 4,
        cache_reads=_cache_reads(model),
        flops=2 * sum(w.rows * w.cols for w in (*matrices, head.linear.weight)),
    )


def tiles_us(model: StepModel) -> float:
    """What the tiles of all matrices, the head's included, take the card's multiprocessors, whatever memory does."""
    low, weights = model.low, (*model.matrices(), model.head.linear.weight)
    return step_tiles_us(low.target.card, ((weight.rows, weight.cols, low.tile(weight)) for weight in weights))


def _cache_reads(model: StepModel) -> tuple[CacheRead, ...]:
    """Of all layers, those with the same window together."""
    nbytes: Counter[int] = Counter()
    for layer in model.layers:
        nbytes[layer.op.window] += model.low.cache.layers[layer.op.layer].position_bytes
    return tuple(CacheRead(window, count) for window, count in sorted(nbytes.items()))
