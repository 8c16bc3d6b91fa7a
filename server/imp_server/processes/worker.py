"""A worker: speaks HTTP, and has the engine run what is asked of it."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError
from imp_server.api.app import create_app
from imp_server.engine.messages import BEAT_SECONDS
from imp_server.frontend import Frontend
from imp_server.grammar import masks
from imp_server.operation import logs
from imp_server.operation.chat_template import read_template
from imp_server.operation.config import Config
from imp_server.operation.gateway import wrap
from imp_server.operation.lifetime import Server
from imp_server.operation.metrics import Metrics, ObservedEngine
from imp_server.operation.samples import Samples
from imp_server.processes.control import (
    Attach,
    Begin,
    Counters,
    Done,
    Ended,
    GiveCounters,
    Loaded,
    Lost,
    Stop,
    beat,
    child,
    leave,
    receive,
    send,
)
from imp_server.processes.desk import RemoteDesk

if TYPE_CHECKING:
    from imp_runtime.plan import Pooling
    from imp_server.generation.options import Options

log = logging.getLogger("imp")
_LAST_SECONDS = 5.0  # for requests that are open when the parent is gone


def run(control: socket.socket, begin: Begin, listeners: Sequence[socket.socket]) -> None:
    """Serve until the parent says so or is gone."""
    logs.configure(begin.config.log)
    try:
        _Worker(control, begin).serve(listeners)
    except BaseException as error:
        if not isinstance(error, ImpError):
            log.exception("the worker failed")
        send(control, Ended(str(error) if isinstance(error, ImpError) else f"{type(error).__name__}: {error}"))
        leave(1)


class _Worker:
    def __init__(self, control: socket.socket, begin: Begin) -> None:
        self._control = control
        self._file = begin.file
        self._config = config = begin.config
        self._failure: BaseException | None = None
        self._metrics = metrics = Metrics()
        self._desk = RemoteDesk(control)
        limits = config.limits
        self._engine = ObservedEngine(self._load, metrics, limit=limits.concurrent + limits.queue)
        app = create_app(
            self._engine,
            aliases=config.server.alias,
            any_model=config.server.any_model,
            think_budget=config.server.think_budget,
            max_tokens=config.sampling.max_tokens,
            ping_seconds=config.server.ping_seconds,
            most_values=limits.body_values,
            concurrent=limits.concurrent,
            pooling=cast("Pooling | None", config.server.pooling),
        )
        self._server = Server(wrap(app, config, metrics, self._desk), config)

    def serve(self, listeners: Sequence[socket.socket]) -> None:
        """Serve on these sockets."""
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            loop = runner.get_loop()
            threading.Thread(target=self._listen, args=(loop,), name="imp-control", daemon=True).start()
            beating = loop.create_task(self._beat())
            runner.run(self._server.serve(sockets=list(listeners)))
            beating.cancel()
        if self._failure is not None:
            raise self._failure

    async def _beat(self) -> None:
        while True:
            beat(self._control)
            await asyncio.sleep(BEAT_SECONDS)

    def _load(self) -> Frontend:
        try:
            frontend = load_frontend(self._file, self._config)
        except BaseException as error:
            self._failure = error
            self._server.end(hurry=True)
            raise
        send(self._control, Loaded())
        return frontend

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: what the parent says."""
        while (received := receive(self._control)) is not None:
            message, descriptors = received
            if isinstance(message, Attach):
                asyncio.run_coroutine_threadsafe(self._engine.attach(socket.socket(fileno=descriptors[0])), loop)
            elif isinstance(message, Lost):
                loop.call_soon_threadsafe(self._engine.lost, message.why)
            elif isinstance(message, Stop):
                self._server.end(hurry=message.hurry)
            elif isinstance(message, Done):
                loop.call_soon_threadsafe(self._desk.heard, message)
            elif isinstance(message, GiveCounters):
                loop.call_soon_threadsafe(self._give_counters)
        self._server.end(hurry=True)
        threading.Event().wait(_LAST_SECONDS)
        leave(1)

    def _give_counters(self) -> None:
        send(self._control, Counters(Samples.of(self._metrics.registry)))


def load_frontend(file: Path, config: Config) -> Frontend:
    """The model's frontend with the settings that requests over HTTP get where they do not say. Raises ImpError."""
    frontend = Frontend(Artifact.open(file), chat_template=read_template(config.server))
    defaults = {name: value for name, value in asdict(config.sampling).items() if name != "max_tokens"}
    thinks = {"on": True, "off": False}.get(config.server.reasoning)
    frontend.serve_with(cast("Options", defaults), think=thinks)
    masks.prepare(frontend.tokenizer)
    return frontend


if __name__ == "__main__":
    child(run)
