"""Cards: one file each, found by its presence. A card is what was measured on it; what its code may use is a target.

Beside a card's file may lie its tuning table: `h200.json`, written by `imp tune`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Mma = Literal["int8", "f16", "half", "fp8", "mxfp8", "fp4", "nvfp4"]
"""Kinds of matrix instructions: `f16` is bf16, too, with float32 sums; `half` is f16 with halfs as sums; `mxfp8` and
`nvfp4` have block scales."""


@dataclass(frozen=True, slots=True)
class Formulas:
    """What the formulas go by where no tuning table says better. None of it changes a result.

    `gemv_warps`: of a CTA that streams weights, one CTA a multiprocessor. `stream_slots`: tiles that each has in flight
    at most. `in_flight`: bytes that a CTA of the step kernel has in flight at most. `early_ctas`: CTAs that need not
    have arrived when the others begin to poll a vector, if that has at most `early_cols` values. `whole_cols`: of what
    gate and up make, up to which down begins once all is there, not with the first part alone. `lanes`: of the
    fetching warp that look for room, twice as many where no tile has `short_tile` bytes. `step_tile_us`: what
    a multiprocessor takes in the step kernel for a tile of one row, all in all, where memory does not limit it;
    `step_row_us`: for each row more that a tile has.
    """

    gemv_warps: int
    stream_slots: int
    in_flight: int
    early_ctas: int
    early_cols: int
    whole_cols: int
    lanes: int
    short_tile: int
    step_tile_us: float = 0.0
    step_row_us: float = 0.0


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a card is: `bandwidth` of a plain read kernel in GB/s, `clock` in GHz under load, overheads in us.

    `rates`: tensor cores, by kind of instruction, in TOPS or TFLOP/s of warp-wide instructions (`mma.sync`).
    `launch_us`: of a launch in a graph; `phase_us`: of a phase in the step kernel. `tiles`: us that a multiprocessor
    takes for a tile of a matrix product or of attention, by what `Tiles.kind` of the plan says.
    """

    bandwidth: float
    clock: float
    rates: Mapping[Mma, float]
    launch_us: float
    phase_us: float
    tiles: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Card:
    """A card of a target. `name`: of its file, with dashes; `title`: as its driver calls it; `sms`: multiprocessors.

    `shared`: bytes of shared memory a multiprocessor has. `speed`: None for the simulator. `like`: the card from whose
    tiles those are predicted that nobody has measured on this one.
    """

    name: str
    title: str
    target: str
    sms: int
    shared: int
    formulas: Formulas
    speed: Speed | None
    like: Card | None = None

    @property
    def basis(self) -> str:
        """What predictions for it are based on, in words."""
        return f"{self.title}, from {self.like.title}" if self.like else self.title

    def sized(self, sms: int) -> Card:
        """The same with another number of multiprocessors: a part of a card, or one that nobody has described."""
        return self if sms == self.sms else replace(self, name=str(sms), sms=sms)


@functools.cache
def cards() -> Mapping[str, Card]:
    """Every card by its name."""
    found: dict[str, Card] = {}
    for module in pkgutil.iter_modules(__path__):
        card = importlib.import_module(f"{__name__}.{module.name}").CARD
        assert isinstance(card, Card)
        found[card.name] = card
    return found


def fast_cards() -> Mapping[str, Card]:
    """Every card that a prediction can be made for, by name."""
    return {name: card for name, card in cards().items() if card.speed is not None}
