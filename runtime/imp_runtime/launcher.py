"""Puts chosen work on the device: uploads what a program has to know of a sequence, then enqueues it."""

from __future__ import annotations

from collections.abc import Sequence as Tokens

import numpy as np
import numpy.typing as npt

from imp_runtime.constraint import pack_bits, unpack_bits
from imp_runtime.model_runner import ModelRunner
from imp_runtime.plan import BIASED, MASKED
from imp_runtime.sampling import SamplingParams
from imp_runtime.scheduler import Decode, Prefill
from imp_runtime.sequence import Sequence


class Launcher:
    """Launches chunks of prompts and decode steps on `runner`; never waits."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._plan = runner.plan
        self._input_slot = -1

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
        self._runner.run("sample_b1")
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
            self._runner.run("decode_b1")
        else:
            self._runner.run("forward_b1")
            # The device is at work meanwhile.
            mask = self._mask(sequence)
            self._apply(work, mask)
            self._runner.run("choose_b1")
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

    def _mask(self, sequence: Sequence) -> npt.NDArray[np.uint32] | None:
        """What the token just counted as launched may be: uint32 [ceil(vocab / 32)], or None for anything."""
        early = sequence.launched <= sequence.params.min_tokens
        constraint = sequence.constraint
        if constraint is None and not early:
            return None
        vocab = self._plan.vocab
        stops = np.zeros(vocab, np.bool_)
        stops[[*self._plan.stop_tokens, *sequence.params.stop_tokens]] = True
        mask = constraint.mask() if constraint is not None else None
        if mask is None and not early and not (constraint is not None and constraint.done()):
            return None
        allowed = np.ones(vocab, np.bool_) if mask is None else unpack_bits(mask, vocab)
        if constraint is not None and (constraint.done() or not allowed.any()):
            return pack_bits(stops)
        if early and (allowed & ~stops).any():
            allowed &= ~stops
        return pack_bits(allowed)

    def _apply(self, work: Prefill | Decode, mask: npt.NDArray[np.uint32] | None) -> None:
        """Have the kernel obey `mask`, unless the host chooses."""
        sequence = work.sequence
        if sequence.sampler is not None:
            return
        if mask is not None and (sequence.constraint is not None or not sequence.masked):
            self._runner.write_mask(work.slot, mask)
        if sequence.masked != (mask is not None):
            sequence.masked = mask is not None
            flags = (MASKED if sequence.masked else 0) | (BIASED if sequence.params.logit_bias else 0)
            self._runner.write_flags(work.slot, flags)
