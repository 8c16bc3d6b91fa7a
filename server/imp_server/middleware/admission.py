"""How many requests run and how many wait; bodies that are too long are refused before they are read."""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imp_server.middleware.refusal import refusal

# What asks the model for tokens; everything else is quick and neither counted nor held back.
GENERATING = frozenset(
    f"{prefix}/{name}"
    for prefix in ("", "/v1")
    for name in ("chat/completions", "completions", "completion", "responses", "messages", "embeddings", "infill")
)


class Admission:
    """Lets `concurrent` requests that generate run at once and `queue` more wait; the next gets 429.

    A waiting client that leaves gives up its place.
    """

    def __init__(self, app: ASGIApp, *, concurrent: int, queue: int, body_bytes: int) -> None:
        self._app = app
        self._concurrent = concurrent
        self._queue = queue
        self._body_bytes = body_bytes
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._body_bytes:
            message = f"the body has {length[:20]} bytes, the most is {self._body_bytes}; send less"
            await refusal(scope, 413, message, "request_too_large")(scope, receive, send)
        elif scope["path"] not in GENERATING:
            await self._app(scope, receive, send)
        elif self._running < self._concurrent:
            self._running += 1
            await self._run(scope, receive, send)
        elif len(self._waiting) >= self._queue:
            message = f"{self._running} requests run and {len(self._waiting)} wait, the most here; try again later"
            response = refusal(scope, 429, message, "rate_limit_exceeded", {"Retry-After": "1"})
            await response(scope, receive, send)
        else:
            early = _Early(receive, self._body_bytes)
            if await self._turn(early):
                await self._run(scope, early.receive, send)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            self._leave()

    def _leave(self) -> None:
        """Give the place to the first who still waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._running -= 1

    async def _turn(self, early: _Early) -> bool:
        """Wait for a place; False when the client has left instead."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        listening = asyncio.create_task(early.listen())
        try:
            await asyncio.wait((turn, listening), return_when=asyncio.FIRST_COMPLETED)
            if not early.gone:
                await turn
                return True
        except BaseException:
            self._withdraw(turn)
            raise
        finally:
            listening.cancel()
            await asyncio.wait((listening,))
        self._withdraw(turn)
        return False

    def _withdraw(self, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():
            self._leave()  # the place came at the same moment
        else:
            turn.cancel()
            if turn in self._waiting:
                self._waiting.remove(turn)


class _Early:
    """Listens to a client that waits: what it sends meanwhile is kept for the application, at most `most` bytes."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._kept: deque[Message] = deque()
        self.gone = False

    async def listen(self) -> None:
        """Until the client leaves or has sent as much as is kept."""
        size = 0
        while size <= self._most:
            message = await self._receive()
            self._kept.append(message)
            if message["type"] == "http.disconnect":
                self.gone = True
                return
            size += len(message.get("body", b""))

    async def receive(self) -> Message:
        """The ASGI receive for the application."""
        return self._kept.popleft() if self._kept else await self._receive()
