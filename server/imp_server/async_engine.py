"""The engine in a thread of its own, and a stream of outputs per request for asyncio.

Only the thread touches the engine, from loading (a GPU context belongs to a thread) to closing. Coroutines send it
commands through a queue; outputs come back through `call_soon_threadsafe` into the request's own queue, which holds at
most `max_tokens` entries.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imp_runtime.errors import ImpError
from imp_server.errors import ApiError
from imp_server.generation import Request
from imp_server.model import Model

if TYPE_CHECKING:
    from imp_runtime.engine import StepOutput
    from imp_runtime.sequence import Sequence

log = logging.getLogger("imp")
_JOIN_SECONDS = 5.0


@dataclass(eq=False, slots=True)
class _Stream:
    """A request on its way: whom to tell, and the sequence once the engine has admitted it."""

    request: Request
    loop: asyncio.AbstractEventLoop
    admitted: asyncio.Future[None]
    outputs: asyncio.Queue[StepOutput | ApiError] = field(default_factory=asyncio.Queue)
    sequence: Sequence | None = None

    def tell(self, what: StepOutput | ApiError | None) -> None:
        """From the thread: an output, an error, or None for the admission."""
        with contextlib.suppress(RuntimeError):  # the loop has ended; nobody listens
            self.loop.call_soon_threadsafe(self._hear, what)

    def _hear(self, what: StepOutput | ApiError | None) -> None:
        if self.admitted.done():
            if what is not None:
                self.outputs.put_nowait(what)
        elif isinstance(what, ApiError):
            self.admitted.set_exception(what)
        else:
            self.admitted.set_result(None)


class AsyncEngine:
    """Runs a model for many requests; `load` is called in the engine's thread. `limit` is the most open requests."""

    def __init__(self, load: Callable[[], Model], *, limit: int = 256) -> None:
        self._limit = limit
        self._open = 0
        self._commands: queue.SimpleQueue[Callable[[Model], None]] = queue.SimpleQueue()
        self._running: dict[int, _Stream] = {}
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
    async def generate(self, request: Request) -> AsyncIterator[AsyncIterator[StepOutput]]:
        """Admit `request`; inside the block iterate over its outputs. Leaving the block frees the sequence.

        Raises ApiError: what `model` raises, 429 when too many requests are open, 400 when the engine refuses this one.
        """
        _ = self.model
        if self._open >= self._limit:
            message = f"{self._open} requests are open, the most that this server takes; try again later"
            raise ApiError(message, status=429, kind="rate_limit_error", code="rate_limit_exceeded")
        loop = asyncio.get_running_loop()
        stream = _Stream(request, loop, loop.create_future())
        self._open += 1
        try:
            self._commands.put(lambda model: self._admit(model, stream))
            await stream.admitted
            yield _outputs(stream)
        finally:
            self._open -= 1
            self._commands.put(lambda model: self._release(model, stream))

    def close(self) -> None:
        """End the thread and close the model; requests that are still open get an error."""
        self._closing = True
        self._commands.put(lambda model: None)
        self._thread.join(_JOIN_SECONDS)

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
        model.close()

    def _next_command(self, model: Model) -> Callable[[Model], None] | None:
        """The next command; waits for one only while the engine has nothing to do."""
        idle = self._failure is not None or not model.engine.has_work
        try:
            return self._commands.get(block=idle)
        except queue.Empty:
            return None

    def _admit(self, model: Model, stream: _Stream) -> None:
        if self._failure is not None:
            stream.tell(_failed(self._failure))
            return
        try:
            stream.sequence = model.engine.add(stream.request.prompt, stream.request.params)
        except ImpError as error:
            stream.tell(ApiError(str(error)))
            return
        except Exception:
            stream.tell(_failed("the engine failed to take the request"))
            raise
        self._running[id(stream.sequence)] = stream
        stream.tell(None)

    def _release(self, model: Model, stream: _Stream) -> None:
        if stream.sequence is not None and self._running.pop(id(stream.sequence), None) is not None:
            model.engine.abort(stream.sequence)

    def _deliver(self, model: Model) -> None:
        for output in model.engine.step():
            stream = self._running.get(id(output.sequence))
            if stream is not None:
                stream.tell(output)
                if output.finish is not None:
                    del self._running[id(output.sequence)]

    def _fail(self, error: BaseException) -> None:
        self._failure = f"the engine failed: {error}" if isinstance(error, ImpError) else "the engine failed"
        self._end_streams(_failed(self._failure))

    def _end_streams(self, error: ApiError) -> None:
        for stream in self._running.values():
            stream.tell(error)
        self._running.clear()


async def _outputs(stream: _Stream) -> AsyncIterator[StepOutput]:
    while True:
        output = await stream.outputs.get()
        if isinstance(output, ApiError):
            raise output
        yield output
        if output.finish is not None:
            return


def _failed(message: str) -> ApiError:
    return ApiError(message, status=500, kind="server_error", code="engine_failed")


def _unavailable(message: str, code: str) -> ApiError:
    return ApiError(message, status=503, kind="server_error", code=code)
