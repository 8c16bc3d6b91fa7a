"""The check of the step kernel's schedule: content with every shape that we know, and with no seeded mistake."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest

from imp_codegen.kernels.step import schedule as module
from imp_codegen.kernels.step.schedule import (
    Attending,
    Count,
    Flow,
    Order,
    Phase,
    Schedule,
    ScheduleError,
    check,
    flows,
)
from imp_codegen.targets import TargetError, find_target
from schedules import DEMO, SHAPES, schedule_of


@pytest.mark.thorough
@pytest.mark.parametrize(("target", "refused"), [("sm_90a", []), ("sm_120a", ["qwen2.5-7b Q4_K_M", "qwen2.5-7b BF16"])])
def test_known_shapes(target, refused):
    """As far as their tiles fit the target's shared memory."""
    found = []
    for source in SHAPES:
        others = () if source.stem.startswith(("gemma", "phi", "mistral")) else ("Q8_0", "BF16")
        for quant in ("Q4_K_M", *others):
            try:
                _, schedule = schedule_of(source, quant, find_target(target))
            except TargetError:
                found.append(f"{source.stem} {quant}")
            else:
                check(schedule)
    assert found == refused


@pytest.mark.parametrize("target", ["sm_90a", "sm_120a", "sim"])
def test_the_demo_model(target):
    _, schedule = schedule_of(DEMO, "", find_target(target))
    check(schedule)
    few = [phase for phase in schedule.products() if phase.units < schedule.grid]
    assert bool(few) == (target != "sim")


# Four warps and three CTAs; the last phase's units do not come out even.
LAYER: tuple[Phase | Attending, ...] = (
    Phase("q, k and v", 24, 1, 64, 96),
    Attending(96, 64, window=0, items=2, splits=1, warps=4),
    Phase("output projection", 16, 1, 64, 64),
    Phase("gate and up", 37, 2, 64, 148),
    Phase("down projection", 16, 3, 148, 64, may_sweep=True, before=2),
)
GOOD = Schedule(
    grid=3,
    warps=4,
    slots=12,
    in_flight=5,
    lanes=4,
    layers=(LAYER, (LAYER[0], replace(LAYER[1], window=40), *LAYER[2:])),
    head=Phase("LM head", 76, 1, 64, 301),
    blocks=50,
)


def flowing(number: int, flow: Flow) -> Schedule:
    return replace(GOOD, flows=(*GOOD.flows[:number], flow, *GOOD.flows[number + 1 :]))


def phase(number: int, **changes: object) -> Schedule:
    return replace(GOOD, layers=(LAYER, changed(number, **changes)))


def changed(number: int, **changes: object) -> tuple[Phase | Attending, ...]:
    return (*LAYER[:number], replace(LAYER[number], **changes), *LAYER[number + 1 :])  # type: ignore[arg-type]


def test_a_good_one():
    check(GOOD)
    check(replace(GOOD, slots=9))  # a round of four and five in flight; too few for sweeps, which are then not made
    check(replace(GOOD, layers=(LAYER, tuple(replace(p, early=2) if isinstance(p, Phase) else p for p in LAYER))))


@pytest.mark.parametrize(("slots", "ends"), [(12, False), (13, True)])
def test_tiles_of_a_cache_block_in_pieces(slots, ends):
    """Four warps that each wait for four pieces of their keys: the first one's last is the thirteenth."""
    schedule = replace(phase(1, pieces=4), slots=slots, in_flight=3, lanes=2)
    if ends:
        check(schedule)
        return
    with pytest.raises(ScheduleError, match=r"attention: CTA \d waits for tile \d+ of \d+, and the warp that fetches"):
        check(schedule)


EXTRA = (Phase("input gate", 16, 1, 64, 16), Phase("input projection", 16, 1, 16, 64))


@pytest.mark.parametrize("normed", [False, True])
def test_branches_with_norms_and_a_third_one(normed):
    check(replace(GOOD, flows=flows(normed=normed)))
    with_inputs = tuple((*layer, *EXTRA) for layer in GOOD.layers)
    check(replace(GOOD, flows=flows(normed=normed, extra=True), layers=with_inputs))


# Rows of gate and up are 148 or 296; with an odd number of layers of a kind, and an even one.
WIDE = (*LAYER[:3], replace(LAYER[3], units=74, rows=296), replace(LAYER[4], cols=296))


@pytest.mark.parametrize("wide", [0, 1, 2, 3])
def test_vectors_of_several_lengths(wide):
    check(replace(GOOD, layers=(LAYER, *(WIDE,) * wide, LAYER)))


