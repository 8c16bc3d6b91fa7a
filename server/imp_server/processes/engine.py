"""The engine's process: loads the model and runs it for the workers that the parent links to it."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine
from imp_runtime.errors import ImpError
from imp_server.console.progress import progress
from imp_server.engine.host import EngineHost, Unload
from imp_server.engine.messages import BEAT_SECONDS
from imp_server.generation.tokenizer import Tokenizer
from imp_server.grammar import masks
from imp_server.operation import logs
from imp_server.operation.config import seconds
from imp_server.processes.control import Begin, Ended, Loaded, beat, child, leave, receive, send

log = logging.getLogger("imp")
_CLOSE_SECONDS = 2.0  # in which the device must be given back


def run(control: socket.socket, begin: Begin) -> None:
    """Load, serve, and end with the parent."""
    logs.configure(begin.config.log)
    loaded: Future[EngineHost] = Future()
    threading.Thread(target=_listen, args=(control, loaded), name="imp-control", daemon=True).start()
    try:
        host = _load(begin, lambda: beat(control))
        loaded.set_result(host)
        send(control, Loaded(host.ready.device))
        host.run()
    except BaseException as error:
        if not isinstance(error, ImpError):
            log.exception("the engine failed")
        send(control, Ended(str(error) if isinstance(error, ImpError) else f"{type(error).__name__}: {error}"))
        leave(1)


def _load(begin: Begin, tell: Callable[[], None]) -> EngineHost:
    """The model, loaded; `tell` hears a beat now and then, later too."""
    server = begin.config.server

    def load(beat: Callable[[], None]) -> Engine:
        with progress(transient=True) as shown:

            def report(step: str, done: int, total: int, /) -> None:
                shown(step, done, total)
                beat()

            return Engine.load(
                begin.file,
                target=server.target,
                kv_tokens=server.kv_tokens,
                kv_share=server.kv_share,
                prefix_cache=server.prefix_cache,
                deterministic=server.deterministic,
                check_weights=server.check_weights,
                progress=report,
            )

    with ThreadPoolExecutor(1) as beside:
        preparing = beside.submit(_tokenizer, begin.file)
        unload = None if server.idle_unload is None else Unload(seconds(server.idle_unload), load)
        return EngineHost(load(_seldom(tell)), preparing.result(), unload, tell)


def _seldom(tell: Callable[[], None]) -> Callable[[], None]:
    """What calls `tell` once in BEAT_SECONDS, however often it is called itself."""
    told = 0.0

    def call() -> None:
        nonlocal told
        if (now := time.monotonic()) - told >= BEAT_SECONDS:
            told = now
            tell()

    return call


def _tokenizer(file: Path) -> Tokenizer:
    tokenizer = Tokenizer(Artifact.open(file))
    masks.prepare(tokenizer)
    return tokenizer


def _listen(control: socket.socket, loaded: Future[EngineHost]) -> None:
    """Link workers; when the parent is gone, end, whatever the engine's thread is at."""

    def attach(worker: socket.socket) -> None:
        loaded.add_done_callback(lambda host: host.result().attach(worker))

    while (received := receive(control)) is not None:
        for worker in received[1]:
            attach(socket.socket(fileno=worker))
    if loaded.done():
        loaded.result().stop()
        time.sleep(_CLOSE_SECONDS)
    leave(0)


if __name__ == "__main__":
    child(lambda control, begin, _: run(control, begin))
