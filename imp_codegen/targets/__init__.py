"""Targets: one file each, found by its presence. A target holds a GPU's facts and the sizes chosen for it."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from imp_runtime.errors import ImpError
from imp_runtime.plan import MAX_SMS


@dataclass(frozen=True, slots=True)
class Gpu:
    """A card: its multiprocessors, bandwidth of a plain read kernel (GB/s), int8 tensor rate (TOPS), overheads (us).

    `launch_us`: of a launch in a graph; `phase_us`: of a phase in the step kernel.
    """

    name: str
    title: str
    sms: int
    bandwidth: float
    int8_tops: float
    launch_us: float
    phase_us: float


@dataclass(frozen=True, slots=True)
class Target:
    """What code is compiled for.

    `sms`: multiprocessors that grids are sized for. `gemv_warps`: warps of a CTA that streams weights, one CTA an SM.
    `gemv_shared`: shared memory that its rings and its vector may take. `step_warps`: warps of a CTA that compute in
    the step kernel, where one more fetches, and that attend in either form. `in_flight`: bytes that a CTA of the step
    kernel has in flight at most.
    `attention_ctas`: CTAs that one layer's decode attention is split over. `max_shared`: bytes of shared memory a CTA.

    What the formulas go by where no tuning table says better, each measured on the card that the file names:
    `stream_slots`: tiles that a warp of a streaming kernel has in flight at most. `small_layer`: bytes of a layer for
    one multiprocessor, below which `small_layer_warps` of the step's warps do. `early_ctas`: CTAs that need not have
    arrived when the others begin to poll a vector, if that has at most `early_cols` values. `lanes`: of the fetching
    warp that look for room, twice as many where no tile has `short_tile` bytes. `unpacks`: GB/s of a multiprocessor
    that the step kernel keeps up with in a layout, where less than a card's memory gives.
    """

    name: str
    compiler: Literal["nvcc", "g++"]
    sms: int
    max_shared: int
    gemv_warps: int
    gemv_shared: int
    step_warps: int
    in_flight: int
    attention_ctas: int
    sample_threads: int
    stream_slots: int
    small_layer: int
    small_layer_warps: int
    early_ctas: int
    early_cols: int
    lanes: int
    short_tile: int
    unpacks: Mapping[str, float]
    gpus: tuple[Gpu, ...]

    @property
    def card(self) -> Gpu | None:
        """The card that predictions are made for: the first with as many multiprocessors, else the first."""
        alike = (gpu for gpu in self.gpus if gpu.sms == self.sms)
        return next(alike, self.gpus[0] if self.gpus else None)

    def __str__(self) -> str:
        """As it is asked for."""
        return f"{self.name}:{self.sms}"


class TargetError(ImpError):
    """An unknown target or GPU."""


@functools.cache
def targets() -> Mapping[str, Target]:
    """Every target by its name."""
    found: dict[str, Target] = {}
    for module in pkgutil.iter_modules(__path__):
        target = importlib.import_module(f"{__name__}.{module.name}").TARGET
        assert isinstance(target, Target)
        found[target.name] = target
    return found


def find_target(text: str) -> Target:
    """The target of that name; after a colon may stand the multiprocessors to size grids for, as in `sm_120a:84`."""
    name, colon, count = text.partition(":")
    if name not in targets():
        raise TargetError(f"target {name!r} is unknown; known: {', '.join(sorted(targets()))}")
    target = targets()[name]
    if not colon:
        return target
    if not (re.fullmatch("[0-9]{1,4}", count) and 1 <= int(count) <= MAX_SMS):
        raise TargetError(f"target {text!r:.80}: after the colon stand its multiprocessors, 1 to {MAX_SMS}")
    sms = int(count)
    return replace(target, sms=sms, attention_ctas=target.attention_ctas * sms // target.sms)


def find_targets(texts: Sequence[str]) -> tuple[Target, ...]:
    """Targets with different names; TargetError if two are the same one."""
    found = tuple(map(find_target, texts))
    for target in found:
        if [other.name for other in found].count(target.name) > 1:
            raise TargetError(f"target {target.name} is asked for twice; an artifact holds its code once")
    return found


def gpus() -> Mapping[str, Gpu]:
    """Every card that a prediction can be made for, by name."""
    return {gpu.name: gpu for target in targets().values() for gpu in target.gpus}


class Costs(Protocol):
    """What a launch reads and computes: of a planned kernel, or of one that is only drafted."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights."""
        ...

    @property
    def other_bytes(self) -> int:
        """All other bytes."""
        ...

    @property
    def flops(self) -> int:
        """Two a multiplication."""
        ...

    @property
    def phases(self) -> int:
        """Steps that each need all of the one before."""
        ...


def predict_us(gpu: Gpu, kernel: Costs) -> float:
    """Predicted time of one launch in microseconds: the larger of streaming and arithmetic, and overheads."""
    streaming = (kernel.weight_bytes + kernel.other_bytes) / (gpu.bandwidth * 1e3)
    arithmetic = kernel.flops / (gpu.int8_tops * 1e6)
    return max(streaming, arithmetic) + gpu.launch_us + (kernel.phases - 1) * gpu.phase_us
