"""uvicorn's server with an end that its clients understand."""

from __future__ import annotations

import socket

import uvicorn

from imp_server.gateway import Gateway
from imp_server.sd_notify import sd_notify

_AFTER_SECONDS = 1  # for responses that have been cut to reach their clients


class Server(uvicorn.Server):
    """On SIGTERM or SIGINT: accepts no more, gives open requests their time, then ends them with an error."""

    def __init__(self, gateway: Gateway, *, shutdown_seconds: float, trusted_proxies: tuple[str, ...]) -> None:
        super().__init__(
            uvicorn.Config(
                gateway,
                log_config=None,
                access_log=False,
                ws="none",
                proxy_headers=bool(trusted_proxies),
                forwarded_allow_ips=list(trusted_proxies),
                server_header=False,
                timeout_graceful_shutdown=_AFTER_SECONDS,
            )
        )
        self._gateway = gateway
        self._seconds = shutdown_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn when it is to end."""
        sd_notify("STOPPING=1")
        for server in self.servers:
            server.close()
        await self._gateway.drain(self._seconds)
        await super().shutdown(sockets)
