"""Puts chosen work on the device: uploads what a program has to know of a sequence, then enqueues it."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Tokens
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imp_runtime.constraint import pack_bits
from imp_runtime.device import Mark
from imp_runtime.model_runner import ModelRunner
from imp_runtime.plan import LAST_TOKEN, MIROSTAT, SIEVE, STEP_SAMPLED, STEP_SIEVE, WEIGHED_TOP_K
from imp_runtime.sampling import SamplingParams
from imp_runtime.scheduler import Batch, Run
from imp_runtime.sequence import Sequence

Words = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Launched:
    """A launched token: entry `index` of the ring's history will hold it. `slot` and `ledger` are those at launch.

    `injections` is the sequence's count at launch. Once `exported` has passed, what the host wants of the logits is in
    its memory. `mask` is what may be chosen, uint32 [ceil(vocab / 32)], or None for anything.
    """

    sequence: Sequence
    slot: int
    ledger: int
    index: int
    injections: int
    exported: Mark | None = None
    mask: Words | None = None


class Launcher:
    """Launches batches on `runner`; never waits. `chosen` counts the tokens whose choice has been launched."""

    def __init__(self, runner: ModelRunner) -> None:
        self.chosen = 0
        self._runner = runner
        self._plan = runner.plan
        self._slot = -1  # whose step the device would run next without being told
        self._anything = pack_bits(np.ones(self._plan.vocab, np.bool_))
        self._stops: dict[tuple[int, ...], Words] = {}

    def launch(self, batch: Batch) -> Iterator[Launched]:
        """Run a batch; its tokens in order, whose choices have then been launched."""
        for run in batch.sequences:
            if run.moved:
                self._write_sequence(run)
            elif run.table:
                self._runner.write_table(run.slot, run.place, run.table)
        if batch.rows == 1:
            (run,) = batch.sequences
            yield self._alone(run, self._step(run))
            return
        steps = all(run.tokens == (LAST_TOKEN,) for run in batch.sequences)
        program = "batch" if steps and batch.together else "forward"
        self.forward([(run.slot, run.tokens, run.samples) for run in batch.sequences], program)
        if batch.together:
            yield from self._ends(batch, logits=program == "batch")
            return
        row = -1
        for run in batch.sequences:
            row += len(run.tokens)
            if run.samples:
                self._runner.write_end(row, run.slot)
                self._runner.run("head_r1")
                yield self._alone(run, self._choose(run))

    def _ends(self, batch: Batch, *, logits: bool) -> Iterator[Launched]:
        """Of the rows that have been run, the choice of all tokens together; `logits`: they are there."""
        runs = [run for run in batch.sequences if run.samples]
        # An end is found by its sequence's place, and there are as many as the program has rows.
        assert all(run.samples for run in batch.sequences[: len(runs)])
        if not runs:
            return
        if not logits:
            self._run_several("head", runs)
        # The device is at work meanwhile.
        masks = [self._mask(run) for run in runs]
        for run, mask in zip(runs, masks, strict=True):
            self._apply(run, mask)
        self._run_several("sample", runs)  # which makes scores for all
        if any(self._sieves(run.sequence) for run in runs):
            self._run_several("sieve", runs)
        exported = None
        for program, wanted in (
            ("export", any(run.sequence.exports for run in runs)),
            ("top", any(run.sequence.lists for run in runs)),
        ):
            if wanted:
                self._run_several(program, runs)
                exported = self._runner.device.mark()
        for run, mask in zip(runs, masks, strict=True):
            yield self._launched(run, mask, exported if run.sequence.exports or run.sequence.lists else None)

    def _run_several(self, kind: str, runs: list[Run]) -> None:
        self._runner.run(self._runner.program_for(kind, len(runs)).name)

    def _alone(self, run: Run, mask: Words | None) -> Launched:
        """The token whose choice has just been launched, and what its sequence wants to see of the logits."""
        exported = None
        if run.sequence.exports or run.sequence.lists:
            self._runner.run("export_r1" if run.sequence.exports else "top_r1")
            exported = self._runner.device.mark()
        return self._launched(run, mask, exported)

    def _launched(self, run: Run, mask: Words | None, exported: Mark | None) -> Launched:
        self.chosen += 1
        sequence = run.sequence
        return Launched(sequence, run.slot, run.ledger, self.chosen - 1, sequence.injections, exported, mask)

    def forward(self, sequences: Tokens[tuple[int, Tokens[int], bool]], program: str = "forward") -> None:
        """Run rows: of each sequence its slot, tokens from where it stands, and whether one is chosen after them."""
        self._slot = -1
        self._runner.write_rows(sequences, self.chosen)
        self._runner.run(self._runner.program_for(program, sum(len(tokens) for _, tokens, _ in sequences)).name)

    def _step(self, run: Run) -> Words | None:
        """One row, and the choice of a token from what the returned mask allows."""
        sequence = run.sequence
        if self._slot != run.slot:
            self._slot = run.slot
            self._runner.write_step(run.slot)
        if sequence.constraint is not None:
            self._runner.run("forward_r1")
            return self._choose(run)
        mask = self._mask(run)
        self._apply(run, mask)
        self._runner.run(self._step_program(sequence))
        return mask

    def _choose(self, run: Run) -> Words | None:
        """The choice of a token from the logits that are being made, from what the returned mask allows."""
        # The device is at work meanwhile.
        mask = self._mask(run)
        self._apply(run, mask)
        self._runner.run(SIEVE if self._sieves(run.sequence) else "sample_r1")
        return mask

    def _write_sequence(self, run: Run) -> None:
        """Tell the device of a sequence whose next token to run is the one at `run.start`."""
        sequence = run.sequence
        sequence.masked = False
        # The kernel's choice does not matter where the host makes its own.
        params = SamplingParams() if sequence.sampler else sequence.params
        record = params.record(sequence.seed, run.ledger)
        record["flags"] = sequence.flags
        self._runner.write_slot(run.slot, run.start, run.table, record)
        # What nothing reads may stay as an earlier sequence left it.
        if params.penalises:
            self._runner.write_seen(run.ledger, sequence.seen(self._plan.vocab))
        if params.logit_bias:
            self._runner.write_bias(run.ledger, params.bias(self._plan.vocab))
        if params.remembers:
            tokens = np.array(sequence.tokens(0, sequence.known), np.int32)
            self._runner.write_history(run.ledger, tokens, params.breakers())
        if params.flags & MIROSTAT:
            self._runner.write_surprise_limit(run.slot, sequence.surprise_limit)

    def _mask(self, run: Run) -> Words | None:
        """What the token after these rows may be: uint32 [ceil(vocab / 32)], or None for anything."""
        sequence, constraint = run.sequence, run.sequence.constraint
        # By the rows: the sequence may have been aborted meanwhile, and then counts nothing as launched.
        early = run.start + len(run.tokens) - len(sequence.prompt) < sequence.params.min_tokens
        if constraint is None and not early:
            return None
        mask = constraint.mask() if constraint is not None else None
        done = constraint is not None and constraint.done()
        if mask is None and not early and not done:
            return None
        stops = self._stop_words(sequence.params.stop_tokens)
        allowed = self._anything if mask is None else mask & self._anything
        if done or not allowed.any():
            return stops
        if early and (others := allowed & ~stops).any():
            return others
        return allowed

    def _stop_words(self, more: tuple[int, ...]) -> Words:
        """The mask that leaves the model's stop tokens and `more`: uint32 [ceil(vocab / 32)], not to be written."""
        if more not in self._stops:
            stops = np.zeros(self._plan.vocab, np.bool_)
            stops[[*self._plan.stop_tokens, *more]] = True
            self._stops = {more: pack_bits(stops)}
        return self._stops[more]

    @staticmethod
    def _sieves(sequence: Sequence) -> bool:
        return sequence.sampler is None and sequence.params.sieves

    def _step_program(self, sequence: Sequence) -> str:
        """The cheapest program that chooses the sequence's next token as it asks."""
        params = sequence.params
        adjusts = params.adjusts or sequence.masked
        if sequence.sampler is not None or (params.temperature == 0 and not adjusts):
            return "step_r1"
        if params.sieves:
            return STEP_SIEVE
        weighs = params.top_k > WEIGHED_TOP_K or (params.top_k == 0 and params.top_p < 1)
        return STEP_SAMPLED[adjusts, weighs and params.temperature > 0]

    def _apply(self, run: Run, mask: Words | None) -> None:
        """Have the kernel obey `mask`, unless the host chooses."""
        sequence = run.sequence
        if sequence.sampler is not None:
            return
        if mask is not None and (sequence.constraint is not None or not sequence.masked):
            self._runner.write_mask(run.ledger, mask)
        if sequence.masked != (mask is not None):
            sequence.masked = mask is not None
            self._runner.write_flags(run.slot, sequence.flags)
