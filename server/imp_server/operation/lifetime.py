"""uvicorn's server with an end that its clients understand."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator

import uvicorn

from imp_server.operation.config import Config
from imp_server.operation.connection import connections
from imp_server.operation.gateway import Gateway

_AFTER_SECONDS = 1  # for responses that have been cut to reach their clients


class Server(uvicorn.Server):
    """At its end it accepts no more, gives open requests their time, then ends them with an error."""

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
        self._hurry = False

    def end(self, *, hurry: bool) -> None:
        """Begin to end, from any thread; with `hurry` open requests get no time."""
        self._hurry = self._hurry or hurry
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals are the business of who runs the server."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn when it is to end."""
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        await self._gateway.drain(lambda: self._hurry or loop.time() >= end)
        await super().shutdown(sockets)
