"""A cost model of streamed stages, for the choices on a GPU that nobody has measured yet. Its table says so.

The reasoning, for an RTX 5090 (170 SMs, GDDR7): by Little's law 1792 GB/s at 0.8 us of latency need 1.4 MB in flight,
8.4 KB an SM; less is slower in proportion. Beyond that a plain read still gains: on a 5070 Ti with 70 SMs 16, 32 and
64 KB in flight an SM reached 861, 877 and 884 of 896 GB/s, which is a share of f / (f + 0.7 KB). And what is in flight
while the kernel before ends costs nothing: in the 2 us between two kernels an SM streams 21 KB, so rings of at least
that are full when the vector comes; with the loss above, 32 KB and more are wanted.
"""

from __future__ import annotations

from collections.abc import Iterable

from imp_codegen.cards import Speed
from imp_codegen.targets import Target
from imp_codegen.tune.stage import Choice, Stage
from imp_codegen.tune.table import Entry, Table, TuningError

SOURCE = "cost model, not measured: imp tune --predict"
_LATENCY_US = 0.8
_LOST_BYTES = 700  # what the share f / (f + 0.7 KB) lacks to one
_LEAST_WARPS = 8
_WORTH = 0.01  # a gain below this share is no reason to leave the formula


def stage_us(stage: Stage, choice: Choice, target: Target, speed: Speed) -> float:
    """Predicted microseconds of one launch: that of the SM with most units, whose last round may occupy few warps."""
    share = speed.bandwidth * 1e3 / target.sms  # an SM's bytes/us
    unit_bytes = stage.plane_bytes / stage.units
    tile_bytes = unit_bytes / stage.unit_tiles
    rounds, rest = divmod(-(-stage.units // target.sms), choice.warps)
    ring = choice.warps * choice.slots * tile_bytes
    total = (rounds * choice.warps + rest) * unit_bytes
    early = min(ring, total, speed.launch_us * share)  # while the kernel before ends
    last = rest * unit_bytes
    last_in_flight = rest * min(choice.slots, stage.unit_tiles) * tile_bytes
    full_us = max(total - last - early, 0) / _rate(share, ring)
    last_us = min(last, total - early) / _rate(share, last_in_flight) if rest else 0.0
    return speed.launch_us + full_us + last_us


def _rate(share: float, in_flight: float) -> float:
    """Bytes/us that an SM receives with so many bytes in flight."""
    return min(in_flight / _LATENCY_US, share * in_flight / (in_flight + _LOST_BYTES))


def predicted_table(stages: Iterable[Stage], target: Target) -> Table:
    """The best choice of each stage by the model; the formula's where the model sees no difference worth it."""
    speed = target.card.speed
    if speed is None:
        raise TuningError(f"--predict {target.name}: the cost model knows no card of this target")
    entries = {stage.name: _entry(stage, target, speed) for stage in stages}
    return Table(target.name, f"{SOURCE} {target.name}", entries, "cost model", sms=target.sms)


def _entry(stage: Stage, target: Target, speed: Speed) -> Entry:
    formula = stage.formula(target)
    usual = stage_us(stage, formula, target, speed)
    others = [choice for choice in stage.candidates(target) if _sound(stage, choice, target)]
    us, best = min(
        ((stage_us(stage, c, target, speed), c) for c in others), key=lambda pair: pair[0], default=(usual, formula)
    )
    if us > usual * (1 - _WORTH):
        return Entry(formula, f"cost model: {usual:.2f} us, the formula's choice stays")
    return Entry(best, f"cost model: {us:.2f} us, formula {formula} {usual:.2f}")


def _sound(stage: Stage, choice: Choice, target: Target) -> bool:
    """Whether two things hold that the model does not see.

    Few warps may not keep up with the arithmetic; and an SM with room for two CTAs takes two of the next kernel while
    another gets none (measured on an H200).
    """
    return choice.warps >= _LEAST_WARPS and 2 * stage.shared_bytes(choice) > target.max_shared
