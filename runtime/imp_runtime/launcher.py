"""Puts chosen work on the device: uploads what a program has to know of a sequence, then enqueues it."""

from __future__ import annotations

from collections.abc import Sequence as Tokens

import numpy as np
import numpy.typing as npt

from imp_runtime.constraint import pack_bits
from imp_runtime.model_runner import ModelRunner
from imp_runtime.plan import DECODE_SAMPLED, MASKED, MIROSTAT, SIEVED, WEIGHED_TOP_K
from imp_runtime.sampling import SamplingParams
from imp_runtime.scheduler import Decode, Prefill
from imp_runtime.sequence import Sequence

DECODE_SIEVE, CHOOSE_SIEVE, SAMPLE_SIEVE = SIEVED


class Launcher:
    """Launches chunks of prompts and decode steps on `runner`; never waits."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._plan = runner.plan
        self._input_slot = -1
        self._anything = pack_bits(np.ones(self._plan.vocab, np.bool_))
        self._stops: dict[tuple[int, ...], npt.NDArray[np.uint32]] = {}

    def chunk(self, slot: int, tokens: Tokens[int]) -> None:
        """Run `tokens` from the position on where the sequence in `slot` stands."""
        self._input_slot = slot
        self._runner.write_step(slot, tokens)
        self._runner.run(self._runner.chunk_program("prefill", len(tokens)).name)

    def prefill(self, work: Prefill) -> npt.NDArray[np.uint32] | None:
        """Run a chunk; after the last one sample, from what the returned mask allows (see `_mask`)."""
        sequence = work.sequence
        if sequence.moved:
            self._write_sequence(work)
        self.chunk(work.slot, work.tokens)
        if not work.last:
            return None
        mask = self._mask(sequence)
        self._apply(work, mask)
        self._runner.run(SAMPLE_SIEVE if self._sieves(sequence) else "sample_b1")
        return mask

    def decode(self, work: Decode) -> npt.NDArray[np.uint32] | None:
        """Run one step and sample, from what the returned mask allows (see `_mask`)."""
        sequence = work.sequence
        if work.new_block is not None:
            place, block = work.new_block
            self._runner.write_table(work.slot, place, (block,))
        if self._input_slot != work.slot:
            self._input_slot = work.slot
            self._runner.write_step(work.slot, ())
        if sequence.constraint is None:
            mask = self._mask(sequence)
            self._apply(work, mask)
            self._runner.run(self._decode_program(sequence))
        else:
            self._runner.run("forward_b1")
            # The device is at work meanwhile.
            mask = self._mask(sequence)
            self._apply(work, mask)
            self._runner.run(CHOOSE_SIEVE if self._sieves(sequence) else "choose_b1")
        return mask

    def _write_sequence(self, work: Prefill) -> None:
        """Tell the device of a sequence whose next token to run is the one at `work.start`."""
        sequence = work.sequence
        sequence.moved = sequence.masked = False
        # The kernel's choice does not matter where the host makes its own.
        params = SamplingParams() if sequence.sampler else sequence.params
        # Without penalties nothing reads the counts, so what an earlier sequence left there may stay.
        seen = sequence.seen(self._plan.vocab) if params.penalises else None
        self._runner.write_slot(work.slot, work.start, work.blocks, params.record(sequence.seed), seen)
        if params.logit_bias:
            self._runner.write_bias(work.slot, params.bias(self._plan.vocab))
        if params.remembers:
            tokens = np.array(sequence.tokens(0, sequence.known), np.int32)
            self._runner.write_history(work.slot, tokens, params.breakers())
        if params.flags & MIROSTAT:
            self._runner.write_surprise_limit(work.slot, sequence.surprise_limit)

    def _mask(self, sequence: Sequence) -> npt.NDArray[np.uint32] | None:
        """What the token just counted as launched may be: uint32 [ceil(vocab / 32)], or None for anything."""
        early = sequence.launched <= sequence.params.min_tokens
        constraint = sequence.constraint
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

    def _stop_words(self, more: tuple[int, ...]) -> npt.NDArray[np.uint32]:
        """The mask that leaves the model's stop tokens and `more`: uint32 [ceil(vocab / 32)], not to be written."""
        if more not in self._stops:
            stops = np.zeros(self._plan.vocab, np.bool_)
            stops[[*self._plan.stop_tokens, *more]] = True
            self._stops = {more: pack_bits(stops)}
        return self._stops[more]

    @staticmethod
    def _sieves(sequence: Sequence) -> bool:
        return sequence.sampler is None and sequence.params.sieves

    def _decode_program(self, sequence: Sequence) -> str:
        """The cheapest program that chooses the sequence's next token as it asks."""
        params = sequence.params
        adjusts = bool(params.penalises or params.repeats or params.logit_bias or sequence.masked)
        if sequence.sampler is not None or (params.temperature == 0 and not adjusts):
            return "decode_b1"
        if params.sieves:
            return DECODE_SIEVE
        weighs = params.top_k > WEIGHED_TOP_K or (params.top_k == 0 and params.top_p < 1)
        return DECODE_SAMPLED[adjusts, weighs and params.temperature > 0]

    def _apply(self, work: Prefill | Decode, mask: npt.NDArray[np.uint32] | None) -> None:
        """Have the kernel obey `mask`, unless the host chooses."""
        sequence = work.sequence
        if sequence.sampler is not None:
            return
        if mask is not None and (sequence.constraint is not None or not sequence.masked):
            self._runner.write_mask(work.slot, mask)
        if sequence.masked != (mask is not None):
            sequence.masked = mask is not None
            self._runner.write_flags(work.slot, sequence.params.flags | (MASKED if sequence.masked else 0))
