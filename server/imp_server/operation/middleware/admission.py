"""How many requests run and how many wait, once all of a request has come."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from imp_server.api.refusal import refusal
from imp_server.errors import ApiError
from imp_server.operation.desk import Desk
from imp_server.operation.middleware.body import Bodies

# What asks the model for tokens; everything else is quick and neither counted nor held back.
GENERATING = frozenset(
    f"{prefix}/{name}"
    for prefix in ("", "/v1")
    for name in ("chat/completions", "completions", "completion", "responses", "messages", "embeddings", "infill")
)


class Admission:
    """Lets as many requests that generate run at once as the desk has places for; who finds no room to wait gets 429.

    Only who has sent all of a request is counted. A waiting client that leaves gives up its place.
    """

    def __init__(self, app: ASGIApp, bodies: Bodies, desk: Desk) -> None:
        self._app = app
        self._bodies = bodies
        self._desk = desk
        self.waiting = 0  # requests that wait for their turn

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
        elif (place := await self._turn(client)) is not None:
            try:
                await self._app(scope, receive, send)
            finally:
                self._desk.leave(place)

    async def _turn(self, client: Receive) -> int | None:
        """Wait for a place; None when the client has left instead."""
        entering = asyncio.ensure_future(self._desk.enter())
        leaving = asyncio.ensure_future(client())  # all of the request is here: nothing else can come
        self.waiting += 1
        try:
            await asyncio.wait((entering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if entering.done():
                return entering.result()
        except BaseException:
            await self._withdraw(entering)
            raise
        finally:
            self.waiting -= 1
            leaving.cancel()
            await asyncio.wait((leaving,))
        await self._withdraw(entering)
        return None

    async def _withdraw(self, entering: asyncio.Future[int]) -> None:
        """Leave the queue, or the place if that came at the same moment."""
        entering.cancel()
        await asyncio.wait((entering,))
        if not entering.cancelled() and entering.exception() is None:
            self._desk.leave(entering.result())