def test_a_length_whose_writes_were_not_counted_apart(monkeypatch):
    """As if all lengths lay in the same words: every second layer's tag is not that of every second write."""
    monkeypatch.setattr(module, "_written", lambda flow, phase: tuple((name, 0) for name in flow.written()))
    with pytest.raises(ScheduleError, match="waits for a qkv that nobody writes"):
        check(replace(GOOD, layers=(LAYER, WIDE, LAYER)))


def test_fewer_warps_attend_than_multiply():
    layer = changed(1, warps=2, pieces=4)
    check(replace(GOOD, layers=(layer, LAYER)))


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (replace(GOOD, lanes=6), "6 lanes fetch 5 tiles at a time into 12 slots"),
        (replace(GOOD, in_flight=13), "4 lanes fetch 13 tiles at a time into 12 slots"),
        (replace(GOOD, lanes=0), "0 lanes"),
        (
            replace(GOOD, slots=8),
            "q, k and v: 8 units of 1 tiles in 4 warps: warp 0 waits for tile 4 when only tile 0 must have landed; "
            "with 5 tiles in flight that takes 9 slots, the ring has 8",
        ),
        (replace(GOOD, in_flight=9), "with 9 tiles in flight that takes 13 slots, the ring has 12"),
        (phase(0, rows=95), "attention: 95 values are published, 96 are waited for"),
        (phase(1, rows=48), "output projection: 48 values are published, 64 are waited for"),
        (phase(3, rows=144), "down projection: 144 values are published, 148 are waited for"),
        (phase(4, rows=60), "q, k and v: 60 values are published, 64 are waited for"),
        (replace(GOOD, head=replace(GOOD.head, cols=128)), "LM head: 64 values are published, 128 are waited for"),
        (flowing(3, Flow("sum", "gated")), "phase 3 of a layer waits for a sum that nobody writes"),
        (flowing(3, Flow("x", "x")), "phase 3 of a layer writes x, which it reads"),
        (flowing(0, Flow("x", "qkv", "branch", "x")), "phase 0 of a layer waits for a branch that nobody writes"),
        (phase(4, before=3), "down projection: 3 of a unit's 3 tiles come before the vector is complete"),
        (phase(4, may_sweep=False), "down projection: 2 of a unit's 3 tiles come before the vector is complete"),
        (phase(2, early=-1), "output projection: begins when all but -1 CTAs have arrived"),
        (
            replace(phase(3, early=2), grid=20),
            "gate and up: begins when all but 2 CTAs have arrived, and output projection has 16 units for 20 CTAs",
        ),
    ],
)
def test_wrong_numbers(schedule, words):
    with pytest.raises(ScheduleError) as raised:
        check(schedule)
    assert words in str(raised.value)
    assert "report it" in str(raised.value)


class FetchedByUnits(Order):
    """Fetches all tiles of a unit before the next one's, while the warps take them side by side."""

    def place(self, i):
        return divmod(i, self.tiles)


class TakenFromTheEnd(Order):
    """Each warp begins with its last unit."""

    def taken(self, warp):
        return super().taken(warp)[::-1]


class OneForgotten(Count):
    """The second CTA does one unit less."""

    def next(self, units, tiles):
        share = super().next(units, tiles)
        return replace(share, units=share.units - 1) if self.block == 1 else share


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("Order", FetchedByUnits, "a tile is not taken where it was fetched"),
        ("Order", TakenFromTheEnd, "against the order of fetching"),
        ("Count", OneForgotten, "q, k and v: its 24 units are not each done once by 3 CTAs"),
        ("splits_of", lambda attending, blocks: [blocks - 1], "attention: 1 blocks are cut into [0], 1 splits at most"),
        (
            "splits_of",
            lambda attending, blocks: [1] * blocks,
            "attention: 4 blocks are cut into [1, 1, 1, 1], 1 splits",
        ),
    ],
)
def test_wrong_counting(monkeypatch, name, wrong, words):
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(ScheduleError) as raised:
        check(GOOD)
    assert words in str(raised.value)


@pytest.mark.parametrize(("slots", "ends"), [(3, False), (4, True)])
def test_who_fetches_and_who_takes_wait_for_each_other(monkeypatch, slots, ends):
    """Two warps of which each wants a tile that comes after the other's next one: three tiles must be there at once."""

    def crossed(schedule, block, blocks):
        return [("crossed", [deque([(1,), (2,), (5,)]), deque([(3,), (0,), (4,)])])]

    monkeypatch.setattr(module, "_queues", crossed)
    schedule = replace(GOOD, slots=slots)
    if ends:
        module._check_ring(schedule, 1, 7)
        return
    with pytest.raises(
        ScheduleError, match=r"crossed: CTA 1 waits for tile 3 of 6.*3 are fetched, the ring has 3 slots"
    ):
        module._check_ring(schedule, 1, 7)
