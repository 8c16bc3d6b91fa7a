"""A whole server with its layers on a real socket, in a thread: in front of any ASGI application, or of a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from starlette.types import ASGIApp

from imp_server.config import Config, load
from imp_server.gateway import Gateway, wrap
from imp_server.http import listen
from imp_server.lifetime import Server
from imp_server.metrics import Metrics


@dataclass(frozen=True)
class Operated:
    url: str
    http: httpx.Client
    server: Server
    gateway: Gateway
    metrics: Metrics

    def stop(self) -> None:
        """As a signal does."""
        self.server.should_exit = True


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> float:
    """Seconds until `condition` holds; fails when it does not."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.001)
    return time.monotonic() - began


def settings(assignments: Sequence[str]) -> Config:
    return load(None, assignments, environment={"IMP_CONFIG": "", "HOME": "/nonexistent"})[0]


@contextmanager
def operated(app: ASGIApp, *assignments: str, metrics: Metrics | None = None) -> Iterator[Operated]:
    """`app` served with `section.key=value` settings; at the end it has been shut down."""
    config = settings(assignments)
    metrics = metrics or Metrics()
    gateway = wrap(app, config, metrics)
    given = config.server
    server = Server(gateway, shutdown_seconds=given.shutdown_seconds, trusted_proxies=given.trusted_proxies)
    with listen("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_for(lambda: server.started)
            with httpx.Client(base_url=url) as http:
                yield Operated(url, http, server, gateway, metrics)
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()
