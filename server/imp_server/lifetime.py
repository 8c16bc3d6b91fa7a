"""uvicorn's server with an end that its clients understand."""

from __future__ import annotations

import socket

import uvicorn

from imp_server.config import Config
from imp_server.connection import connections
from imp_server.gateway import Gateway
from imp_server.sd_notify import sd_notify

_AFTER_SECONDS = 1  # for responses that have been cut to reach their clients


class Server(uvicorn.Server):
    """On SIGTERM or SIGINT: accepts no more, gives open requests their time, then ends them with an error."""

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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn when it is to end."""
        sd_notify("STOPPING=1")
        for server in self.servers:
            server.close()
        await self._gateway.drain(self._seconds)
        await super().shutdown(sockets)
