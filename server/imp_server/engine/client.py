"""The engine as a worker has it: it runs in another process, and each request has a stream of what comes for it.

All of it belongs to the event loop's thread. The outputs of one step come in one message and go into the inboxes of the
requests, which hold at most `max_tokens` entries each.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from imp_runtime.errors import ImpError, NotFiniteError
from imp_runtime.plan import Pooling
from imp_server.engine import messages as m
from imp_server.engine.admitted import Admitted, Inbox, Stream
from imp_server.engine.connection import Connection
from imp_server.errors import ApiError
from imp_server.frontend import Frontend
from imp_server.generation.output import Output
from imp_server.generation.request import Request


class AsyncEngine:
    """Runs requests on the engine that it is linked to. `limit` is the most open requests.

    `load` makes the frontend, in a thread of its own.
    """

    def __init__(self, load: Callable[[], Frontend], *, limit: int = 256) -> None:
        self.limit = limit
        self.open = 0
        self._load = load
        self._loading: asyncio.Task[None] | None = None
        self._frontend: Frontend | None = None
        self._ready: m.Ready | None = None  # what the engine has said that is linked now
        self._asleep: m.Asleep | None = None  # while it is
        self._connection: Connection | None = None
        self._ids = itertools.count()
        self._streams: dict[int, Stream] = {}
        self._calls: dict[int, asyncio.Future[object]] = {}
        self._closing = False
        self._failure: ApiError | None = None
        self._beaten = 0.0  # when the engine's last beat came (time.monotonic)
        self._lost: str | None = None  # why the engine that was linked before has ended

    def start(self) -> None:
        """Begin to load the frontend. Until that is done and an engine is linked, `frontend` raises 503."""
        self._loading = asyncio.create_task(self._start())

    async def attach(self, connection: socket.socket) -> None:
        """Link an engine, in place of the one before, if there was one."""
        if self._connection is not None:
            self._connection.close()
        link = Connection(lambda message: self._heard(link, message), lambda: self._gone(link))
        self._connection = link
        await link.begin(connection)

    def lost(self, why: str) -> None:
        """The engine that is linked has been given up: what it was at ends now."""
        if (connection := self._connection) is not None:
            connection.close()
            self._lost = why
            self._gone(connection)

    @property
    def frontend(self) -> Frontend:
        """The model's frontend. Raises ApiError: 503 while that or the engine loads or ends, 500 if it failed."""
        if self._failure is not None:
            raise self._failure
        if self._closing:
            raise _unavailable("the server is shutting down", "shutting_down")
        if self._frontend is None or self._ready is None:
            why = "the model is loading" if self._lost is None else f"{self._lost}; it is being started again"
            raise _unavailable(why, "loading")
        return self._frontend

    @property
    def silent(self) -> float:
        """Seconds since the engine's last beat, which comes every BEAT_SECONDS."""
        return time.monotonic() - self._beaten

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds; 0 while the model is loading."""
        return self._ready.kv_tokens if self._ready is not None else 0

    @property
    def asleep(self) -> bool:
        """Whether the engine has given its device back until it is needed."""
        return self._asleep is not None

    @contextlib.asynccontextmanager
    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Admitted]:
        """Admit `requests`, all or none. Leaving the block frees their sequences.

        Raises ApiError: what `frontend` raises, 429 when too many requests are open, 400 when the engine refuses one.
        """
        _ = self.frontend
        if self.open + len(requests) > self.limit:
            message = f"{self.open} requests are open, the server takes {self.limit}; try again later"
            raise ApiError(message, status=429, kind="rate_limit_error", code="rate_limit_exceeded")
        inbox = Inbox()
        streams = tuple(Stream(request, i, next(self._ids), inbox) for i, request in enumerate(requests))
        self.open += len(requests)
        try:
            self._streams.update({stream.id: stream for stream in streams})
            generations = tuple(_generation(stream) for stream in streams)
            began = cast("list[m.Began]", await self._call(lambda call: m.Admit(call, generations)))
            for each in began:
                self._begin(each)
            yield Admitted(streams, inbox)
        finally:
            self.open -= len(requests)
            self._abandon(streams)

    def release(self, admitted: Admitted, index: int) -> None:
        """Free the sequence of one of several requests, which needs no more of it."""
        self._abandon((admitted.streams[index],))

    async def slots(self) -> list[m.Slot]:
        """What runs in the engine, whoever has asked for it. Raises ApiError."""
        if self.asleep:
            return []
        return cast("list[m.Slot]", await self._call(m.AskSlots))

    async def free(self) -> m.Free:
        """What can be had of the engine. Raises ApiError."""
        if self._asleep is not None:
            return self._asleep.free
        return cast("m.Free", await self._call(m.AskFree))

    async def embed(self, tokens: Sequence[int], pooling: Pooling) -> npt.NDArray[np.float32]:
        """The final hidden states of `tokens`, pooled: float32 [vectors, width]. Raises ApiError."""
        given = tuple(tokens)
        return cast("npt.NDArray[np.float32]", await self._call(lambda call: m.Embed(call, given, pooling)))

    async def score(self, tokens: Sequence[int], top: int) -> list[m.Scored]:
        """What the model says of each of `tokens` but the first, with the `top` best at its place. Raises ApiError."""
        given = tuple(tokens)
        return cast("list[m.Scored]", await self._call(lambda call: m.Score(call, given, top)))

    async def close(self) -> None:
        """Leave the engine; requests that are still open get an error."""
        self._closing = True
        self._end(_unavailable("the server is shutting down", "shutting_down"))
        if self._connection is not None:
            self._connection.close()
        if self._loading is not None:
            await self._loading

    async def _start(self) -> None:
        try:
            frontend = await asyncio.to_thread(self._load)
        except Exception as error:
            why = f": {error}" if isinstance(error, ImpError) else ""
            self._failure = _failed(f"the model cannot be loaded{why}")
            return
        self._frontend = frontend
        self._meet()

    def _meet(self) -> None:
        if self._frontend is not None and self._ready is not None:
            self._frontend.runs_on(self._ready.target, self._ready.context)

    async def _call(self, ask: Callable[[int], m.ToEngine]) -> object:
        _ = self.frontend
        assert self._connection is not None
        call = next(self._ids)
        self._calls[call] = answered = asyncio.get_running_loop().create_future()
        self._connection.send(ask(call))
        try:
            return await answered
        finally:
            self._calls.pop(call, None)

    def _abandon(self, streams: Sequence[Stream]) -> None:
        """Of those streams whose end has not come the engine is told that nobody wants more."""
        ids = tuple(stream.id for stream in streams if self._streams.pop(stream.id, None) is not None)
        if ids and self._connection is not None:
            self._connection.send(m.Abort(ids))

    def _heard(self, connection: Connection, message: m.FromEngine) -> None:
        if connection is not self._connection:
            return
        match message:
            case m.Step():
                self._step(message)
            case m.Answer() | m.Refused():
                answered = self._calls.get(message.call)
                if answered is None or answered.done():
                    return
                if isinstance(message, m.Answer):
                    answered.set_result(message.result)
                else:
                    refusal = _unavailable(message.why, "loading") if message.later else ApiError(message.why)
                    answered.set_exception(refusal)
            case m.Beat():
                self._beaten = time.monotonic()
            case m.Ready():
                self._beaten = time.monotonic()
                self._ready, self._asleep, self._lost = message, None, None
                self._meet()
            case m.Asleep():
                self._asleep = message
            case m.Failed():
                self._lost = message.why

    def _step(self, step: m.Step) -> None:
        for each in step.began:
            self._begin(each)
        for number, progress in step.progress:
            if (stream := self._streams.get(number)) is not None:
                stream.inbox.put(stream.index, progress)
        for number, token, finish, logprob, top in step.tokens:
            stream = self._streams.get(number)
            if stream is None:
                continue
            if finish is not None:
                del self._streams[number]
            if finish == "error":
                stream.inbox.fail(_failed(str(NotFiniteError()), "logits_not_finite"))
                continue
            if finish != "stop":
                stream.last = step.time
            stream.first = stream.first or step.time
            stream.inbox.put(stream.index, Output(token, finish, logprob, top))

    def _begin(self, began: m.Began) -> None:
        if (stream := self._streams.get(began.id)) is not None:
            stream.began, stream.cached = began.time, began.cached

    def _gone(self, connection: Connection) -> None:
        """The engine has ended. What it was at is lost; requests that come now are told to try again."""
        if connection is not self._connection:
            return
        self._connection = self._ready = self._asleep = None
        self._lost = self._lost or "the engine has ended"
        self._end(_failed(f"{self._lost}; it is being started again, try again"))

    def _end(self, error: ApiError) -> None:
        for stream in self._streams.values():
            stream.inbox.fail(error)
        self._streams.clear()
        for answered in self._calls.values():
            if not answered.done():
                answered.set_exception(error)


def _generation(stream: Stream) -> m.Generation:
    asked = stream.request
    return m.Generation(stream.id, asked.prompt, asked.params, asked.constraint, asked.budget, asked.progress)


def _failed(message: str, code: str = "engine_failed") -> ApiError:
    return ApiError(message, status=500, kind="server_error", code=code)


def _unavailable(message: str, code: str) -> ApiError:
    return ApiError(message, status=503, kind="server_error", code=code)
