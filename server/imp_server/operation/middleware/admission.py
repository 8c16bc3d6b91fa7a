"""How many requests run and how many wait, once all of a request has come."""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from imp_server.api.refusal import refusal
from imp_server.errors import ApiError
from imp_server.operation.middleware.body import Bodies

# What asks the model for tokens; everything else is quick and neither counted nor held back.
GENERATING = frozenset(
    f"{prefix}/{name}"
    for prefix in ("", "/v1")
    for name in ("chat/completions", "completions", "completion", "responses", "messages", "embeddings", "infill")
)


class Admission:
    """Lets `concurrent` requests that generate run at once and `queue` more wait; the next gets 429.

    Only who has sent all of a request is counted. A waiting client that leaves gives up its place.
    """

    def __init__(self, app: ASGIApp, bodies: Bodies, *, concurrent: int, queue: int) -> None:
        self._app = app
        self._bodies = bodies
        self._concurrent = concurrent
        self._queue = queue
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
        try:
            async with self._bodies.whole(scope, receive) as listen:
                await self._admit(scope, receive, listen, send)
        except ApiError as error:
            await refusal(scope, error)(scope, receive, send)
        except ClientDisconnect:
            pass

    async def _admit(self, scope: Scope, client: Receive, receive: Receive, send: Send) -> None:
        """Let a request in by `receive`, which has its body, when it is its turn; `client` tells when it leaves."""
        if scope["path"] not in GENERATING:
            await self._app(scope, receive, send)
        elif self._running < self._concurrent:
            self._running += 1
            await self._run(scope, receive, send)
        elif len(self._waiting) >= self._queue:
            message = f"{self._running} requests run and {len(self._waiting)} wait, the most here; try again later"
            raise ApiError(message, status=429, kind="rate_limit_error", code="rate_limit_exceeded")
        elif await self._turn(client):
            await self._run(scope, receive, send)

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

    async def _turn(self, client: Receive) -> bool:
        """Wait for a place; False when the client has left instead."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        leaving = asyncio.ensure_future(client())  # all of the request is here: nothing else can come
        try:
            await asyncio.wait((turn, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not leaving.done():
                await turn
                return True
        except BaseException:
            self._withdraw(turn)
            raise
        finally:
            leaving.cancel()
            await asyncio.wait((leaving,))
        self._withdraw(turn)
        return False

    def _withdraw(self, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():
            self._leave()  # the place came at the same moment
        else:
            turn.cancel()
            if turn in self._waiting:
                self._waiting.remove(turn)
