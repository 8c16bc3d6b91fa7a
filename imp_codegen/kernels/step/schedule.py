"""The step kernel's schedule, checked by counting before anything is compiled: every wait in it must end.

Mirrors who fetches and takes which tile in which order: TapeCount, TapeRounds and TapeSweeps of stage/tape.h,
AttentionShare of stage/attention_core.h, and the waits of stage/step.h and step_attend.h.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from imp_runtime.errors import ImpError
from imp_runtime.plan import BLOCK_TOKENS


class ScheduleError(ImpError):
    """The compiler's own numbers would let a CTA wait for ever or read what is not there."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A product of all CTAs: `units` of `tiles` tiles each, from a vector of `cols` values to one of `rows`.

    `may_sweep`: the first tiles of all of a CTA's units come before their second ones, if the ring is long enough for
    that. `early`: CTAs that may still be at work on the vector when others begin to poll it. `before`: tiles of a unit
    that are multiplied before the vector is known to be complete.
    """

    name: str
    units: int
    tiles: int
    cols: int
    rows: int
    may_sweep: bool = False
    early: int = 0
    before: int = 0


@dataclass(frozen=True, slots=True)
class Attending:
    """The attention of a layer, from a vector of `cols` values to one of `rows`.

    `window`: 0 for none. `items`: CTAs that one split of the keys has; `splits`: most of them; `warps`: of a CTA that
    attend; `pieces`: tiles that a block's keys are, and its values, which a warp gives back together.
    """

    cols: int
    rows: int
    window: int
    items: int
    splits: int
    warps: int
    pieces: int = 1
    name: str = "attention"


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


def flows(*, normed: bool, extra: bool = False) -> tuple[Flow, ...]:
    """Those of a layer's phases and of the head.

    `normed`: its branches have norms before they are added. `extra`: the token's own input makes a third one.
    """
    if not normed:
        return (
            Flow("x", "qkv"),
            Flow("qkv", "attention"),
            Flow("attention", "x", adds=True),
            Flow("x", "gated"),
            Flow("gated", "x", adds=True),
            *((Flow("x", "extra"), Flow("extra", "x", adds=True)) if extra else ()),
            Flow("x", ""),
        )
    middle = "middle" if extra else "x"
    return (
        Flow("x", "qkv", "branch", "sum"),
        Flow("qkv", "attention"),
        Flow("attention", "branch"),
        Flow("sum", "gated", "branch", middle),
        Flow("gated", "branch"),
        *((Flow("middle", "extra", "branch", "x"), Flow("extra", "branch")) if extra else ()),
        Flow("x", "", "branch"),
    )


Words = tuple[str, int]
"""A vector and its length, of which each has words of its own; 0 of the stream and its branches, which have one."""

_STREAM = ("x", "sum", "middle", "branch")

_Flowing = list[tuple[Phase | Attending, Flow]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The numbers of a step kernel: StepConfig's, and the phases of every layer, in order.

    `blocks`: of 16 positions, of the longest sequence; `flows`: of the phases and of the head.
    """

    grid: int
    warps: int
    slots: int
    in_flight: int
    lanes: int
    layers: tuple[tuple[Phase | Attending, ...], ...]
    head: Phase
    blocks: int
    flows: tuple[Flow, ...] = flows(normed=False)

    def products(self) -> tuple[Phase, ...]:
        """All different phases but attention, and the head."""
        each = (phase for layer in self.kinds() for phase in layer if isinstance(phase, Phase))
        return (*dict.fromkeys(each), self.head)

    def attention(self) -> tuple[Attending, ...]:
        """The different ones."""
        each = (phase for layer in self.kinds() for phase in layer if isinstance(phase, Attending))
        return tuple(dict.fromkeys(each))

    def kinds(self) -> tuple[tuple[Phase | Attending, ...], ...]:
        """The different layers."""
        return tuple(dict.fromkeys(self.layers))


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


