"""HTTP mechanics that know no protocol: the socket, disconnects, event streams with keep-alive."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Coroutine
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from imp_runtime.errors import ImpError

T = TypeVar("T")


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening TCP socket; port 0 takes any that is free. Raises ImpError when the address cannot be had.

    Of several that are `shared`, the system gives each its part of the connections.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio switches off Nagle's algorithm on what it accepts; else a token waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        why = f"{host}:{port} cannot be listened on: {error.strerror}"
        raise ImpError(f"{why}; choose another --host or --port") from None
    return listener


async def until_disconnect(receive: Receive, work: Coroutine[None, None, T]) -> T:
    """The result of `work`, which is cancelled when the client goes away; then raises ClientDisconnect.

    The body must have been read. A task of its own listens, so that a client which leaves while nothing is being sent
    (a long prompt, a reply that is not streamed) is noticed at once.
    """
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        await _cancel(listening)
        await _cancel(working)


class EventStream(Response):
    """Sends server-sent events as they come, `ping` after `ping_seconds` of silence, and stops with the client."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], *, ping: bytes, ping_seconds: float) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._events = events
        self._ping = ping
        self._ping_seconds = ping_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI response."""
        with contextlib.suppress(ClientDisconnect):
            await until_disconnect(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()

        async def keep_alive() -> None:
            nonlocal last
            while True:
                await asyncio.sleep(last + self._ping_seconds - loop.time())
                if loop.time() - last >= self._ping_seconds:
                    last = loop.time()
                    await send({"type": "http.response.body", "body": self._ping, "more_body": True})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        pinging = asyncio.create_task(keep_alive())
        try:
            async for body in self._events:
                last = loop.time()
                if body:
                    await send({"type": "http.response.body", "body": body, "more_body": True})
        finally:
            await _cancel(pinging)
            await self._events.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(task: asyncio.Future[T]) -> None:
    """Cancel and wait until its cleanup is done; its result is of no interest any more."""
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()
