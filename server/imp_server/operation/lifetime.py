"""uvicorn's server with an end that its clients understand."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Generator
from types import FrameType

import uvicorn

from imp_server.operation.config import Config
from imp_server.operation.connection import connections
from imp_server.operation.gateway import Gateway
from imp_server.operation.sd_notify import sd_notify

_AFTER_SECONDS = 1  # for responses that have been cut to reach their clients


class Server(uvicorn.Server):
    """On SIGTERM or SIGINT: accepts no more, gives open requests their time, then ends them with an error.

    A second signal leaves them no time. A signal that was ignored when the process began stays ignored: so a shell
    keeps a Ctrl-C from what it runs in the background of a script.
    """

    def __init__(self, gateway: Gateway, config: Config) -> None:
        limits, proxies = config.limits, config.server.trusted_proxies
        super().__init__(
            uvicorn.Config(
                gateway,
                log_config=None,
                access_log=False,
                http=connections(limits.header_seconds, limits.send_seconds),
                ws="none",
                proxy_headers=bool(proxies),
                forwarded_allow_ips=list(proxies),
                server_header=False,
                timeout_graceful_shutdown=_AFTER_SECONDS,
            )
        )
        self._gateway = gateway
        self._seconds = config.server.shutdown_seconds

        self._signal: int | None = None
        self._hurry = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come."""
        self._hurry = self._signal is not None
        self._signal = self._signal or sig
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Hear signals within the block; the first of them then does what it would have done without the block."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heard = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self.handle_exit) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._signal is not None:
            signal.raise_signal(self._signal)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn when it is to end."""
        sd_notify("STOPPING=1")
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        await self._gateway.drain(lambda: self._hurry or loop.time() >= end)
        await super().shutdown(sockets)
