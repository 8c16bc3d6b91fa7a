"""The step kernel's schedule, checked by counting before anything is compiled: every wait in it must end.

Mirrors who fetches and takes which tile in which order: TapeCount, TapeRounds and TapeSweeps of stage/tape.h,
AttentionShare of stage/attention_core.h, and the waits of stage/step.h.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imp_runtime.errors import ImpError
from imp_runtime.plan import BLOCK_TOKENS


class ScheduleError(ImpError):
    """The compiler's own numbers would let a CTA wait for ever or read what is not there."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A product of all CTAs: `units` of `tiles` tiles each, from a vector of `cols` values to one of `rows`.

    `may_sweep`: the first tiles of all of a CTA's units come before their second ones, if the ring is long enough for
    that. `early`: CTAs that may still be at work on the vector when others begin to poll it.
    """

    name: str
    units: int
    tiles: int
    cols: int
    rows: int
    may_sweep: bool = False
    early: int = 0


@dataclass(frozen=True, slots=True)
class Flow:
    """What a phase reads and writes (Flow of stage/step_phase.h): names of vectors, empty for none.

    It reads `reads`, with a `branch` the sum of both, which it keeps as `kept`. It `adds` to what it writes, or not.
    """

    reads: str
    writes: str
    branch: str = ""
    kept: str = ""
    adds: bool = False

    def written(self) -> tuple[str, ...]:
        """The vectors that it leaves, in order."""
        return tuple(name for name in (self.kept, self.writes) if name)


def flows(normed: bool) -> tuple[Flow, ...]:
    """Those of a layer's phases and of the head. `normed`: its branches have norms before they are added."""
    if not normed:
        return (
            Flow("x", "qkv"),
            Flow("qkv", "attention"),
            Flow("attention", "x", adds=True),
            Flow("x", "gated"),
            Flow("gated", "x", adds=True),
            Flow("x", ""),
        )
    return (
        Flow("x", "qkv", "branch", "sum"),
        Flow("qkv", "attention"),
        Flow("attention", "branch"),
        Flow("sum", "gated", "branch", "x"),
        Flow("gated", "branch"),
        Flow("x", "", "branch"),
    )


@dataclass(frozen=True, slots=True)
class Schedule:
    """The numbers of a step kernel: StepConfig's; the four products of every different layer, in order; attention's.

    `windows`: the different ones of attention, 0 for none. `items`: CTAs that one split of the keys has; `splits`: most
    of them; `blocks`: of 16 positions, of the longest sequence; `qkv`, `attention`: values of the vectors that
    attention reads and writes; `flows`: of the phases, attention's among them, and of the head; `pieces`: tiles that a
    block's keys are, and its values, which a warp gives back together.
    """

    grid: int
    warps: int
    slots: int
    in_flight: int
    lanes: int
    layers: tuple[tuple[Phase, ...], ...]
    head: Phase
    windows: tuple[int, ...]
    items: int
    splits: int
    blocks: int
    qkv: int
    attention: int
    flows: tuple[Flow, ...] = flows(normed=False)
    pieces: int = 1


@dataclass(frozen=True, slots=True)
class Order:
    """In which order a CTA fetches the tiles of its `units` of a phase."""

    warps: int
    tiles: int
    units: int
    sweeps: bool = False

    def index(self, unit: int, k: int) -> int:
        """Where tile `k` of a unit comes."""
        if self.sweeps:
            return k * self.units + unit
        first = unit // self.warps * self.warps
        return first * self.tiles + k * min(self.units - first, self.warps) + unit % self.warps

    def place(self, i: int) -> tuple[int, int]:
        """Unit and tile that come i-th."""
        if self.sweeps:
            return i % self.units, i // self.units
        first = i // (self.warps * self.tiles) * self.warps
        k, unit = divmod(i - first * self.tiles, min(self.units - first, self.warps))
        return first + unit, k

    def taken(self, warp: int) -> list[int]:
        """The places of the tiles that a warp takes, as it takes them; warp 0 has the first unit."""
        units = range(warp, self.units, self.warps)
        if self.sweeps:
            return [self.index(unit, k) for k in range(self.tiles) for unit in units]
        return [self.index(unit, k) for unit in units for k in range(self.tiles)]