def splits_of(attending: Attending, blocks: int) -> list[int]:
    """How many of the blocks in sight each split takes; those that take none are not there."""
    chunk = max(-(-blocks // attending.splits), attending.warps)
    return [min(blocks - begin, chunk) for begin in range(0, blocks, chunk)]


def check(schedule: Schedule) -> None:
    """Every wait of the kernel ends. ScheduleError names the phase, the CTA and the numbers."""
    if not 1 <= schedule.lanes <= schedule.in_flight <= schedule.slots:
        raise _wrong(f"{schedule.lanes} lanes fetch {schedule.in_flight} tiles at a time into {schedule.slots} slots")
    _check_vectors(schedule)
    _check_tags(schedule)
    orders: dict[Order, str] = {}
    for phase in schedule.products():
        _check_cover(schedule, phase)
        for units in {phase.units // schedule.grid, -(-phase.units // schedule.grid)}:
            for sweeps in {False, phase.may_sweep}:
                orders.setdefault(Order(schedule.warps, phase.tiles, units, sweeps), phase.name)
    contexts = _contexts(schedule)
    for attending in schedule.attention():
        for blocks in sorted({seen(position, attending.window) for position in contexts}):
            _check_splits(attending, blocks)
            for split in splits_of(attending, blocks):
                order = Order(attending.warps, 2 * attending.pieces, split)
                orders.setdefault(order, f"attention over {blocks} blocks")
    for order, name in orders.items():
        _check_order(schedule, order, name)
    for block in _blocks(schedule):
        for position in contexts:
            _check_ring(schedule, block, position)


def _contexts(schedule: Schedule) -> list[int]:
    """Positions: with few blocks, those at which a second split begins, and many; of a window, whole ones and parts."""
    each = schedule.attention()
    some = {n for a in each for n in (1, a.warps, a.warps + 1, 5 * a.warps * a.splits + 1)}
    ends = {min(n, schedule.blocks) * BLOCK_TOKENS - 1 for n in some}
    return sorted(ends | {end - BLOCK_TOKENS + 1 for end in ends if any(a.window for a in each)})


def _blocks(schedule: Schedule) -> list[int]:
    """The first CTA, the last one, and those with the fewest and the most tiles of all different layers."""
    tiles = []
    for block in range(schedule.grid):
        count = Count(schedule.grid, schedule.warps, block)
        for phase in schedule.products()[:-1]:
            count.next(phase.units, phase.tiles)
        tiles.append(count.tile)
    return sorted({0, schedule.grid - 1, tiles.index(min(tiles)), tiles.index(max(tiles))})


def _check_vectors(schedule: Schedule) -> None:
    """Each phase publishes all that the next one polls, and nobody can write it again before all have read it."""
    *flows_of_layer, last = schedule.flows
    for layer in schedule.kinds():
        made: dict[str, int] = {}
        steps = [*zip(layer, flows_of_layer, strict=True)] * 2  # a layer finds what one before has left
        for phase, flow in (*steps, (schedule.head, last)):
            for vector in filter(None, (flow.reads, flow.branch)):
                if made.get(vector, phase.cols) != phase.cols:
                    raise _wrong(f"{phase.name}: {made[vector]} values are published, {phase.cols} are waited for")
            made |= {flow.kept: phase.cols, flow.writes: phase.rows}
    for phase in schedule.products():
        if phase.before and not (phase.may_sweep and phase.before < phase.tiles):
            raise _wrong(
                f"{phase.name}: {phase.before} of a unit's {phase.tiles} tiles come before the vector is complete, "
                f"and its units go through them {'together' if phase.may_sweep else 'one after the other'}"
            )
    products = schedule.products()
    least = min(products[:-1], key=lambda phase: phase.units)
    for phase in products:
        # A CTA without a unit holds nobody up: others must wait until it, too, has read the vector.
        if phase.early < 0 or (phase.early > 0 and least.units < schedule.grid):
            raise _wrong(
                f"{phase.name}: begins when all but {phase.early} CTAs have arrived, and {least.name} has "
                f"{least.units} units for {schedule.grid} CTAs"
            )


def tag(flows_of_layer: Sequence[Flow], vector: str, phase: int, before: int, times: int) -> int:
    """A vector's tag once it was written `times` more times than before `phase` of a layer, as the kernel counts.

    `before`: layers that have written the same words: of this step if the embedding begins them anew, else of all.
    """
    each = sum(flow.written().count(vector) for flow in flows_of_layer)
    already = sum(flow.written().count(vector) for flow in flows_of_layer[:phase])
    return (before * each + already + times) % 2


def _written(flow: Flow, phase: Phase | Attending) -> tuple[Words, ...]:
    return tuple(_words(vector, phase.rows if vector == flow.writes else phase.cols) for vector in flow.written())


def _words(vector: str, length: int) -> Words:
    return vector, 0 if vector in _STREAM else length


def _check_tags(schedule: Schedule) -> None:
    """Whoever reads words waits for what was written last, and nobody writes them while others may still read them."""
    *flows_of_layer, last = schedule.flows
    layers: list[_Flowing] = [[*zip(layer, flows_of_layer, strict=True)] for layer in schedule.layers]
    ending: _Flowing = [(schedule.head, last)]
    writers = [Counter({words for phase, flow in layer for words in _written(flow, phase)}) for layer in layers]
    so_far = [*itertools.accumulate(writers, initial=Counter[Words]())]  # layers that have written some words
    x = _words("x", schedule.head.cols)
    tags: dict[Words, int] = {}
    last_read: dict[Words, int] = {}
    now = itertools.count()
    for step, (done, layer) in itertools.product(range(3), enumerate([*layers, ending])):
        if done == 0:
            tags[x] = 0  # as the embedding leaves it

        def expected(words: Words, phase: int, times: int, step: int = step, done: int = done) -> int:
            before = so_far[done][words] + (0 if words == x else step * so_far[-1][words])
            return tag(flows_of_layer, words[0], phase, before, times)

        for index, (phase, flow) in enumerate(layer):
            at = next(now)
            for words in (_words(vector, phase.cols) for vector in (flow.reads, flow.branch) if vector):
                if (words != x and not so_far[-1][words]) or expected(words, index, 0) != tags.get(words, 0):
                    raise _wrong(f"phase {index} of a layer waits for a {words[0]} that nobody writes")
                last_read[words] = at
            for times, words in enumerate(written := _written(flow, phase)):
                made = expected(words, index, 1 + written[:times].count(words))
                if made == tags.get(words, 0):
                    raise _wrong(f"phase {index} of a layer writes {words[0]} as it was tagged before")
                if last_read.get(words) == at:
                    raise _wrong(f"phase {index} of a layer writes {words[0]}, which it reads")
                tags[words] = made


def _check_cover(schedule: Schedule, phase: Phase) -> None:
    """Every unit of the phase is done once, wherever the phase before has ended."""
    for shift in (0, schedule.grid - 1):
        done: Counter[int] = Counter()
        for block in range(schedule.grid):
            share = Count(schedule.grid, schedule.warps, block, shift=shift).next(phase.units, phase.tiles)
            done.update(range(share.first, share.first + share.units * schedule.grid, schedule.grid))
        if done != Counter(range(phase.units)):
            raise _wrong(f"{phase.name}: its {phase.units} units are not each done once by {schedule.grid} CTAs")


def _check_splits(attending: Attending, blocks: int) -> None:
    splits = splits_of(attending, blocks)
    if sum(splits) != blocks or min(splits) < 1 or len(splits) > attending.splits:
        raise _wrong(f"attention: {blocks} blocks are cut into {splits}, {attending.splits} splits at most")


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

    def step(name: str, order: Order, first: int, warp: int, pieces: int = 1, early: int = 0) -> None:
        """`early`: tiles that are taken before a barrier within the phase."""
        for part in (range(early), range(early, order.units * order.tiles)):
            queues = [deque[tuple[int, ...]]() for _ in range(schedule.warps)]
            for w in range(order.warps):
                tiles = (first + i for i in order.taken(w) if i in part)
                queues[(warp + w) % schedule.warps].extend(zip(*[tiles] * pieces, strict=True))
            found.append((name, queues))

    def product(phase: Phase) -> None:
        share = count.next(phase.units, phase.tiles)
        order = Order(schedule.warps, phase.tiles, share.units, phase.may_sweep)
        step(phase.name, order, share.tile, share.warp, early=phase.before * share.units)

    def attention(phase: Attending) -> None:
        splits = splits_of(phase, seen(position, phase.window))
        for item in range(block, phase.items * len(splits), schedule.grid):
            order = Order(phase.warps, 2 * phase.pieces, splits[item // phase.items])
            step(phase.name, order, count.tile, 0, phase.pieces)
            count.tile += order.units * order.tiles

    for phase in itertools.chain.from_iterable(schedule.kinds()):
        if isinstance(phase, Attending):
            attention(phase)
        else:
            product(phase)
    product(schedule.head)
    return found


def _wrong(text: str) -> ScheduleError:
    return ScheduleError(f"the step kernel would not work: {text}; report it, and compile with --exec graph")
