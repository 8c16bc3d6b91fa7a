"""Decides what runs next: first come, first served into slots; rows of prompts and rounds of steps take turns."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence as Sequences
from dataclasses import dataclass
from itertools import chain, takewhile, zip_longest

from imp_runtime.block_manager import BlockManager
from imp_runtime.chunk_times import ChunkTimes
from imp_runtime.paging import Paging, blocks_for
from imp_runtime.plan import BLOCK_TOKENS, LAST_TOKEN, NO_LEDGER, TOP_ENTRIES
from imp_runtime.sequence import Finish, Sequence, Status

MOST_TOKENS = TOP_ENTRIES // 2  # that one batch chooses: the next is launched before they are read
CHUNK_US = 17_000  # of rows of prompts that answers wait for, who are to wait for 25 ms at most; with 20 p99 was 27
# Of prompts while others wait for their first token: 2,048 gain 4 % and would keep them four times as long.
SHARED_ROWS = 512


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of one sequence: `tokens` from position `start` on, LAST_TOKEN for what it has chosen last.

    `samples`: a token is chosen after them. `slot` and `ledger` are the sequence's when this was decided; it may lose
    them while the work is being launched. `moved`: the device has yet to be told of the sequence. `table`: what it has
    not been told of the block table, from `place` on the blocks of all groups at each place, 0 for none.
    """

    sequence: Sequence
    slot: int
    ledger: int
    start: int
    tokens: tuple[int, ...]
    samples: bool
    moved: bool = False
    place: int = 0
    table: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """What one program runs: rows of these sequences. `rows`: of the program, 1 or the most.

    `together`: the tokens that are chosen after them are chosen in the same launches. No sequence after which one is
    chosen comes behind one after which none is. `predicted_us`: of rows of prompts, as many as CHUNK_US was thought to
    be enough for, whose time `took` wants to know; else 0.
    """

    rows: int
    sequences: tuple[Run, ...]
    together: bool = False
    predicted_us: float = 0.0


