"""An engine in a host's thread, and a client that is linked to it as a worker is."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from imp_runtime.engine import Engine
from imp_server.engine.client import AsyncEngine
from imp_server.engine.host import EngineHost, Unload


@contextlib.contextmanager
def hosted(
    engine: Engine, unload: Unload | None = None, told: Callable[[], None] = lambda: None
) -> Iterator[socket.socket]:
    """A worker's end of a link to the engine."""
    host = EngineHost(engine, None, unload, told)  # type: ignore[arg-type]  # no grammar is asked for
    thread = threading.Thread(target=host.run)
    thread.start()
    ours, theirs = socket.socketpair()
    host.attach(ours)
    try:
        yield theirs
    finally:
        host.stop()
        thread.join()


async def linked(link: socket.socket) -> AsyncEngine:
    """A client whose engine is ready, with a frontend that does nothing."""
    frontend: Any = SimpleNamespace(runs_on=lambda target, context: None)
    client = AsyncEngine(lambda: frontend)
    client.start()
    await client.attach(link)
    while not client.kv_tokens or client._frontend is None:
        await asyncio.sleep(0.001)
    return client
