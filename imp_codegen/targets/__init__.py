"""Targets: one file each, found by its presence. A target is what code may use, whichever card of it runs that code."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from imp_codegen.cards import Card, cards
from imp_runtime.errors import ImpError
from imp_runtime.plan import MAX_SMS


@dataclass(frozen=True, slots=True)
class Target:
    """What code is compiled for: an instruction set, the limits of its CTAs, and a card that it is sized for.

    `max_shared`: bytes of shared memory a CTA may have. `gemv_shared`: of them, what the rings and the vector of a CTA
    that streams weights may take. `step_warps`: warps of a CTA that compute in the step kernel, where one more fetches,
    and that attend in either form, as registers allow; `small_layer_warps` where a layer has less than `small_layer`
    bytes for one multiprocessor. `attention_per_sm`: CTAs a multiprocessor that one layer's decode attention is split
    over. `sample_threads`: of a CTA that samples. `card`: the usual one, unless another is asked for. `wgmma`: whether
    four warps together multiply what lies in shared memory, as the PTX instructions of that name do. `fp4`:
    whether tensor cores multiply e2m1 with scales in e4m3. `chunks`: rows of
    the programs of several rows, ascending; what runs takes the smallest that they fit. `batches`: the same of steps of
    so many sequences.
    """

    name: str
    compiler: Literal["nvcc", "g++"]
    max_shared: int
    gemv_shared: int
    step_warps: int
    small_layer: int
    small_layer_warps: int
    attention_per_sm: int
    sample_threads: int
    card: Card
    wgmma: bool = False
    fp4: bool = False
    chunks: tuple[int, ...] = (128,)
    batches: tuple[int, ...] = ()

    @property
    def sms(self) -> int:
        """Multiprocessors that grids are sized for."""
        return self.card.sms

    @property
    def attention_ctas(self) -> int:
        """CTAs that one layer's decode attention is split over."""
        return self.attention_per_sm * self.sms

    def sized(self, sms: int) -> Target:
        """For another number of multiprocessors: a card that has so many, else the usual one with so many."""
        alike = (card for card in cards().values() if (card.target, card.sms) == (self.name, sms))
        return (
            self if sms == self.sms else replace(self, card=next(alike, None) or targets()[self.name].card.sized(sms))
        )

    def __str__(self) -> str:
        """As it is asked for."""
        return f"{self.name}:{self.card.name}"


class TargetError(ImpError):
    """An unknown target or card."""


@functools.cache
def targets() -> Mapping[str, Target]:
    """Every target by its name, for its usual card."""
    found: dict[str, Target] = {}
    for module in pkgutil.iter_modules(__path__):
        target = importlib.import_module(f"{__name__}.{module.name}").TARGET
        assert isinstance(target, Target)
        found[target.name] = target
    return found


def find_target(text: str) -> Target:
    """The target of that name; after a colon a card or its multiprocessors: `sm_120a:rtx-5080` or `sm_120a:84`."""
    name, colon, size = text.partition(":")
    if name not in targets():
        raise TargetError(f"target {name!r} is unknown; known: {', '.join(sorted(targets()))}")
    target = targets()[name]
    if not colon:
        return target
    named = {card.name: card for card in cards().values() if card.target == name}
    if size in named:
        return replace(target, card=named[size])
    if not (re.fullmatch("[0-9]{1,4}", size) and 1 <= int(size) <= MAX_SMS):
        raise TargetError(
            f"target {text!r:.80}: after the colon stands a card ({', '.join(sorted(named))}) or its number of "
            f"multiprocessors, 1 to {MAX_SMS}"
        )
    return target.sized(int(size))


def find_targets(texts: Sequence[str]) -> tuple[Target, ...]:
    """Targets with different names; TargetError if two are the same one."""
    found = tuple(map(find_target, texts))
    for target in found:
        if [other.name for other in found].count(target.name) > 1:
            raise TargetError(f"target {target.name} is asked for twice; an artifact holds its code once")
    return found
