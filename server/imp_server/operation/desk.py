"""What all workers of a server share: places for requests that generate, the rate of each client, and the counters."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import deque
from typing import Protocol

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from imp_server.errors import ApiError
from imp_server.operation.config import LimitsConfig
from imp_server.operation.samples import Samples


class Desk(Protocol):
    """Where a worker asks: here, or in the parent."""

    async def enter(self) -> int:
        """Wait for a place; its number. Raises ApiError: 429 when too many wait already. Cancelled, it takes none."""
        ...

    def leave(self, place: int) -> None:
        """Give a place to the first who waits."""

    async def hit(self, client: str) -> int:
        """Count a request of a client; 0 if it may come in, else in how many seconds it may."""
        ...

    async def everyone(self, own: Samples) -> Samples:
        """The counters of all workers together, those that have ended included; `own` are the caller's."""
        ...


class LocalDesk:
    """The desk itself. All of it belongs to one event loop."""

    def __init__(self, limits: LimitsConfig) -> None:
        self._concurrent = limits.concurrent
        self._queue = limits.queue
        self._running = 0
        self._places = itertools.count()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._rate = parse(limits.rate) if limits.rate is not None else None
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def enter(self) -> int:
        """As Desk has it."""
        place = next(self._places)
        if self._running < self._concurrent:
            self._running += 1
            return place
        if len(self._waiting) >= self._queue:
            message = f"{self._running} requests run and {len(self._waiting)} wait, the most here; try again later"
            raise ApiError(message, status=429, kind="rate_limit_error", code="rate_limit_exceeded")
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.leave(place)  # it came at the same moment
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise
        return place

    def leave(self, place: int) -> None:
        """As Desk has it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._running -= 1

    async def hit(self, client: str) -> int:
        """As Desk has it."""
        if self._rate is None or self._limiter.hit(self._rate, client):
            return 0
        free = self._limiter.get_window_stats(self._rate, client).reset_time
        return max(1, math.ceil(free - time.time()))

    async def everyone(self, own: Samples) -> Samples:
        """As Desk has it: here is nobody else."""
        return own
