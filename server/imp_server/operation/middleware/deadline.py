"""Ends requests that take too long, and at shutdown those that are still open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imp_server.api.refusal import error_event, refusal
from imp_server.errors import ApiError

_CLOSING = ApiError("the server is shutting down", status=503, kind="server_error", code="shutting_down")


class Deadline:
    """Gives every request `seconds` (None: all it wants). Too late for a status a stream ends with an error event."""

    def __init__(self, app: ASGIApp, seconds: float | None) -> None:
        self._app = app
        self._seconds = seconds
        self._closing = False
        self._open: set[asyncio.Future[ApiError]] = set()

    async def drain(self, due: Callable[[], bool]) -> None:
        """Take no more requests; those that are open may end by themselves, until it is `due` to end them."""
        self._closing = True
        while self._open and not due():
            await asyncio.sleep(0.02)
        for cut in self._open:
            if not cut.done():
                cut.set_result(_CLOSING)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._closing:
            await refusal(scope, _CLOSING)(scope, receive, send)
        else:
            await self._limited(scope, receive, send)

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = _Watched(send)
        cut: asyncio.Future[ApiError] = asyncio.get_running_loop().create_future()
        self._open.add(cut)
        work = asyncio.ensure_future(self._app(scope, receive, response.send))
        try:
            await asyncio.wait((work, cut), timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                return
        finally:
            self._open.discard(cut)
            work.cancel()
            await asyncio.wait((work,))
            if not work.cancelled():
                work.exception()
        await response.cut(cut.result() if cut.done() else self._late(), scope, receive)

    def _late(self) -> ApiError:
        message = f"the request took longer than {self._seconds:g} s"
        return ApiError(message, status=504, kind="timeout_error", code="timeout")


class _Watched:
    """Remembers how far a response has come."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._ended = False

    async def send(self, message: Message) -> None:
        """The ASGI send for the application."""
        if message["type"] == "http.response.start":
            self._start = message
        elif not message.get("more_body"):
            self._ended = True
        await self._send(message)

    async def cut(self, why: ApiError, scope: Scope, receive: Receive) -> None:
        """End the response with an error; one that is no stream breaks off, and so its client sees that it is short."""
        if self._start is None:
            await refusal(scope, why)(scope, receive, self._send)
        elif not self._ended and "text/event-stream" in Headers(raw=self._start["headers"]).get("content-type", ""):
            event = error_event(scope, why)
            await self._send({"type": "http.response.body", "body": event, "more_body": False})