@dataclass(frozen=True, slots=True)
class Share:
    """What a CTA does of a phase: units first, first + grid, ...; number of the first tile, warp of the first unit."""

    first: int
    units: int
    tile: int
    warp: int


@dataclass(slots=True)
class Count:
    """Where CTA `block` is in the step: those of its warps who fetch and those who take count alike."""

    grid: int
    warps: int
    block: int
    tile: int = 0
    warp: int = 0
    shift: int = 0

    def next(self, units: int, tiles: int) -> Share:
        """The CTA's share of the next phase."""
        first = (self.block - self.shift) % self.grid
        share = Share(first, len(range(first, units, self.grid)), self.tile, self.warp)
        self.tile += share.units * tiles
        self.warp = (self.warp + share.units) % self.warps
        self.shift = (self.shift + units) % self.grid
        return share


def seen(position: int, window: int) -> int:
    """How many of a sequence's blocks a query at `position` looks at."""
    first = max(position + 1 - window, 0) if window else 0
    return position // BLOCK_TOKENS + 1 - first // BLOCK_TOKENS


def splits_of(schedule: Schedule, blocks: int) -> list[int]:
    """How many of the blocks in sight each split takes; those that take none are not there."""
    chunk = max(-(-blocks // schedule.splits), schedule.warps)
    return [min(blocks - begin, chunk) for begin in range(0, blocks, chunk)]


def check(schedule: Schedule) -> None:
    """Every wait of the kernel ends. ScheduleError names the phase, the CTA and the numbers."""
    if not 1 <= schedule.lanes <= schedule.in_flight <= schedule.slots:
        raise _wrong(f"{schedule.lanes} lanes fetch {schedule.in_flight} tiles at a time into {schedule.slots} slots")
    _check_vectors(schedule)
    _check_tags(schedule)
    orders: dict[Order, str] = {}
    for phase in _phases(schedule):
        _check_cover(schedule, phase)
        for units in {phase.units // schedule.grid, -(-phase.units // schedule.grid)}:
            for sweeps in {False, phase.may_sweep}:
                orders.setdefault(Order(schedule.warps, phase.tiles, units, sweeps), phase.name)
    contexts = _contexts(schedule)
    for blocks in sorted({seen(position, window) for position in contexts for window in schedule.windows}):
        _check_splits(schedule, blocks)
        for split in splits_of(schedule, blocks):
            order = Order(schedule.warps, 2 * schedule.pieces, split)
            orders.setdefault(order, f"attention over {blocks} blocks")
    for order, name in orders.items():
        _check_order(schedule, order, name)
    for block in _blocks(schedule):
        for position in contexts:
            _check_ring(schedule, block, position)


def _phases(schedule: Schedule) -> Iterator[Phase]:
    for layer in schedule.layers:
        yield from layer
    yield schedule.head


def _contexts(schedule: Schedule) -> list[int]:
    """Positions: with few blocks, those at which a second split begins, and many; of a window, whole ones and parts."""
    some = (1, schedule.warps, schedule.warps + 1, 5 * schedule.warps * schedule.splits + 1)
    ends = {min(n, schedule.blocks) * BLOCK_TOKENS - 1 for n in some}
    return sorted(ends | {end - BLOCK_TOKENS + 1 for end in ends if any(schedule.windows)})


def _blocks(schedule: Schedule) -> list[int]:
    """The first CTA, the last one, and those with the fewest and the most tiles of a layer."""
    tiles = []
    for block in range(schedule.grid):
        count = Count(schedule.grid, schedule.warps, block)
        for phase in schedule.layers[0]:
            count.next(phase.units, phase.tiles)
        tiles.append(count.tile)
    return sorted({0, schedule.grid - 1, tiles.index(min(tiles)), tiles.index(max(tiles))})


def _check_vectors(schedule: Schedule) -> None:
    """Each phase publishes all that the next one polls, and nobody can write it again before all have read it."""
    for phases in schedule.layers:
        qkv, out, gate_up, down = phases
        for name, made, wanted in (
            (qkv.name, qkv.rows, schedule.qkv),
            (out.name, schedule.attention, out.cols),
            (gate_up.name, out.rows, gate_up.cols),
            (down.name, gate_up.rows, down.cols),
            (qkv.name, down.rows, qkv.cols),
            (schedule.head.name, down.rows, schedule.head.cols),
        ):
            if made != wanted:
                raise _wrong(f"{name}: {made} values are published, {wanted} are waited for")
    least = min((phase for layer in schedule.layers for phase in layer), key=lambda phase: phase.units)
    for phase in _phases(schedule):
        # A CTA without a unit holds nobody up: others must wait until it, too, has read the vector.
        if phase.early < 0 or (phase.early > 0 and least.units < schedule.grid):
            raise _wrong(
                f"{phase.name}: begins when all but {phase.early} CTAs have arrived, and {least.name} has "
                f"{least.units} units for {schedule.grid} CTAs"
            )


def tag(layer: Sequence[Flow], vector: str, phase: int, done: int, turn: int, times: int) -> int:
    """A vector's tag once it was written `times` more times than before `phase` of a layer, as the kernel counts.

    `done`: layers of this step before, `turn`: of all steps.
    """
    each = sum(flow.written().count(vector) for flow in layer)
    before = sum(flow.written().count(vector) for flow in layer[:phase])
    return ((done if vector == "x" else turn) * each + before + times) % 2


def _check_tags(schedule: Schedule) -> None:
    """Whoever reads a vector waits for what was written last, and nobody writes it while others may still read it."""
    *layer, head = schedule.flows
    tags: dict[str, int] = {}
    last_read: dict[str, int] = {}
    made_by_someone = {"x", *(vector for flow in layer for vector in flow.written())}
    now = itertools.count()
    layers = 3
    for step, done in itertools.product(range(3), range(layers + 1)):
        if done == 0:
            tags["x"] = 0  # as the embedding leaves it
        for phase, flow in enumerate(layer if done < layers else [head]):
            at, turn = next(now), step * layers + done
            for vector in filter(None, (flow.reads, flow.branch)):
                expected = tag(layer, vector, phase, done, turn, 0)
                if vector not in made_by_someone or expected != tags.get(vector, 0):
                    raise _wrong(f"phase {phase} of a layer waits for a {vector} that nobody writes")
                last_read[vector] = at
            for times, vector in enumerate(flow.written()):
                again = flow.written()[:times].count(vector)
                made = tag(layer, vector, phase, done, turn, 1 + again)
                if made == tags.get(vector, 0):
                    raise _wrong(f"phase {phase} of a layer writes {vector} as it was tagged before")
                if last_read.get(vector) == at:
                    raise _wrong(f"phase {phase} of a layer writes {vector}, which it reads")
                tags[vector] = made


def _check_cover(schedule: Schedule, phase: Phase) -> None:
    """Every unit of the phase is done once, wherever the phase before has ended."""
    for shift in (0, schedule.grid - 1):
        done: Counter[int] = Counter()
        for block in range(schedule.grid):
            share = Count(schedule.grid, schedule.warps, block, shift=shift).next(phase.units, phase.tiles)
            done.update(range(share.first, share.first + share.units * schedule.grid, schedule.grid))
        if done != Counter(range(phase.units)):
            raise _wrong(f"{phase.name}: its {phase.units} units are not each done once by {schedule.grid} CTAs")


def _check_splits(schedule: Schedule, blocks: int) -> None:
    splits = splits_of(schedule, blocks)
    if sum(splits) != blocks or min(splits) < 1 or len(splits) > schedule.splits:
        raise _wrong(f"attention: {blocks} blocks are cut into {splits}, {schedule.splits} splits at most")


def _check_order(schedule: Schedule, order: Order, name: str) -> None:
    """Tiles are taken in the order in which they come, and no warp is farther ahead of another than the ring allows."""
    total = order.units * order.tiles
    what = f"{name}: {order.units} units of {order.tiles} tiles in {order.warps} warps"
    if [order.index(*order.place(i)) for i in range(total)] != list(range(total)):
        raise _wrong(f"{what}: a tile is not taken where it was fetched")
    for warp in range(order.warps):
        before = -1  # a barrier comes before every phase: all earlier tiles have been taken
        for index in order.taken(warp):
            lead = index - before
            if lead <= 0:
                raise _wrong(
                    f"{what}: warp {warp} takes tile {index} after tile {before}, against the order of fetching"
                )
            if lead + schedule.in_flight > schedule.slots and not order.sweeps:
                raise _wrong(
                    f"{what}: warp {warp} waits for tile {index} when only tile {before} must have landed; with "
                    f"{schedule.in_flight} tiles in flight that takes {lead + schedule.in_flight} slots, the ring has "
                    f"{schedule.slots}"
                )
            before = index


def _check_ring(schedule: Schedule, block: int, position: int) -> None:
    """The ring of one CTA, through a layer of each kind and the head: nobody waits for each other in a circle."""
    queues = _queues(schedule, block, position)
    total = sum(len(tiles) for _, step in queues for queue in step for tiles in queue)
    fetched = 0
    taken = bytearray(total)
    for name, step in queues:
        while any(step):
            before = fetched
            while fetched < total and (fetched < schedule.slots or taken[fetched - schedule.slots]):
                fetched += 1
            moved = fetched > before
            for queue in step:
                while queue and queue[0][-1] < fetched:
                    for tile in queue.popleft():
                        taken[tile] = 1
                    moved = True
            if not moved:
                waiting = min(queue[0][-1] for queue in step if queue)
                raise _wrong(
                    f"{name}: CTA {block} waits for tile {waiting} of {total}, and the warp that fetches for a slot; "
                    f"{fetched} are fetched, the ring has {schedule.slots} slots (at position {position})"
                )


def _queues(schedule: Schedule, block: int, position: int) -> list[tuple[str, list[deque[tuple[int, ...]]]]]:
    """Between barriers, the numbers of the tiles that each warp takes, those together that it gives back together."""
    count = Count(schedule.grid, schedule.warps, block)
    found = []

    def step(name: str, order: Order, first: int, warp: int, pieces: int = 1) -> None:
        queues = [deque[tuple[int, ...]]() for _ in range(schedule.warps)]
        for w in range(schedule.warps):
            tiles = (first + i for i in order.taken(w))
            queues[(warp + w) % schedule.warps].extend(zip(*[tiles] * pieces, strict=True))
        found.append((name, queues))

    def product(phase: Phase) -> None:
        share = count.next(phase.units, phase.tiles)
        step(phase.name, Order(schedule.warps, phase.tiles, share.units, phase.may_sweep), share.tile, share.warp)

    for layer, window in itertools.product(schedule.layers, schedule.windows):
        splits = splits_of(schedule, seen(position, window))
        product(layer[0])
        for item in range(block, schedule.items * len(splits), schedule.grid):
            order = Order(schedule.warps, 2 * schedule.pieces, splits[item // schedule.items])
            step("attention", order, count.tile, 0, schedule.pieces)
            count.tile += order.units * order.tiles
        for phase in layer[1:]:
            product(phase)
    product(schedule.head)
    return found


def _wrong(text: str) -> ScheduleError:
    return ScheduleError(f"the step kernel would not work: {text}; report it, and compile with --exec graph")
