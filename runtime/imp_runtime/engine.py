"""Generates tokens: queues requests, launches ahead of what it has read, and reads tokens from the pinned ring."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import numpy.typing as npt

from imp_runtime.artifact import Artifact
from imp_runtime.block_manager import BlockManager
from imp_runtime.chunk_times import Chunk, ChunkTimes
from imp_runtime.constraint import TokenMask, unpack_bits
from imp_runtime.device import Device, Mark, detect_target, open_device
from imp_runtime.errors import ImpError, NoRoomError, NotFiniteError
from imp_runtime.host_sampler import HostSampler, logprobs, top_logprobs
from imp_runtime.launcher import Launched, Launcher
from imp_runtime.model_runner import ModelRunner, Progress
from imp_runtime.plan import MIROSTAT, NO_LEDGER, RING, SIEVE, STEPS, TOP_ENTRIES, Plan, PlanError
from imp_runtime.sampling import SamplingParams
from imp_runtime.scheduler import Batch, Scheduler
from imp_runtime.sequence import Sequence, Status
from imp_runtime.timings import Timings
from imp_runtime.token_ring import TokenRing

# One program runs while the next one waits behind it: enough to keep the device busy, and little to throw away when a
# sequence turns out to have ended.
IN_FLIGHT = 2
PROGRAMS = (*STEPS, "head_r1", "sample_r1", SIEVE, "export_r1", "top_r1")


class RequestError(ImpError):
    """A prompt that this engine cannot take."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """A token of a sequence. `finish` says why it is the last one; a stop token is delivered with "stop".

    With "error" there is no token (`token` is -1): the model's logits were not all finite numbers (see NotFiniteError).

    Where `top_logprobs` was asked for: `logprob` of the token and `top`, the best tokens with theirs, best first; of
    the model's own distribution, before bias, penalties, temperature and mask, or of what was left of it by these.
    """

    sequence: Sequence
    token: int
    finish: Literal["stop", "length", "error"] | None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class _Flight:
    """A launched batch, and which tokens of it are not here yet.

    `begin` and `end` are marks around it: of one with a prediction both, of one without tokens the latter.
    """

    batch: Batch
    tokens: deque[Launched]
    begin: Mark | None
    end: Mark | None


class Engine:
    """One model on one device. One thread at a time may use it; only `abort` may be called from any.

    With `prefix_cache`, what prompts and answers left in the KV cache serves those that begin with the same tokens.
    Steps of several sequences run together where that is faster. That adds up in another order, so that the last bits
    of a sequence's logits depend on whether others run beside it; with `deterministic` each takes its steps alone, and
    what answers left serves nobody, as steps round otherwise than prompts.
    `timings` of its start get what is done here; they are kept as an attribute.
    """

    def __init__(
        self,
        artifact: Artifact,
        device: Device,
        *,
        kv_tokens: int | None = None,
        kv_share: float = 1.0,
        prefix_cache: bool = True,
        deterministic: bool = False,
        check_weights: bool = True,
        progress: Progress | None = None,
        timings: Timings | None = None,
    ) -> None:
        self.timings = timings or Timings()
        self.artifact = artifact
        self.plan: Plan = artifact.plan
        self.target = device.target
        self.device_name = device.name
        self._device = device
        self.runner = ModelRunner(
            artifact,
            device,
            kv_tokens,
            progress,
            kv_share=kv_share,
            check_weights=check_weights,
            timings=self.timings,
        )
        try:
            names = {program.name for program in self.runner.programs}
            if missing := set(PROGRAMS) - names:
                raise PlanError(
                    f"{artifact.path}: target {self.target} has no program {min(missing)}; compile it again"
                )
            self._rows = self.runner.program_for("forward", self.plan.rows).rows
        except ImpError:
            self.close()
            raise
        manager = BlockManager(self.runner.blocks, prefix_cache=prefix_cache)
        together = [] if deterministic else sorted((p.rows, p.worth) for p in self.runner.programs if p.worth)
        self._scheduler = Scheduler(
            self.plan.slots,
            self.plan.ledgers,
            self._rows,
            manager,
            self.runner.paging,
            together=together,
            times=self._chunk_times(),
            share_answers=not deterministic,
        )
        self._launcher = Launcher(self.runner)
        self._ring = TokenRing(self.runner)
        self._in_flight: deque[_Flight] = deque()
        self._next_id = 0

    @staticmethod
    def load(
        source: Path | Artifact,
        *,
        target: str | None = None,
        kv_tokens: int | None = None,
        kv_share: float = 1.0,
        prefix_cache: bool = True,
        deterministic: bool = False,
        check_weights: bool = True,
        progress: Progress | None = None,
        timings: Timings | None = None,
    ) -> Engine:
        """Open an artifact on the device of `target`, by default on what this machine has. Raises ImpError.

        With `check_weights`, weights that are not what their checksums say are refused by name.
        """
        timings = timings or Timings()
        if not isinstance(source, Artifact):
            with timings.step("file"):
                source = Artifact.open(Path(source))
        with timings.step("device"):
            device = _device(source, target or detect_target())
        return Engine(
            source,
            device,
            kv_tokens=kv_tokens,
            kv_share=kv_share,
            prefix_cache=prefix_cache,
            deterministic=deterministic,
            check_weights=check_weights,
            progress=progress,
            timings=timings,
        )

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

    @property
    def free(self) -> tuple[int, int]:
        """Slots and blocks of the KV cache that can be had, those that are kept for prompts to come included."""
        return self._scheduler.free

    @property
    def owes_steps(self) -> bool:
        """Whether a sequence has had no step since rows of prompts, or of a whole text, ran last."""
        return self._scheduler.owes_steps

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
        ids = prompt if isinstance(prompt, tuple) else tuple(map(int, prompt))
        sequence = Sequence(self._next_id, ids, params, seed, limit, constraint=constraint)
        sequence.surprise_limit = 2 * params.mirostat_tau
        if params.on_host:
            sequence.sampler = HostSampler(params, seed)
        self._next_id += 1
        self._scheduler.add(sequence)
        return sequence

    def _check_tokens(self, tokens: Tokens[int]) -> None:
        if not len(tokens):
            raise RequestError("prompt is empty; give at least one token")
        if min(tokens) < 0 or max(tokens) >= self.plan.vocab:
            i, token = next((i, token) for i, token in enumerate(tokens) if not 0 <= token < self.plan.vocab)
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
        """Launch the next batch, then wait until at most one is unread; the tokens that arrived.

        At most one token of a sequence, so that a caller may inject what has to follow it.
        """
        batch = self._scheduler.next()
        if batch is not None:
            self._launch(batch)
        return list(self._arrivals(wait=batch is None or len(self._in_flight) >= IN_FLIGHT))

    def generate(self, prompt: Tokens[int], params: SamplingParams) -> Iterator[int]:
        """Tokens of one prompt as they come, without the stop token. Other sequences advance, their tokens unseen.

        Raises what `add` raises, and NotFiniteError.
        """
        sequence = self.add(prompt, params)
        try:
            while sequence.status is not Status.FINISHED:
                for output in self.step():
                    if output.sequence is not sequence:
                        continue
                    if output.finish == "error":
                        raise NotFiniteError
                    if output.finish != "stop":
                        yield output.token
        finally:
            self.abort(sequence)

    def logits(self, tokens: Tokens[int], before_part: Callable[[], None] | None = None) -> npt.NDArray[np.float32]:
        """Logits at every position of `tokens`: float32 [n, vocab]. Needs a free slot and free KV blocks.

        A text runs in parts; `before_part` is called before each, and may `step` for sequences that run.
        """
        return self._every_position(tokens, before_part, "logits", self.plan.vocab)

    def hidden(self, tokens: Tokens[int], before_part: Callable[[], None] | None = None) -> npt.NDArray[np.float32]:
        """Hidden states after the final norm at every position: float32 [n, hidden]; all else as for `logits`."""
        return self._every_position(tokens, before_part, "hidden", self.plan.hidden)

    def logits_in_parts(self, tokens: Tokens[int], first: int = 0) -> Iterator[npt.NDArray[np.float32]]:
        """Logits at the positions of `tokens` from `first` on, as `logits` has them, a program's rows at a time.

        float32 [some, vocab] each, so that a long text with a large vocabulary needs no more memory than one part.
        """
        return self._parts(tokens, None, "logits", self.plan.vocab, first)

    def hold(self, on: bool) -> bool:
        """Let no further sequence in until a whole text has had room; whether it does: not where nothing runs."""
        return self._scheduler.hold(on)

    def _every_position(
        self, tokens: Tokens[int], before_part: Callable[[], None] | None, program: str, width: int
    ) -> npt.NDArray[np.float32]:
        result = np.empty((len(tokens), width), np.float32)
        done = 0
        for part in self._parts(tokens, before_part, program, width):
            result[done : done + len(part)] = part
            done += len(part)
        return result

    def _parts(
        self, tokens: Tokens[int], before_part: Callable[[], None] | None, program: str, width: int, first: int = 0
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Run `tokens` in a borrowed slot; after each part of them what `<program>_r*` leaves in `<program>.all`."""
        self._check_tokens(tokens)
        if len(tokens) > self.context:
            raise RequestError(f"{len(tokens)} tokens do not fit the context of {self.context}")
        most = min(self._rows, self.runner.program_for(program, self._rows).rows)
        borrowed = self._scheduler.borrow(len(tokens))
        if borrowed is None:
            raise NoRoomError(f"no free slot or KV blocks for {program}; finish or abort running sequences first")
        slot, blocks = borrowed
        try:
            table = self.runner.paging.table(len(tokens), blocks)
            self.runner.write_slot(slot, 0, table, SamplingParams().record(0, NO_LEDGER))
            for start in range(0, len(tokens), most):
                if before_part is not None:
                    before_part()
                self._scheduler.begin_round()
                part = [int(token) for token in tokens[start : start + most]]
                self._launcher.forward([(slot, part, False)])
                skipped = max(0, first - start)
                if skipped < len(part):
                    self.runner.run(self.runner.program_for(program, len(part)).name)
                    shape = (len(part) - skipped, width)
                    rows = self.runner.read(f"{program}.all", "f32", shape, 4 * width * skipped)
                    yield rows.astype(np.float32, copy=False)
        finally:
            self._scheduler.give_back(slot, blocks)

    def _chunk_times(self) -> ChunkTimes | None:
        chunks = [Chunk(p.rows, p.first_us, p.last_us) for p in self.runner.programs_of("forward")]
        known = all(chunk.first_us for chunk in chunks)
        return ChunkTimes(chunks, self.plan.context) if known else None

    def _launch(self, batch: Batch) -> None:
        """Launch a batch, which is in flight from now on."""
        begin = self._device.mark() if batch.predicted_us else None
        tokens = deque(self._launcher.launch(batch))
        end = self._device.mark() if begin is not None or not tokens else None
        self._in_flight.append(_Flight(batch, tokens, begin, end))

    def _arrivals(self, *, wait: bool) -> Iterator[StepOutput]:
        """Tokens that are here, in order, one of a sequence; with `wait`, all of the oldest batch in any case."""
        seen: set[int] = set()
        while self._in_flight:
            flight = self._in_flight[0]
            tokens = flight.tokens
            if not tokens and not wait:
                return
            while tokens and (wait or self._ring.poll(tokens[0].index) is not None):
                if tokens[0].sequence.id in seen:
                    return
                seen.add(tokens[0].sequence.id)
                yield from self._receive(tokens)
            if tokens:
                return
            self._land(flight)
            self._in_flight.popleft()
            wait = False

    def _land(self, flight: _Flight) -> None:
        """Of a batch whose tokens are all here: its end, which is here or about to come, and its time."""
        if flight.end is None:
            return
        self._device.wait(flight.end)
        if flight.begin is not None:
            self._scheduler.took(flight.batch, 1000 * self._device.elapsed_ms(flight.begin, flight.end))

    def _receive(self, tokens: deque[Launched]) -> Iterator[StepOutput]:
        """Wait for the first of `tokens` and take it; an output, unless its sequence has ended meanwhile."""
        head = tokens[0]
        token = self._ring.wait(head.index)
        if head.exported is not None:
            self._device.wait(head.exported)
        tokens.popleft()
        sequence = head.sequence
        if sequence.status is Status.FINISHED or head.injections != sequence.injections:
            return
        if token is None:
            self._scheduler.finish(sequence, "error")
            yield StepOutput(sequence, -1, "error")
            return
        if sequence.sampler is not None:
            allowed = None if head.mask is None else unpack_bits(head.mask, self.plan.vocab)
            logits = self.runner.logits[head.ledger]
            token = sequence.sampler.choose(logits, allowed, sequence.prompt, sequence.generated)
            self.runner.write_token(head.slot, token)
        elif sequence.params.flags & MIROSTAT:
            sequence.surprise_limit = float(self.runner.surprise_limits[head.index % RING])
        logprob, top = self._logprobs(head, token)
        sequence.generated.append(token)
        finish = self._finish(sequence, token)
        if finish:
            self._scheduler.finish(sequence, finish)
        elif sequence.constraint is not None:
            sequence.constraint.accept(token)
        yield StepOutput(sequence, token, finish, logprob, top)

    def _logprobs(self, head: Launched, token: int) -> tuple[float | None, tuple[tuple[int, float], ...]]:
        """What StepOutput says of `token`, the one just launched as `head` or chosen here."""
        sequence, count = head.sequence, head.sequence.params.top_logprobs
        if count is None:
            return None, ()
        if sequence.params.sampled_logprobs and sequence.sampler is not None:
            return sequence.sampler.drawn_from(token, count)
        if sequence.exports:
            return logprobs(self.runner.logits[head.ledger], token, count)
        return top_logprobs(self.runner.top[head.index % TOP_ENTRIES], count)

    def _finish(self, sequence: Sequence, token: int) -> Literal["stop", "length"] | None:
        """Why `token`, the last one generated, ends the sequence, if it does."""
        params = sequence.params
        # A complete grammar leaves nothing but stop tokens to choose.
        obeyed = not params.ignore_eos or (sequence.constraint is not None and sequence.constraint.done())
        if token in params.stop_tokens or (obeyed and token in self.plan.stop_tokens):
            return "stop"
        return "length" if len(sequence.generated) >= sequence.limit else None


def _device(artifact: Artifact, target: str) -> Device:
    try:
        simulated = artifact.plan.target(target).simulated
    except PlanError as error:
        advice = f"compile with --target {target}, or choose one of these with --target"
        raise PlanError(f"{artifact.path}: {error}; {advice}") from None
    return open_device(target, simulated=simulated)
