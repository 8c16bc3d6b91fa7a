"""A socket of the event loop that carries messages."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from imp_server.engine.messages import Frames, FromEngine, ToEngine, frame


class Connection(asyncio.Protocol):
    """Tells `heard` what comes, and `gone` once when the other end has ended; not if it was closed here."""

    def __init__(self, heard: Callable[[FromEngine], None], gone: Callable[[], None]) -> None:
        self._heard = heard
        self._gone = gone
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None
        self._closed = False

    async def begin(self, connection: socket.socket) -> None:
        """Read what comes from now on."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=connection)

    def send(self, message: ToEngine) -> None:
        """Send it; it is lost where the other end has ended."""
        if self._transport is not None:
            self._transport.write(frame(message))

    def close(self) -> None:
        """Send what is left, and end."""
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is the loop's."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        if self._closed:
            transport.close()

    def data_received(self, data: bytes) -> None:
        """Some bytes have come."""
        for message in self._frames.push(data):
            self._heard(message)  # type: ignore[arg-type]  # who is at the other end says nothing else

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end has ended, or this one."""
        self._transport = None
        if not self._closed:
            self._closed = True
            self._gone()