class Scheduler:
    """Queues of sequences over `slots` slots, `ledgers` ledgers and the blocks of `manager`; `rows` rows at a time.

    A sequence gives back the blocks that no window of its rows to come sees. Under their names they may be found by
    others, as long as nobody needs the memory; without `share_answers` only those that rows of prompts have filled,
    which are the same to the bit whoever computes them.

    With rows of prompts, or behind them, comes one step of every sequence that can take one, so neither starves the
    other. Of `together`, (rows, least sequences) each, ascending, a program is taken that runs steps of several at
    once; without any, each sequence takes its steps alone. While there are answers, as many rows of prompts are taken
    as CHUNK_US is enough for by `times`; all, where these are not known; and while several prompts wait, no more than
    SHARED_ROWS.
    When blocks run out, the youngest sequence loses its own and is computed again later.
    Because the device works strictly in order, a block counts as computed as soon as its work has been chosen: whoever
    shares it is launched later.
    All methods but `finish` belong to the thread that runs the engine.
    """

    def __init__(
        self,
        slots: int,
        ledgers: int,
        rows: int,
        manager: BlockManager,
        paging: Paging | None = None,
        *,
        together: Sequences[tuple[int, int]] = (),
        times: ChunkTimes | None = None,
        share_answers: bool = True,
    ) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._held = False  # nobody is admitted
        self._rows = rows
        self._together = together
        self._times = times
        self._share_answers = share_answers
        self._ends = min(MOST_TOKENS, together[-1][0]) if together else MOST_TOKENS  # of a batch
        self._manager = manager
        self._paging = paging or Paging()
        self._groups = range(len(self._paging.windows))
        self._free_slots = list(range(slots - 1, -1, -1))
        self._free_ledgers = list(range(ledgers - 1, -1, -1))
        self._clock = 0
        self._round = 0
        self._lock = threading.RLock()

    @property
    def has_work(self) -> bool:
        """Whether any sequence is unfinished."""
        return bool(self.waiting or self.running)

    @property
    def free(self) -> tuple[int, int]:
        """Slots and blocks that nobody has."""
        with self._lock:
            return len(self._free_slots), self._manager.free_blocks

    @property
    def owes_steps(self) -> bool:
        """Whether an answer has had no step since rows of prompts, or what counts as such, ran last."""
        with self._lock:
            return any(s.answering and s.served < self._round for s in self.running)

    def begin_round(self) -> None:
        """Every answer is owed a step from now on."""
        with self._lock:
            self._clock += 1
            self._round = self._clock

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence; it gets its slot at once if that can be."""
        with self._lock:
            self.waiting.append(sequence)
            self._admit()

    def finish(self, sequence: Sequence, reason: Finish) -> None:
        """End a sequence, unless it has ended; from any thread.

        Its slot and blocks are free at once, because the device works strictly in order.
        """
        with self._lock:
            if sequence.status is Status.FINISHED:
                return
            if sequence.status is Status.RUNNING:
                self._release(sequence)
            else:
                self.waiting.remove(sequence)
            sequence.status = Status.FINISHED
            sequence.finish = reason

    def inject(self, sequence: Sequence, tokens: list[int]) -> None:
        """Append tokens to an unfinished sequence as if they had been generated; what was on its way is void.

        What the cache holds of the known tokens stays; the new ones get there by prefill, which then samples.
        """
        with self._lock:
            known = sequence.known
            sequence.generated += tokens
            sequence.launched = len(sequence.generated)
            sequence.injections += 1
            if sequence.status is not Status.RUNNING:
                return
            sequence.cached = min(sequence.cached, known)
            sequence.prefill_end = sequence.known
            sequence.moved = True
            if not self._take(sequence, sequence.known + 1):
                self._preempt(sequence)

    def borrow(self, tokens: int) -> tuple[int, list[int]] | None:
        """A slot and blocks for `tokens` tokens outside the queues, or None when there are none to spare."""
        with self._lock:
            need = self._paging.blocks(blocks_for(tokens))
            if not self._free_slots or need > self._manager.free_blocks:
                return None
            self._held = False
            return self._free_slots.pop(), self._manager.allocate(need)

    def hold(self, on: bool) -> bool:
        """Admit nobody until somebody has borrowed; not `on`: go on. Whether it holds: only if something runs."""
        with self._lock:
            self._held = on and bool(self.running)
            return self._held

    def give_back(self, slot: int, blocks: list[int]) -> None:
        """Return what `borrow` gave."""
        with self._lock:
            self._free_slots.append(slot)
            self._manager.free(blocks)

    def took(self, batch: Batch, us: float) -> None:
        """What a batch with a prediction took on the device."""
        if self._times is not None:
            self._times.took(batch.predicted_us, us)

    def next(self) -> Batch | None:
        """The next piece of work, counted as launched; None when tokens on their way must be read first."""
        with self._lock:
            return self._next()

    def _next(self) -> Batch | None:
        while True:
            self._admit()
            prefilling = [s for s in self.running if s.prefilling]
            decodable = [s for s in self.running if s.decodable]
            if prefilling and not self.owes_steps:
                if batch := self._chunk(prefilling, sorted(decodable, key=lambda s: s.served)):
                    return batch
            elif decodable:
                if batch := self._steps(sorted(decodable, key=lambda s: s.served)):
                    return batch
            else:
                return None
            if any(s.unread for s in self.running):
                # A token on its way may end its sequence and free blocks; and only a sequence whose tokens are all
                # known can be computed again.
                return None
            self._preempt(max(self.running, key=lambda s: s.id))

    def _steps(self, decodable: list[Sequence]) -> Batch | None:
        """A step of those among `decodable` that have waited longest, together if that is worth it; None: no block."""
        together = [s for s in decodable if s.served < self._round] or decodable
        rows = next((rows for rows, worth in self._together if worth <= len(together) <= rows), 0)
        if not rows and self._together and len(together) > self._together[-1][0]:
            rows = self._together[-1][0]
        runs = self._steps_of(together[: rows or 1])
        return Batch(rows or 1, runs, together=rows > 0) if runs else None

    def _steps_of(self, sequences: list[Sequence]) -> tuple[Run, ...]:
        """A step of each, up to the first that finds no block."""
        found = takewhile(lambda s: self._take(s, s.cached + 1), sequences)
        return tuple(self._step(sequence) for sequence in found)

    def _chunk(self, prefilling: list[Sequence], decodable: list[Sequence]) -> Batch | None:
        """Rows of prompts, and if steps go together those of `decodable` with them; None: no blocks."""
        self.begin_round()
        riding = decodable[: min(self._ends - 1, self._rows // 2)] if self._together else []
        position = max(s.cached for s in prefilling)
        answering = any(s.answering for s in self.running)
        times = self._times if answering else None
        rows = self._rows
        if times:
            rows = times.rows_in(CHUNK_US, position)
        elif not answering and (len(prefilling) > 1 or self.waiting):
            rows = min(rows, SHARED_ROWS)
        left = max(rows - len(riding), rows // 2)
        prompts = self._prompts(prefilling, left, self._ends - len(riding))
        if not prompts:
            return None
        runs = self._steps_of(riding) + prompts
        taken = sum(len(run.tokens) for run in runs)
        predicted = times.predicted_us(taken, position) if times and taken >= rows else 0.0
        return Batch(self._rows, runs, together=bool(self._together), predicted_us=predicted)

    def _admit(self) -> None:
        while self._free_slots and not self._held and (sequence := self._first()) is not None:
            end, found = self._find(sequence)
            tokens, position = sequence.known + 1, end * BLOCK_TOKENS
            need = sum(self._paging.end(group, position, tokens) - end for group in self._groups)
            free = self._manager.free_blocks - self._manager.idle(list(chain.from_iterable(found)))
            # Leave every running sequence one more place, or the newcomer would soon be preempted again.
            if need + len(self._groups) * len(self.running) > free and (self.running or need > free):
                return
            self.waiting.remove(sequence)
            sequence.status = Status.RUNNING
            sequence.prefill_end = sequence.known
            sequence.slot = self._free_slots.pop()
            if sequence.wants_ledger:
                sequence.ledger = self._free_ledgers.pop()
            sequence.moved = True
            sequence.blocks = [[] for _ in self._groups]
            sequence.begins = [0 for _ in self._groups]
            self._share(sequence, end, found)
            self._take(sequence, tokens)
            if not sequence.served:
                sequence.prompt_cached = min(sequence.cached, len(sequence.prompt))
            self.running.append(sequence)

    def _first(self) -> Sequence | None:
        """Whose turn it is to be admitted; who waits for a ledger is overtaken by those that want none."""
        return next((s for s in self.waiting if self._free_ledgers or not s.wants_ledger), None)

    def _find(self, sequence: Sequence) -> tuple[int, list[list[int]]]:
        """The place behind which a sequence can go on, and of each group the cached blocks before it that it needs.

        They hold the next known tokens; the last of these is always left to run.
        """
        first = end = sequence.cached // BLOCK_TOKENS
        begins = sequence.begins or [0 for _ in self._groups]  # from here on a group has all
        cached: list[list[int]] = [[] for _ in self._groups]  # from `first` on, 0 where there is none
        complete = True  # so far no block is missing
        for place, name in enumerate(sequence.block_names(first, (sequence.known - 1) // BLOCK_TOKENS), first):
            for group, blocks in enumerate(cached):
                blocks.append(self._manager.find(_of_group(name, group)) or 0)
                if not blocks[-1]:
                    complete = False
                    begins = [*begins[:group], place + 1, *begins[group + 1 :]]
            if complete:
                end = place + 1
                continue
            if any(begin > 0 and not window for begin, window in zip(begins, self._paging.windows, strict=True)):
                break
            if all(begins[group] <= self._paging.first(group, (place + 1) * BLOCK_TOKENS) for group in self._groups):
                end = place + 1
        seen = (max(self._paging.first(group, end * BLOCK_TOKENS) - first, 0) for group in self._groups)
        return end, [blocks[begin : end - first] for begin, blocks in zip(seen, cached, strict=True)]

    def _share(self, sequence: Sequence, end: int, found: list[list[int]]) -> None:
        """Let a sequence go on behind place `end`, with blocks that were found for it in place of its own."""
        first = sequence.cached // BLOCK_TOKENS
        if end == first:
            return
        for blocks, mine in zip(found, sequence.blocks, strict=True):
            self._manager.share(blocks)
            own = [block for block in mine[first:end] if block]
            mine[first:end] = [0] * (end - first - len(blocks)) + blocks
            self._manager.free(own)
        sequence.cached = end * BLOCK_TOKENS
        if sequence.named >= first:
            sequence.named = max(sequence.named, end)
        sequence.moved = True

    def _take(self, sequence: Sequence, tokens: int) -> bool:
        """Let a sequence hold the blocks for its first `tokens` positions that its next rows see; whether it can."""
        position = min(sequence.cached, sequence.known)  # no row before it will be run again, whatever comes
        self._give_back(sequence, position)
        need = [
            max(self._paging.end(group, position, tokens) - len(blocks), 0)
            for group, blocks in enumerate(sequence.blocks)
        ]
        if sum(need) > self._manager.free_blocks:
            return False
        for blocks, count in zip(sequence.blocks, need, strict=True):
            blocks += self._manager.allocate(count)
        return True

    def _give_back(self, sequence: Sequence, position: int) -> None:
        """Give back what rows from `position` on do not see, the first positions first."""
        for group, blocks in enumerate(sequence.blocks):
            begin, end = sequence.begins[group], self._paging.first(group, position)
            if begin >= end:
                continue
            self._name_blocks(sequence, begin, end)
            given = [block for block in blocks[begin:end] if block]
            blocks[begin:end] = [0] * (end - begin)
            sequence.begins[group] = end
            self._manager.free(given[::-1])

    def _name_known(self, sequence: Sequence, position: int) -> None:
        """Name what is full before a position, and has no name so far."""
        self._name_blocks(sequence, sequence.named, position // BLOCK_TOKENS)
        sequence.named = max(sequence.named, position // BLOCK_TOKENS)

    def _name_blocks(self, sequence: Sequence, first: int, last: int) -> None:
        """The blocks at places `first` to `last`, full of known and launched tokens, may be shared from now on."""
        if not self._share_answers:
            last = min(last, len(sequence.prompt) // BLOCK_TOKENS)
        for place, name in enumerate(sequence.block_names(first, last), first):
            for group, blocks in enumerate(sequence.blocks):
                if blocks[place]:
                    self._manager.name(blocks[place], _of_group(name, group))

    def _prompts(self, prefilling: list[Sequence], left: int, most: int) -> tuple[Run, ...]:
        """`left` rows, of one prompt after the other, `most` at most: first the one that has waited longest.

        Without those that find no blocks.
        """
        runs: list[Run] = []
        for sequence in sorted(prefilling, key=lambda s: s.served):
            if left and len(runs) < most and (run := self._prompt(sequence, left)):
                runs.append(run)
                left -= len(run.tokens)
        return tuple(runs)

    def _prompt(self, sequence: Sequence, most: int) -> Run | None:
        # Somebody with the same prompt may have come further meanwhile, were it in the same batch: the cache has a
        # layer's rows before any of them is attended to. Of several, each computes a part.
        self._share(sequence, *self._find(sequence))
        if not self._take(sequence, sequence.known + 1):
            return None
        start = sequence.cached
        end = min(start + most, sequence.prefill_end)
        samples = end == sequence.prefill_end
        sequence.cached = end
        sequence.served = self._clock
        tokens = sequence.tokens(start, end)
        sequence.launched += samples
        self._name_known(sequence, end)
        return self._run(sequence, start, tokens, samples)

    def _step(self, sequence: Sequence) -> Run:
        start = sequence.cached
        self._clock += 1
        sequence.cached += 1
        sequence.launched += 1
        sequence.served = self._clock
        return self._run(sequence, start, (LAST_TOKEN,), samples=True)

    def _run(self, sequence: Sequence, start: int, tokens: tuple[int, ...], samples: bool) -> Run:
        """The rows of a sequence that holds the blocks for them, with what the device has not been told of these."""
        lengths = [len(blocks) for blocks in sequence.blocks]
        assert start + len(tokens) <= min(lengths) * BLOCK_TOKENS
        first, last = (0, max(lengths)) if sequence.moved else (sequence.told, min(lengths))
        places = zip_longest(*(blocks[first:last] for blocks in sequence.blocks), fillvalue=0)
        table = tuple(chain.from_iterable(places))
        run = Run(
            sequence,
            sequence.slot,
            sequence.ledger,
            start,
            tokens,
            samples,
            sequence.moved,
            first if table else 0,
            table,
        )
        sequence.told = min(lengths)
        sequence.moved = False
        return run

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        sequence.status = Status.WAITING
        self.waiting.appendleft(sequence)

    def _release(self, sequence: Sequence) -> None:
        # Beyond the known tokens lies what was launched for tokens that nobody will read.
        self._name_known(sequence, min(sequence.cached, sequence.known))
        self.running.remove(sequence)
        self._free_slots.append(sequence.slot)
        if sequence.ledger != NO_LEDGER:
            self._free_ledgers.append(sequence.ledger)
        places = zip_longest(*sequence.blocks, fillvalue=0)
        self._manager.free([block for block in chain.from_iterable(places) if block])
        sequence.blocks, sequence.begins, sequence.named = [], [], 0
        sequence.slot = -1
        sequence.ledger = NO_LEDGER
        sequence.cached = 0
        sequence.launched = len(sequence.generated)


def _of_group(name: bytes, group: int) -> bytes:
    """The name of a group's block at the place called `name`."""
    return name + bytes((group,))
