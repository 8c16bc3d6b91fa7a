"""An engine that serves a client of the same process as the engine's own process would: over a pair of sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable

from imp_runtime.errors import ImpError
from imp_server.engine.client import AsyncEngine
from imp_server.engine.host import EngineHost
from imp_server.model import Model


class HostedEngine(AsyncEngine):
    """Loads a model in a thread, which then runs its engine; ends with the application that it was made for."""

    def __init__(self, load: Callable[[], Model], *, limit: int = 256) -> None:
        super().__init__(self._loaded, limit=limit)
        self._load_model = load
        self._has_loaded = threading.Event()
        self.model: Model | None = None
        self._host: EngineHost | None = None
        self._thread = threading.Thread(target=self._run, args=(), name="engine", daemon=True)

    def start(self) -> None:
        super().start()
        self._event_loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        await super().close()
        if self._host is not None:
            self._host.stop()
        await asyncio.to_thread(self._thread.join, 5)
        assert not self._thread.is_alive()

    def _loaded(self) -> Model:
        self._has_loaded.wait()
        assert self.model is not None
        return self.model

    def _run(self) -> None:
        try:
            self.model = model = self._load_model()
        finally:
            self._has_loaded.set()
        self._host = EngineHost(model.engine, model.tokenizer)
        ours, theirs = socket.socketpair()
        self._host.attach(ours)
        asyncio.run_coroutine_threadsafe(self.attach(theirs), self._event_loop)
        with contextlib.suppress(ImpError):  # which its client knows of
            self._host.run()
