"""The sockets of the engine's process: a thread reads them all; whoever has something to say writes at once."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable

from imp_server.engine.messages import Frames, FromEngine, ToEngine, frame

_PIECE = 1 << 18  # bytes that are read at once


class Link:
    """One worker. A worker that takes nothing keeps nobody waiting: what its socket has no room for is kept here."""

    def __init__(self, connection: socket.socket, wake: Callable[[], None]) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.frames = Frames()
        self._wake = wake
        self._lock = threading.Lock()
        self._unsent = bytearray()

    def send(self, message: FromEngine) -> None:
        """Send it, or as much as goes, and leave the rest to the thread that reads; from any thread."""
        data = frame(message)
        with self._lock:
            if self._unsent:
                self._unsent += data
                return
            rest = self._write(data)
            self._unsent += rest
        if rest:
            self._wake()

    def flush(self) -> bool:
        """Send what is left; whether something still is."""
        with self._lock:
            self._unsent = bytearray(self._write(self._unsent)) if self._unsent else self._unsent
            return bool(self._unsent)

    @property
    def behind(self) -> bool:
        """Whether something is left to be sent."""
        return bool(self._unsent)

    def _write(self, data: bytes | bytearray) -> bytes | bytearray:
        """What of `data` the socket does not take; nothing where it is broken, as whoever reads it will see."""
        try:
            return data[self.connection.send(data) :]
        except BlockingIOError:
            return data
        except OSError:
            return b""


class Links:
    """Tells `heard` what comes over any link, and `gone` when it has ended; both in the thread of `run`."""

    def __init__(self, heard: Callable[[Link, ToEngine], None], gone: Callable[[Link], None]) -> None:
        self._heard = heard
        self._gone = gone
        self._new: deque[Link] = deque()
        self._errands: deque[Callable[[], None]] = deque()
        self._open: list[Link] = []
        self._selector = selectors.DefaultSelector()
        self._bell, self._waker = socket.socketpair()
        for end in (self._bell, self._waker):
            end.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._closing = False

    def add(self, connection: socket.socket) -> Link:
        """A further link; from any thread."""
        link = Link(connection, self._wake)
        self._new.append(link)
        self._wake()
        return link

    def call(self, errand: Callable[[], None]) -> None:
        """Let the thread of `run` do something; from any thread."""
        self._errands.append(errand)
        self._wake()

    def close(self) -> None:
        """Let `run` end, which closes all links; from any thread."""
        self._closing = True
        self._wake()

    def send(self, message: FromEngine) -> None:
        """Tell all; from any thread."""
        for link in list(self._open):
            link.send(message)

    def run(self) -> None:
        """Read until `close`."""
        try:
            while not self._closing:
                self._turn()
        finally:
            for link in [*self._open, *self._new]:
                link.flush()
                link.connection.close()
            self._selector.close()
            self._bell.close()
            self._waker.close()

    def _turn(self) -> None:
        while self._new:
            self._open.append(link := self._new.popleft())
            self._selector.register(link.connection, selectors.EVENT_READ, link)
        while self._errands:
            self._errands.popleft()()
        for link in self._open:
            write = selectors.EVENT_WRITE if link.behind else 0
            self._selector.modify(link.connection, selectors.EVENT_READ | write, link)
        for key, events in self._selector.select():
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    self._bell.recv(_PIECE)
                continue
            if events & selectors.EVENT_WRITE:
                key.data.flush()
            if events & selectors.EVENT_READ:
                self._read(key.data)

    def _read(self, link: Link) -> None:
        try:
            data = link.connection.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(link.connection)
            self._open.remove(link)
            link.connection.close()
            self._gone(link)
            return
        for message in link.frames.push(data):
            self._heard(link, message)  # type: ignore[arg-type]  # who is at the other end says nothing else

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it will wake anyhow; closed: nobody is to be woken
            self._waker.send(b"!")
