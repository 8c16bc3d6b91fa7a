"""The desk of all workers is in the parent: how a worker asks there, and how the parent answers."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable, Coroutine
from typing import cast

from imp_server.errors import ApiError
from imp_server.operation.config import LimitsConfig
from imp_server.operation.desk import LocalDesk
from imp_server.operation.samples import Samples
from imp_server.processes import control as c

_COUNTERS_SECONDS = 1.0  # for the counters of the other workers; who is late is counted as it was
_ANSWER_SECONDS = 5.0


class RemoteDesk:
    """The desk as a worker has it; all of it belongs to the event loop's thread."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._ids = itertools.count()
        self._calls: dict[int, asyncio.Future[object]] = {}

    async def enter(self) -> int:
        """As Desk has it."""
        call = next(self._ids)
        try:
            why = await self._ask(call, c.Enter(call))
        except BaseException:
            c.send(self._control, c.Leave(call))
            raise
        if why is not None:
            raise ApiError(str(why), status=429, kind="rate_limit_error", code="rate_limit_exceeded")
        return call

    def leave(self, place: int) -> None:
        """As Desk has it."""
        c.send(self._control, c.Leave(place))

    async def hit(self, client: str) -> int:
        """As Desk has it."""
        call = next(self._ids)
        return cast("int", await self._ask(call, c.Hit(call, client)))

    async def everyone(self, own: Samples) -> Samples:
        """As Desk has it."""
        call = next(self._ids)
        async with asyncio.timeout(_ANSWER_SECONDS):
            return cast("Samples", await self._ask(call, c.Everyone(call, own)))

    def heard(self, done: c.Done) -> None:
        """What the parent has answered."""
        answered = self._calls.get(done.call)
        if answered is not None and not answered.done():
            answered.set_result(done.result)

    async def _ask(self, call: int, message: c.ToDesk) -> object:
        self._calls[call] = answered = asyncio.get_running_loop().create_future()
        c.send(self._control, message)
        try:
            return await answered
        finally:
            del self._calls[call]


class Visitor:
    """A worker as the parent's desk knows it: how to tell it something, and what it has counted."""

    def __init__(self, tell: Callable[[c.ToChild], None]) -> None:
        self.tell = tell
        self.samples = Samples()
        self.entering: dict[int, asyncio.Task[None]] = {}
        self.places: dict[int, int] = {}  # those of the desk, by the calls for them
        self.asked: list[asyncio.Future[None]] = []


class ParentDesk:
    """Answers the workers. What one has taken is free again when it has ended; what it has counted stays."""

    def __init__(self, limits: LimitsConfig) -> None:
        self._desk = LocalDesk(limits)
        self._visitors: set[Visitor] = set()
        self._past = Samples()
        self._tasks: set[asyncio.Task[None]] = set()

    def come(self, tell: Callable[[c.ToChild], None]) -> Visitor:
        """A worker has been started, which hears by `tell`."""
        visitor = Visitor(tell)
        self._visitors.add(visitor)
        return visitor

    def gone(self, visitor: Visitor) -> None:
        """It has ended."""
        self._visitors.discard(visitor)
        self._past = Samples.sum([self._past, visitor.samples.lasting()])
        for entering in visitor.entering.values():
            entering.cancel()
        for place in visitor.places.values():
            self._desk.leave(place)
        for asked in visitor.asked:
            asked.cancel()

    def heard(self, visitor: Visitor, message: c.ToDesk) -> None:
        """A worker asks or tells."""
        match message:
            case c.Enter():
                visitor.entering[message.call] = self._do(self._enter(visitor, message.call))
            case c.Leave():
                if (entering := visitor.entering.pop(message.call, None)) is not None:
                    entering.cancel()
                if (place := visitor.places.pop(message.call, None)) is not None:
                    self._desk.leave(place)
            case c.Hit():
                self._do(self._hit(visitor, message))
            case c.Everyone():
                visitor.samples = message.own
                self._do(self._everyone(visitor, message.call))
            case c.Counters():
                visitor.samples = message.own
                for asked in visitor.asked:
                    if not asked.done():
                        asked.set_result(None)
                visitor.asked.clear()

    def _do(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _enter(self, visitor: Visitor, call: int) -> None:
        why = None
        try:
            visitor.places[call] = await self._desk.enter()
        except ApiError as error:
            why = str(error)
        visitor.entering.pop(call, None)
        visitor.tell(c.Done(call, why))

    async def _hit(self, visitor: Visitor, message: c.Hit) -> None:
        visitor.tell(c.Done(message.call, await self._desk.hit(message.client)))

    async def _everyone(self, visitor: Visitor, call: int) -> None:
        asked = []
        for other in self._visitors - {visitor}:
            answered = asyncio.get_running_loop().create_future()
            other.asked.append(answered)
            asked.append(answered)
            other.tell(c.GiveCounters())
        if asked:
            await asyncio.wait(asked, timeout=_COUNTERS_SECONDS)
        everyone = Samples.sum([self._past, *(each.samples for each in self._visitors)])
        visitor.tell(c.Done(call, everyone))
