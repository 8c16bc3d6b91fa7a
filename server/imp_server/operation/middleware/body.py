"""Reads the body of a request before anything else is done for it: who has sent half of one holds no place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from imp_server.errors import ApiError

LEAST_RATE = 16 << 10  # bytes that give a long body a second more
MOST_HELD = 16  # largest bodies: so much do all hold together that the application has not taken yet


class Bodies:
    """Bodies on their way: each of at most `most` bytes, within `seconds` and one more for every LEAST_RATE bytes."""

    def __init__(self, *, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._held = 0

    @asynccontextmanager
    async def whole(self, scope: Scope, receive: Receive) -> AsyncIterator[Receive]:
        """The ASGI receive for the application: first the whole body, which has come by now, then the rest.

        Raises ApiError (408, 413, 503); ClientDisconnect when the client leaves before the end of the body.
        """
        body = bytearray()
        taken = False

        async def listen() -> Message:
            nonlocal taken
            if taken:
                return await receive()
            taken = True
            data = bytes(body)
            self._drop(body)
            return {"type": "http.request", "body": data, "more_body": False}

        try:
            await self._read(body, scope, receive)
            yield listen
        finally:
            self._drop(body)

    async def _read(self, body: bytearray, scope: Scope, receive: Receive) -> None:
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._most:
            raise _too_large(f"the body has {length[:20]} bytes, the most is {self._most}")
        began = asyncio.get_running_loop().time()
        more = True
        while more:
            try:
                async with asyncio.timeout_at(began + self._seconds + len(body) / LEAST_RATE):
                    message = await receive()
            except TimeoutError:
                raise _late() from None
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            data = message.get("body", b"")
            more = message.get("more_body", False)
            body += data
            self._held += len(data)
            if len(body) > self._most:
                raise _too_large(f"the body is larger than {self._most} bytes")
            if self._held > MOST_HELD * self._most:
                raise _full()

    def _drop(self, body: bytearray) -> None:
        self._held -= len(body)
        body.clear()


def _late() -> ApiError:
    return ApiError("the body did not come in time", status=408, kind="timeout_error", code="timeout")


def _full() -> ApiError:
    message = "the server holds as many bytes of requests as it may; try again later"
    return ApiError(message, status=503, kind="server_error", code="overloaded")


def _too_large(what: str) -> ApiError:
    return ApiError(f"{what}; send less", status=413, code="request_too_large")
