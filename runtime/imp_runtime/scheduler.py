"""Decides what runs next: first come, first served into slots; rows of prompts and rounds of steps take turns."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from imp_runtime.block_manager import BlockManager
from imp_runtime.plan import BLOCK_TOKENS, LAST_TOKEN, NO_LEDGER
from imp_runtime.sequence import Finish, Sequence, Status, blocks_for


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of one sequence: `tokens` from position `start` on, LAST_TOKEN for what it has chosen last.

    `samples`: a token is chosen after them. `slot` and `ledger` are the sequence's when this was decided; it may lose
    them while the work is being launched. `table`: its blocks, where the device has yet to be told of the sequence,
    else empty. `new_block`: (place in the block table, block) just added, or None.
    """

    sequence: Sequence
    slot: int
    ledger: int
    start: int
    tokens: tuple[int, ...]
    samples: bool
    table: tuple[int, ...] = ()
    new_block: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What one program runs: rows of these sequences. `rows`: of the program, 1 or the most."""

    rows: int
    sequences: tuple[Run, ...]


class Scheduler:
    """Queues of sequences over `slots` slots, `ledgers` ledgers and the blocks of `manager`; `rows` rows at a time.

    Rows of prompts are followed by one step of every sequence that can take one, so neither starves the other.
    When blocks run out, the youngest sequence loses its own and is computed again later.
    Because the device works strictly in order, a block counts as computed as soon as its work has been chosen: whoever
    shares it is launched later.
    All methods but `finish` belong to the thread that runs the engine.
    """

    def __init__(self, slots: int, ledgers: int, rows: int, manager: BlockManager) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._rows = rows
        self._manager = manager
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
            need = blocks_for(sequence.known + 1) - len(sequence.blocks)
            if need > self._manager.free_blocks:
                self._preempt(sequence)
            elif need > 0:
                sequence.blocks += self._manager.allocate(need)

    def borrow(self, tokens: int) -> tuple[int, list[int]] | None:
        """A slot and blocks for `tokens` tokens outside the queues, or None when there are none to spare."""
        with self._lock:
            if not self._free_slots or blocks_for(tokens) > self._manager.free_blocks:
                return None
            return self._free_slots.pop(), self._manager.allocate(blocks_for(tokens))

    def give_back(self, slot: int, blocks: list[int]) -> None:
        """Return what `borrow` gave."""
        with self._lock:
            self._free_slots.append(slot)
            self._manager.free(blocks)

    def next(self) -> Batch | None:
        """The next piece of work, counted as launched; None when tokens on their way must be read first."""
        with self._lock:
            return self._next()

    def _next(self) -> Batch | None:
        while True:
            self._admit()
            prefilling = [s for s in self.running if s.prefilling]
            if prefilling and not self.owes_steps:
                return self._prompts(prefilling)
            decodable = [s for s in self.running if s.decodable]
            if not decodable:
                return None
            sequence = min(decodable, key=lambda s: s.served)
            index = blocks_for(sequence.cached + 1) - 1
            if index < len(sequence.blocks):
                return Batch(1, (self._step(sequence, None),))
            if self._manager.free_blocks:
                (block,) = self._manager.allocate(1)
                sequence.blocks.append(block)
                return Batch(1, (self._step(sequence, (index, block)),))
            if any(s.unread for s in self.running):
                # A token on its way may end its sequence and free blocks; and only a sequence whose tokens are all
                # known can be computed again.
                return None
            self._preempt(max(self.running, key=lambda s: s.id))

    def _admit(self) -> None:
        while self._free_slots and (sequence := self._first()) is not None:
            found = self._find(sequence)
            need = blocks_for(sequence.known + 1) - len(found)
            free = self._manager.free_blocks - self._manager.idle(found)
            # Leave every running sequence one more block, or the newcomer would soon be preempted again.
            if need + len(self.running) > free and (self.running or need > free):
                return
            self.waiting.remove(sequence)
            sequence.status = Status.RUNNING
            sequence.prefill_end = sequence.known
            sequence.slot = self._free_slots.pop()
            if sequence.wants_ledger:
                sequence.ledger = self._free_ledgers.pop()
            sequence.moved = True
            self._share(sequence, found)
            sequence.blocks += self._manager.allocate(need)
            if not sequence.served:
                sequence.prompt_cached = min(sequence.cached, len(sequence.prompt))
            self.running.append(sequence)

    def _first(self) -> Sequence | None:
        """Whose turn it is to be admitted; who waits for a ledger is overtaken by those that want none."""
        return next((s for s in self.waiting if self._free_ledgers or not s.wants_ledger), None)

    def _find(self, sequence: Sequence) -> list[int]:
        """Cached blocks that hold the next known tokens of a sequence; its last one is always left to run."""
        first = sequence.cached // BLOCK_TOKENS
        return self._manager.find(sequence.block_names(first, (sequence.known - 1) // BLOCK_TOKENS))

    def _share(self, sequence: Sequence, found: list[int]) -> None:
        """Let a sequence go on behind the blocks that were found for it, which replace its own at their places."""
        if not found:
            return
        self._manager.share(found)
        first = sequence.cached // BLOCK_TOKENS
        end = first + len(found)
        own, sequence.blocks[first:end] = sequence.blocks[first:end], found
        self._manager.free(own)
        sequence.cached = end * BLOCK_TOKENS
        sequence.moved = True

    def _name_blocks(self, sequence: Sequence, begin: int, end: int) -> None:
        """The full blocks among positions `begin` to `end`, all known and launched, may be shared from now on."""
        first, last = begin // BLOCK_TOKENS, end // BLOCK_TOKENS
        for block, name in zip(sequence.blocks[first:last], sequence.block_names(first, last), strict=True):
            self._manager.name(block, name)

    def _prompts(self, prefilling: list[Sequence]) -> Batch:
        """As many rows as there are, of one prompt after the other: first the one that has waited longest."""
        self.begin_round()
        runs: list[Run] = []
        left = self._rows
        for sequence in sorted(prefilling, key=lambda s: s.served):
            if left:
                runs.append(self._prompt(sequence, left))
                left -= len(runs[-1].tokens)
        return Batch(self._rows, tuple(runs))

    def _prompt(self, sequence: Sequence, most: int) -> Run:
        # Somebody with the same prompt may have come further meanwhile, were it in the same batch: the cache has a
        # layer's rows before any of them is attended to. Of several, each computes a part.
        self._share(sequence, self._find(sequence))
        start = sequence.cached
        end = min(start + most, sequence.prefill_end)
        samples = end == sequence.prefill_end
        sequence.cached = end
        sequence.served = self._clock
        tokens = sequence.tokens(start, end)
        sequence.launched += samples
        self._name_blocks(sequence, start, end)
        table = tuple(sequence.blocks) if sequence.moved else ()
        sequence.moved = False
        return Run(sequence, sequence.slot, sequence.ledger, start, tokens, samples, table)

    def _step(self, sequence: Sequence, new_block: tuple[int, int] | None) -> Run:
        start = sequence.cached
        assert start < len(sequence.blocks) * BLOCK_TOKENS
        self._clock += 1
        sequence.cached += 1
        sequence.launched += 1
        sequence.served = self._clock
        return Run(sequence, sequence.slot, sequence.ledger, start, (LAST_TOKEN,), samples=True, new_block=new_block)

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        sequence.status = Status.WAITING
        self.waiting.appendleft(sequence)

    def _release(self, sequence: Sequence) -> None:
        # Beyond the known tokens lies what was launched for tokens that nobody will read.
        self._name_blocks(sequence, 0, min(sequence.cached, sequence.known))
        self.running.remove(sequence)
        self._free_slots.append(sequence.slot)
        if sequence.ledger != NO_LEDGER:
            self._free_ledgers.append(sequence.ledger)
        self._manager.free(sequence.blocks)
        sequence.slot = -1
        sequence.ledger = NO_LEDGER
        sequence.cached = 0
        sequence.launched = len(sequence.generated)
