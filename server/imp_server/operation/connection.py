"""One client's connection, with an end to everything that it can make the server wait for.

uvicorn itself only limits how long a connection may rest between two requests.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Connection(HttpToolsProtocol):
    """`header_seconds`: from the connection, or the first byte of a further request, to the end of the header.

    As long is left for the rest of a body that nobody reads, since the answer has been given. `send_seconds`: how long
    the client may take nothing of what is sent to it.
    """

    header_seconds: ClassVar[float]
    send_seconds: ClassVar[float]

    _inside: Literal["header", "body"] | None = None  # a request that has begun to come
    _late: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client is there."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._rest()
        self.resume_writing()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._inside = "header"
        if self._late is None:
            self._wait()

    def on_headers_complete(self) -> None:
        """From here on the application says how long it waits for the body."""
        self._inside = "body"
        self._rest()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        self._inside = None
        self._rest()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer has been sent."""
        super().on_response_complete()
        if self._inside == "body" and self.cycle.response_complete and self._late is None:
            self._wait()

    def pause_writing(self) -> None:
        """The client takes less than is sent."""
        super().pause_writing()
        self._stuck = self.loop.call_later(self.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has taken what was sent."""
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        super().resume_writing()

    def _wait(self) -> None:
        self._late = self.loop.call_later(self.header_seconds, self._expire)

    def _rest(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _expire(self) -> None:
        self._late = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait()  # a further request is late, but the one before it is still being answered
        elif not self.transport.is_closing():
            if self._inside == "header":
                self.transport.write(_LATE)
            self.transport.close()


def connections(header_seconds: float, send_seconds: float) -> type[Connection]:
    """The class of a server's connections; times in seconds."""
    return type("Connection", (Connection,), {"header_seconds": header_seconds, "send_seconds": send_seconds})
