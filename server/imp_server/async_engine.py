"""The engine in a thread of its own, and a stream of outputs per request for asyncio.

Only the thread touches the engine, from loading (a GPU context belongs to a thread) to closing. Coroutines send it
commands through a queue; only to abort a sequence they need not wait for the step that runs. The outputs of one step
come back in one `call_soon_threadsafe`, into the inboxes of the requests, which hold at most `max_tokens` entries each.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from imp_runtime.errors import ImpError, NotFiniteError
from imp_server.errors import ApiError
from imp_server.generation.request import Request, ThinkWatch
from imp_server.generation.timings import PromptProgress, Timings, milliseconds
from imp_server.model import Model

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from imp_runtime.engine import StepOutput
    from imp_runtime.sequence import Sequence as EngineSequence

log = logging.getLogger("imp")
T = TypeVar("T")
Hidden: TypeAlias = "npt.NDArray[np.float32]"  # [tokens, width]
_JOIN_SECONDS = 5.0


@dataclass(eq=False, slots=True)
class _Inbox:
    """What has arrived for one caller and is not yet read: outputs with the index of their request, or an error."""

    loop: asyncio.AbstractEventLoop
    items: list[tuple[int, StepOutput | PromptProgress]] = field(default_factory=list)
    error: ApiError | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def fail(self, error: ApiError) -> None:
        self.error = self.error or error
        self.arrived.set()

    async def take(self) -> list[tuple[int, StepOutput | PromptProgress]]:
        """Everything that has arrived, at least one. Raises the error once what came before it has been taken."""
        while not self.items:
            if self.error is not None:
                raise self.error
            self.arrived.clear()
            await self.arrived.wait()
        items, self.items = self.items, []
        return items


@dataclass(eq=False, slots=True)
class _Stream:
    """A request on its way: its place among the caller's requests, and the sequence once the engine has it.

    `began` is when its prompt did, `first` and `last` when tokens came (time.monotonic); `processed` is how many tokens
    of the prompt the caller knows of.
    """

    request: Request
    index: int
    inbox: _Inbox
    began: float = 0.0
    first: float = 0.0
    last: float = 0.0
    processed: int = -1
    sequence: EngineSequence | None = None
    watch: ThinkWatch | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """Requests that the engine has taken."""

    streams: tuple[_Stream, ...]
    inbox: _Inbox

    @property
    def cached(self) -> tuple[int, ...]:
        """Prompt tokens of each request that came from the prefix cache; 0 for one that still waits for a slot."""
        return tuple(stream.sequence.prompt_cached if stream.sequence is not None else 0 for stream in self.streams)

    def timings(self, index: int, tokens: int) -> Timings:
        """The times of a request of which `tokens` have been generated, measured where the engine runs."""
        stream = self.streams[index]
        cached = self.cached[index]
        prompt_ms = max(milliseconds(stream.first - stream.began), 0.001)
        computed = len(stream.request.prompt) - cached
        return Timings(cached, computed, prompt_ms, tokens, milliseconds(max(stream.last - stream.first, 0.0)))

    async def outputs(self) -> AsyncIterator[list[tuple[int, StepOutput | PromptProgress]]]:
        """(index of the request, output or progress), in order, as many at a time as have come; endless."""
        while True:
            yield await self.inbox.take()


class AsyncEngine:
    """Runs a model for many requests; `load` is called in the engine's thread. `limit` is the most open requests."""

    def __init__(self, load: Callable[[], Model], *, limit: int = 256) -> None:
        self.limit = limit
        self.open = 0
        self._commands: queue.SimpleQueue[Callable[[Model], None]] = queue.SimpleQueue()
        self._running: dict[int, _Stream] = {}
        self._prompts: dict[int, _Stream] = {}  # those of them that have no token yet
        self._closing = False
        self._failure: str | None = None
        self._model: Model | None = None
        self._thread = threading.Thread(target=self._run, args=(load,), name="imp-engine", daemon=True)

    def start(self) -> None:
        """Begin to load. Until that is done `model` raises 503."""
        self._thread.start()

    @property
    def model(self) -> Model:
        """The model. Raises ApiError: 503 while it is loading or closing, 500 when it has failed."""
        if self._failure is not None:
            raise _failed(self._failure)
        if self._closing:
            raise _unavailable("the server is shutting down", "shutting_down")
        if self._model is None:
            raise _unavailable("the model is loading", "loading")
        return self._model

    @contextlib.asynccontextmanager
    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Admitted]:
        """Admit `requests`, all or none. Leaving the block frees their sequences.

        Raises ApiError: what `model` raises, 429 when too many requests are open, 400 when the engine refuses one.
        """
        _ = self.model
        if self.open + len(requests) > self.limit:
            message = f"{self.open} requests are open, the server takes {self.limit}; try again later"
            raise ApiError(message, status=429, kind="rate_limit_error", code="rate_limit_exceeded")
        loop = asyncio.get_running_loop()
        inbox = _Inbox(loop)
        streams = tuple(_Stream(request, index, inbox) for index, request in enumerate(requests))
        self.open += len(requests)
        try:
            await self._call(lambda model: self._admit(model, streams))
            yield Admitted(streams, inbox)
        finally:
            self.open -= len(requests)
            self._abandon(streams)

    def release(self, admitted: Admitted, index: int) -> None:
        """Free the sequence of one of several requests, which needs no more of it."""
        self._abandon((admitted.streams[index],))

    def running(self) -> list[tuple[int, int, int, int]]:
        """(slot, prompt tokens, those of them from the prefix cache, generated tokens) of every running sequence.

        For `call`, in the engine's thread.
        """
        sequences = [stream.sequence for stream in self._running.values() if stream.sequence is not None]
        return [
            (each.slot, len(each.prompt), each.prompt_cached, len(each.generated))
            for each in sequences
            if each.slot >= 0
        ]

    async def call(self, work: Callable[[Model], T]) -> T:
        """The result of `work` done in the engine's thread, between two steps. Raises what it raises, as ApiError."""
        _ = self.model
        return await self._call(work)

    async def embed(self, tokens: Sequence[int], pooled: Callable[[Hidden], T]) -> T:
        """`pooled` of the final hidden states of `tokens`, in the engine's thread. Raises ApiError."""
        return await self.call(lambda model: pooled(model.engine.hidden(tokens, self._taking_turns(model))))

    async def logits(self, tokens: Sequence[int]) -> Hidden:
        """Logits after each of `tokens`: float32 [n, vocab]. Raises ApiError."""
        return await self.call(lambda model: model.engine.logits(tokens, self._taking_turns(model)))

    def close(self) -> None:
        """End the thread and close the model; requests that are still open get an error."""
        self.stop()
        self._thread.join(_JOIN_SECONDS)

    def stop(self) -> None:
        """Take no more requests and end the open ones with an error."""
        self._closing = True
        self._commands.put(lambda model: None)

    async def _call(self, work: Callable[[Model], T]) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: ApiError | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]  # the result, where there is no error

        def command(model: Model) -> None:
            if self._failure is not None:
                _tell(loop, settle, None, _failed(self._failure))
                return
            if self._closing:
                _tell(loop, settle, None, _unavailable("the server is shutting down", "shutting_down"))
                return
            try:
                result = work(model)
            except ApiError as error:
                _tell(loop, settle, None, error)
            except ImpError as error:
                _tell(loop, settle, None, ApiError(str(error)))
            except Exception:
                _tell(loop, settle, None, _failed("the engine failed to take the request"))
                raise
            else:
                _tell(loop, settle, result, None)

        self._commands.put(command)
        return await done

    def _abandon(self, streams: Sequence[_Stream]) -> None:
        """Free the sequences of `streams` now; a command puts the rest in order, and catches those not yet admitted."""
        for stream in streams:
            if stream.sequence is not None and self._model is not None:
                self._model.engine.abort(stream.sequence)
        self._commands.put(lambda model: self._release(model, streams))

    # In the thread:

    def _run(self, load: Callable[[], Model]) -> None:
        try:
            model = load()
        except BaseException as error:
            self._fail(error)
            return
        self._model = model
        while not self._closing:
            try:
                if (command := self._next_command(model)) is not None:
                    command(model)
                else:
                    self._deliver(model)
            except Exception as error:
                log.exception("the engine failed")
                self._fail(error)
        self._end_streams(_unavailable("the server is shutting down", "shutting_down"))
        with contextlib.suppress(queue.Empty):
            while True:
                self._commands.get_nowait()(model)
        model.close()

    def _next_command(self, model: Model) -> Callable[[Model], None] | None:
        """The next command; waits for one only while the engine has nothing to do."""
        idle = self._failure is not None or not model.engine.has_work
        try:
            return self._commands.get(block=idle)
        except queue.Empty:
            return None

    def _admit(self, model: Model, streams: Iterable[_Stream]) -> None:
        try:
            for stream in streams:
                request = stream.request
                constraint = request.constraint() if request.constraint is not None else None
                stream.sequence = model.engine.add(request.prompt, request.params, constraint)
                if request.budget is not None:
                    stream.watch = request.budget.watch()
                stream.began = time.monotonic()
                self._running[id(stream.sequence)] = self._prompts[id(stream.sequence)] = stream
            self._watch_prompts()
        except BaseException:
            self._release(model, streams)
            raise

    def _release(self, model: Model, streams: Iterable[_Stream]) -> None:
        for stream in streams:
            if stream.sequence is not None and self._running.pop(id(stream.sequence), None) is not None:
                self._prompts.pop(id(stream.sequence), None)
                model.engine.abort(stream.sequence)

    def _watch_prompts(self) -> None:
        """When each prompt gets its slot, and how far it is; before the first token is told."""
        for key, stream in list(self._prompts.items()):
            sequence = stream.sequence
            assert sequence is not None
            if sequence.generated:
                del self._prompts[key]
            if sequence.slot < 0 and not sequence.generated:
                stream.began = time.monotonic()
            elif stream.request.progress:
                self._tell_progress(stream, sequence)

    def _tell_progress(self, stream: _Stream, sequence: EngineSequence) -> None:
        total, cached = len(sequence.prompt), sequence.prompt_cached
        # Of a sequence that has its first token all has run, even if that has ended it.
        done = total if sequence.generated else min(max(sequence.cached, cached), total)
        if done <= stream.processed:
            return
        spent = milliseconds(time.monotonic() - stream.began) if stream.processed >= 0 else 0.0
        stream.processed = done
        progress = PromptProgress(total, cached, done, spent)
        _tell(stream.inbox.loop, _hear, [(stream, progress)])

    def _deliver(self, model: Model) -> None:
        arrived: dict[asyncio.AbstractEventLoop, list[tuple[_Stream, StepOutput]]] = {}
        for output in model.engine.step():
            stream = self._running.get(id(output.sequence))
            if stream is None:
                continue
            if output.finish == "error":
                del self._running[id(output.sequence)]
                _tell(stream.inbox.loop, stream.inbox.fail, _failed(str(NotFiniteError()), "logits_not_finite"))
                continue
            if output.finish != "stop":
                stream.last = time.monotonic()
            stream.first = stream.first or time.monotonic()
            arrived.setdefault(stream.inbox.loop, []).append((stream, output))
            if output.finish is not None:
                del self._running[id(output.sequence)]
            elif stream.watch is not None:
                injected = self._mind_budget(model, stream, stream.watch, output)
                arrived[stream.inbox.loop] += [(stream, each) for each in injected]
        if self._prompts:
            self._watch_prompts()
        for loop, outputs in arrived.items():
            _tell(loop, _hear, outputs)

    def _taking_turns(self, model: Model) -> Callable[[], None]:
        """Before a part of a text: a step of every answer that is owed one, so that none waits for the whole of it."""

        def deliver() -> None:
            while model.engine.owes_steps and not self._closing:
                self._deliver(model)

        return deliver

    def _mind_budget(
        self, model: Model, stream: _Stream, watch: ThinkWatch, output: StepOutput
    ) -> Sequence[StepOutput]:
        """End the reasoning of a sequence that has used up its budget: the tokens put in, which `step` is silent of."""
        budget = stream.request.budget
        assert budget is not None
        watch.accept(output.token)
        if not watch.inside or watch.tokens < budget.tokens:
            return ()
        stream.watch = None
        try:
            model.engine.inject(output.sequence, budget.closing)
        except ImpError:  # no room for it: the reply is about to end anyhow
            return ()
        return [replace(output, token=token, logprob=None, top=()) for token in budget.closing]

    def _fail(self, error: BaseException) -> None:
        self._failure = f"the engine failed: {error}" if isinstance(error, ImpError) else "the engine failed"
        self._end_streams(_failed(self._failure))

    def _end_streams(self, error: ApiError) -> None:
        for stream in self._running.values():
            _tell(stream.inbox.loop, stream.inbox.fail, error)
        self._running.clear()
        self._prompts.clear()


def _hear(outputs: Sequence[tuple[_Stream, StepOutput | PromptProgress]]) -> None:
    for stream, output in outputs:
        inbox = stream.inbox
        inbox.items.append((stream.index, output))
        inbox.arrived.set()


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[..., None], *arguments: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended; nobody listens
        loop.call_soon_threadsafe(what, *arguments)


def _failed(message: str, code: str = "engine_failed") -> ApiError:
    return ApiError(message, status=500, kind="server_error", code=code)


def _unavailable(message: str, code: str) -> ApiError:
    return ApiError(message, status=503, kind="server_error", code=code)
