"""Generates tokens: queues requests, launches ahead of what it has read, and reads tokens from the pinned ring."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import numpy.typing as npt

from imp_runtime.artifact import Artifact
from imp_runtime.block_manager import BlockManager
from imp_runtime.constraint import TokenMask, pack_bits, unpack_bits
from imp_runtime.device import Device, DeviceError, Mark, detect_target, open_device
from imp_runtime.errors import ImpError
from imp_runtime.host_sampler import HostSampler, logprobs
from imp_runtime.model_runner import ModelRunner, Progress
from imp_runtime.plan import BIASED, MASKED, RING, Plan, PlanError
from imp_runtime.sampling import SamplingParams
from imp_runtime.scheduler import Decode, Prefill, Scheduler
from imp_runtime.sequence import Sequence, Status

# One program runs while the next one waits behind it: enough to keep the device busy, and little to throw away when a
# sequence turns out to have ended.
IN_FLIGHT = 2
_SPINS = 50
_SLEEP_SECONDS = 50e-6


class RequestError(ImpError):
    """A prompt that this engine cannot take."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """A token of a sequence. `finish` says why it is the last one; a stop token is delivered with "stop".

    Where `top_logprobs` was asked for: `logprob` of the token and `top`, the best tokens with theirs, best first; of
    the model's own distribution, before bias, penalties, temperature and mask.
    """

    sequence: Sequence
    token: int
    finish: Literal["stop", "length"] | None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class _Token:
    """A launched token: entry `index` of the ring's history will hold it. `slot` is the sequence's at launch.

    `injections` is the sequence's count at launch. Once `exported` has passed, the logits are in host memory; for a
    sequence that samples on the host, `mask` is what may be chosen from them.
    """

    sequence: Sequence
    slot: int
    index: int
    injections: int
    exported: Mark | None = None
    mask: npt.NDArray[np.uint32] | None = None


class Engine:
    """One model on one device. One thread at a time may use it; only `abort` may be called from any."""

    def __init__(
        self, artifact: Artifact, device: Device, *, kv_tokens: int | None = None, progress: Progress | None = None
    ) -> None:
        self.artifact = artifact
        self.plan: Plan = artifact.plan
        self.target = device.target
        self.device_name = device.name
        self._device = device
        self.runner = ModelRunner(artifact, device, kv_tokens, progress)
        try:
            names = {program.name for program in self.runner.programs}
            if missing := {"decode_b1", "sample_b1", "forward_b1", "choose_b1", "export_b1"} - names:
                raise PlanError(
                    f"{artifact.path}: target {self.target} has no program {min(missing)}; compile it again"
                )
            chunk = self.plan.chunk_tokens
            self._chunk = min(chunk, self.runner.chunk_program("prefill", chunk).tokens)
        except ImpError:
            self.close()
            raise
        self._scheduler = Scheduler(self.plan.slots, self._chunk, BlockManager(self.runner.blocks))
        self._in_flight: deque[_Token | Mark] = deque()
        self._sampled = 0
        self._input_slot = -1
        self._next_id = 0

    @staticmethod
    def load(
        path: Path, *, target: str | None = None, kv_tokens: int | None = None, progress: Progress | None = None
    ) -> Engine:
        """Open an artifact on the device of `target`, by default on what this machine has. Raises ImpError."""
        artifact = Artifact.open(Path(path))
        wanted = target or detect_target()
        try:
            artifact.plan.target(wanted)
        except PlanError as error:
            advice = f"compile with --target {wanted}, or choose one of these with --target"
            raise PlanError(f"{path}: {error}; {advice}") from None
        return Engine(artifact, open_device(wanted), kv_tokens=kv_tokens, progress=progress)

    def close(self) -> None:
        """Give the device back."""
        self.runner.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def context(self) -> int:
        """The most tokens, prompt and generated together, that one sequence can have here."""
        return min(self.plan.context, self.runner.kv_tokens)

    @property
    def has_work(self) -> bool:
        """Whether any sequence is unfinished."""
        return self._scheduler.has_work

    def add(self, prompt: Tokens[int], params: SamplingParams, constraint: TokenMask | None = None) -> Sequence:
        """Queue a prompt; `constraint` says which tokens may follow it.

        Raises RequestError when the prompt is empty or too long, or for a token id outside the vocabulary.
        """
        self._check_tokens(prompt)
        for field, ids in (
            ("logit_bias", [token for token, _ in params.logit_bias]),
            ("stop_tokens", params.stop_tokens),
        ):
            for token in ids:
                if token >= self.plan.vocab:
                    last = self.plan.vocab - 1
                    raise RequestError(f"{field} names token {token}, expected a token id from 0 to {last}")
        if constraint is not None and not (self.plan.stop_tokens or params.stop_tokens):
            raise RequestError("a grammar needs a stop token, and this model has none; name one in stop_tokens")
        if len(prompt) + 1 > self.context:
            raise RequestError(
                f"prompt has {len(prompt)} tokens, the context holds {self.context} with the answer; shorten the prompt"
            )
        seed = params.seed if params.seed is not None else secrets.randbits(64)
        limit = min(params.max_tokens, self.context - len(prompt))
        sequence = Sequence(self._next_id, tuple(map(int, prompt)), params, seed, limit, constraint=constraint)
        if params.on_host:
            sequence.sampler = HostSampler(params, seed)
        self._next_id += 1
        self._scheduler.add(sequence)
        return sequence

    def _check_tokens(self, tokens: Tokens[int]) -> None:
        if not len(tokens):
            raise RequestError("prompt is empty; give at least one token")
        for i, token in enumerate(tokens):
            if not 0 <= token < self.plan.vocab:
                raise RequestError(f"prompt[{i}] is {token}, expected a token id from 0 to {self.plan.vocab - 1}")

    def abort(self, sequence: Sequence) -> None:
        """End a sequence: from now on nothing is launched for it, and its slot and blocks can be had by others.

        Does nothing to a finished one. From another thread than that of `step`, which may be at work, a step under way
        may still deliver a token of it.
        """
        self._scheduler.finish(sequence, "abort")

    def inject(self, sequence: Sequence, tokens: Tokens[int]) -> None:
        """Append `tokens` to an unfinished sequence as if it had generated them, and go on after them.

        They are not delivered by `step`; tokens not yet delivered are dropped. Does nothing to a finished sequence.
        Raises RequestError when they leave no room for another token, or for a token id outside the vocabulary.
        """
        self._check_tokens(tokens)
        if sequence.status is Status.FINISHED:
            return
        room = sequence.limit - len(sequence.generated) - 1
        if len(tokens) > room:
            raise RequestError(f"{len(tokens)} tokens to inject, room for {max(0, room)}; ask for more max_tokens")
        self._scheduler.inject(sequence, [int(token) for token in tokens])
        if sequence.constraint is not None:
            for token in tokens:
                sequence.constraint.accept(int(token))

    def step(self) -> list[StepOutput]:
        """Launch the next piece of work, then wait until at most one piece is unread; the tokens that arrived.

        At most one token of a sequence, so that a caller may inject what has to follow it.
        """
        work = self._scheduler.next()
        if isinstance(work, Prefill):
            self._launch_prefill(work)
        elif isinstance(work, Decode):
            self._launch_decode(work)
        outputs: list[StepOutput] = []
        if self._in_flight and (work is None or len(self._in_flight) >= IN_FLIGHT):
            self._receive(outputs)
        while self._in_flight and isinstance(head := self._in_flight[0], _Token) and self._poll(head.index) is not None:
            if any(output.sequence is head.sequence for output in outputs):
                break
            self._receive(outputs)
        return outputs

    def generate(self, prompt: Tokens[int], params: SamplingParams) -> Iterator[int]:
        """Tokens of one prompt as they come, without the stop token. Other sequences advance, their tokens unseen."""
        sequence = self.add(prompt, params)
        try:
            while sequence.status is not Status.FINISHED:
                for output in self.step():
                    if output.sequence is sequence and output.finish != "stop":
                        yield output.token
        finally:
            self.abort(sequence)

    def logits(self, tokens: Tokens[int]) -> npt.NDArray[np.float32]:
        """Logits at every position of `tokens`: float32 [n, vocab]. Needs a free slot and free KV blocks."""
        return self._every_position(tokens, "logits", self.plan.vocab)

    def hidden(self, tokens: Tokens[int]) -> npt.NDArray[np.float32]:
        """Hidden states after the final norm at every position: float32 [n, hidden]. Needs what `logits` needs."""
        return self._every_position(tokens, "hidden", self.plan.hidden)

    def _every_position(self, tokens: Tokens[int], program: str, width: int) -> npt.NDArray[np.float32]:
        """Prefill `tokens` in a borrowed slot; after each chunk what `<program>_t*` leaves in `<program>.all`."""
        self._check_tokens(tokens)
        if len(tokens) > self.context:
            raise RequestError(f"{len(tokens)} tokens do not fit the context of {self.context}")
        chunk = min(self._chunk, self.runner.chunk_program(program, self._chunk).tokens)
        borrowed = self._scheduler.borrow(len(tokens))
        if borrowed is None:
            raise RequestError(f"no free slot or KV blocks for {program}; finish or abort running sequences first")
        slot, blocks = borrowed
        result = np.empty((len(tokens), width), np.float32)
        try:
            self.runner.write_slot(slot, 0, blocks, SamplingParams().record(0), None)
            for start in range(0, len(tokens), chunk):
                part = [int(token) for token in tokens[start : start + chunk]]
                self._input_slot = slot
                self.runner.write_step(slot, part)
                self.runner.run(self.runner.chunk_program("prefill", len(part)).name)
                self.runner.run(self.runner.chunk_program(program, len(part)).name)
                result[start : start + len(part)] = self.runner.read(f"{program}.all", "f32", (len(part), width))
        finally:
            self._scheduler.give_back(slot, blocks)
        return result

    def _launch_prefill(self, work: Prefill) -> None:
        sequence = work.sequence
        if work.start == 0 or sequence.rewound:
            self._write_sequence(work)
        self._input_slot = work.slot
        self.runner.write_step(work.slot, work.tokens)
        self.runner.run(self.runner.chunk_program("prefill", len(work.tokens)).name)
        if work.last:
            mask = self._mask(sequence)
            self._apply(work, mask)
            self.runner.run("sample_b1")
            self._expect(work, mask)
        else:
            self._in_flight.append(self._device.mark())

    def _write_sequence(self, work: Prefill) -> None:
        """Tell the device of a sequence whose next token to run is the one at `work.start`."""
        sequence = work.sequence
        sequence.rewound = sequence.masked = False
        # The kernel's choice does not matter where the host makes its own.
        params = SamplingParams() if sequence.sampler else sequence.params
        # Without penalties nothing reads the counts, so what an earlier sequence left there may stay.
        seen = sequence.seen(self.plan.vocab) if params.penalises else None
        self.runner.write_slot(work.slot, work.start, work.blocks, params.record(sequence.seed), seen)
        if params.logit_bias:
            self.runner.write_bias(work.slot, params.bias(self.plan.vocab))

    def _launch_decode(self, work: Decode) -> None:
        sequence = work.sequence
        if work.new_block is not None:
            place, block = work.new_block
            self.runner.write_table(work.slot, place, (block,))
        if self._input_slot != work.slot:
            self._input_slot = work.slot
            self.runner.write_step(work.slot, ())
        if sequence.constraint is None:
            mask = self._mask(sequence)
            self._apply(work, mask)
            self.runner.run("decode_b1")
        else:
            self.runner.run("forward_b1")
            # The device is at work meanwhile.
            mask = self._mask(sequence)
            self._apply(work, mask)
            self.runner.run("choose_b1")
        self._expect(work, mask)

    def _mask(self, sequence: Sequence) -> npt.NDArray[np.uint32] | None:
        """What the token just counted as launched may be: uint32 [ceil(vocab / 32)], or None for anything."""
        early = sequence.launched <= sequence.params.min_tokens
        constraint = sequence.constraint
        if constraint is None and not early:
            return None
        vocab = self.plan.vocab
        stops = np.zeros(vocab, np.bool_)
        stops[[*self.plan.stop_tokens, *sequence.params.stop_tokens]] = True
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
            self.runner.write_mask(work.slot, mask)
        if sequence.masked != (mask is not None):
            sequence.masked = mask is not None
            flags = (MASKED if sequence.masked else 0) | (BIASED if sequence.params.logit_bias else 0)
            self.runner.write_flags(work.slot, flags)

    def _expect(self, work: Prefill | Decode, mask: npt.NDArray[np.uint32] | None) -> None:
        sequence, exported = work.sequence, None
        if sequence.sampler is not None or sequence.params.top_logprobs is not None:
            self.runner.run("export_b1")
            exported = self._device.mark()
        self._in_flight.append(_Token(sequence, work.slot, self._sampled, sequence.injections, exported, mask))
        self._sampled += 1

    def _receive(self, outputs: list[StepOutput]) -> None:
        """Wait for the oldest work in flight; append its token, unless its sequence has ended meanwhile."""
        head = self._in_flight[0]
        if not isinstance(head, _Token):
            self._device.wait(head)
            self._in_flight.popleft()
            return
        token = self._wait(head.index)
        if head.exported is not None:
            self._device.wait(head.exported)
        self._in_flight.popleft()
        sequence = head.sequence
        if sequence.status is Status.FINISHED or head.injections != sequence.injections:
            return
        logits = self.runner.logits[head.slot]
        if sequence.sampler is not None:
            allowed = None if head.mask is None else unpack_bits(head.mask, self.plan.vocab)
            token = sequence.sampler.choose(logits, allowed, sequence.prompt, sequence.generated)
            self.runner.write_token(head.slot, token)
        count = sequence.params.top_logprobs
        logprob, top = (None, ()) if count is None else logprobs(logits, token, count)
        sequence.generated.append(token)
        finish = self._finish(sequence, token)
        if finish:
            self._scheduler.finish(sequence, finish)
        elif sequence.constraint is not None:
            sequence.constraint.accept(token)
        outputs.append(StepOutput(sequence, token, finish, logprob, top))

    def _finish(self, sequence: Sequence, token: int) -> Literal["stop", "length"] | None:
        """Why `token`, the last one generated, ends the sequence, if it does."""
        params = sequence.params
        # A complete grammar leaves nothing but stop tokens to choose.
        obeyed = not params.ignore_eos or (sequence.constraint is not None and sequence.constraint.done())
        if token in params.stop_tokens or (obeyed and token in self.plan.stop_tokens):
            return "stop"
        return "length" if len(sequence.generated) >= sequence.limit else None

    def _poll(self, index: int) -> int | None:
        """Token `index` of all sampled since load, if it has arrived."""
        entry = int(self.runner.ring[index % RING])
        return entry & 0xFFFFFFFF if entry >> 32 == (index + 1) & 0xFFFFFFFF else None

    def _wait(self, index: int) -> int:
        """Token `index`: a short spin, then sleeps; the next program is queued already, so a late wake is free."""
        for _ in range(_SPINS):
            if (token := self._poll(index)) is not None:
                break
        else:
            while (token := self._poll(index)) is None:
                if not self._device.busy() and self._poll(index) is None:
                    raise DeviceError(
                        f"{self.device_name}: a program ended without a token; run imp verify on the artifact"
                    )
                time.sleep(_SLEEP_SECONDS)
        if token >= self.plan.vocab:
            raise DeviceError(
                f"{self.device_name}: token {token} is outside the vocabulary; run imp verify on the artifact"
            )
        return token
