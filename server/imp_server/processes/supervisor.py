"""The parent: starts the engine's process and the worker, links them, and starts again what ends by itself.

It has no other work, so that nothing in it fails. A child learns from the end of its socket that the parent is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal

from imp_runtime.errors import ImpError
from imp_server.operation.config import Config
from imp_server.operation.sd_notify import sd_notify
from imp_server.processes.control import Attach, Begin, Ended, Loaded, Stop, ToChild, ToParent, send

log = logging.getLogger("imp")
_LONGEST = 1 << 17  # bytes of a packet
_WORKER_SECONDS = 2.0  # beyond what open requests get, for the end of a worker
_ENGINE_SECONDS = 3.0  # for that of the engine
_STEADY_SECONDS = 30.0  # what has run as long is started again at once
_LONGEST_WAIT = 30.0


class Child:
    """A process of the parent's, with the socket on which they speak."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self.process = process
        self._control = control

    @staticmethod
    async def start(kind: Literal["engine", "worker"], begin: Begin, sockets: Sequence[socket.socket] = ()) -> Child:
        """A new process that runs the module `kind` of this package. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", f"imp_server.processes.{kind}", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(each or str(Path.cwd()) for each in sys.path)},
                process_group=0,  # a terminal's Ctrl-C is for the parent
            )
        ours.setblocking(False)
        child = Child(process, ours)
        child.send(begin, sockets)
        return child

    def send(self, message: ToChild, sockets: Sequence[socket.socket] = ()) -> None:
        """Tell the child something."""
        send(self._control, message, sockets)

    async def messages(self) -> AsyncIterator[ToParent]:
        """What the child says, until it has ended."""
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._control, _LONGEST):
            yield pickle.loads(data)

    def leave(self) -> None:
        """Let the child see that there is no parent any more."""
        self._control.close()

    async def end(self, seconds: float) -> None:
        """Wait until it has ended; after `seconds` it is killed."""
        try:
            await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            log.warning("process %d did not end and is killed", self.process.pid)
            self.process.kill()
            await self.process.wait()


class Supervisor:
    """Serves the `model` in a file on `listeners`."""

    def __init__(self, file: Path, model: str, config: Config, listeners: Sequence[socket.socket]) -> None:
        self._model = model
        self._begin = Begin(file, config)
        self._listeners = listeners
        self._children: dict[str, Child] = {}
        self._loaded: set[str] = set()  # children that have been ready once
        self._signal = 0
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Serve until a signal comes, and return its number. Raises ImpError when a child cannot begin its work."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self._stop, number)
        lives = [asyncio.create_task(self._keep("engine")), asyncio.create_task(self._keep("worker"))]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait([*lives, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._stopping.set()
            await self._end()
            for task in [*lives, stopping]:
                task.cancel()
            await asyncio.wait([*lives, stopping])
        return self._signal

    def _stop(self, number: int) -> None:
        hurry = self._signal != 0
        self._signal = self._signal or number
        self._stopping.set()
        if hurry and (worker := self._children.get("worker")) is not None:
            worker.send(Stop(hurry=True))

    async def _end(self) -> None:
        """The worker first, so that open requests can go on in their time; then the engine."""
        sd_notify("STOPPING=1")
        if (worker := self._children.get("worker")) is not None:
            worker.send(Stop(hurry=False))
            await worker.end(self._begin.config.server.shutdown_seconds + _WORKER_SECONDS)
        if (engine := self._children.get("engine")) is not None:
            engine.leave()
            await engine.end(_ENGINE_SECONDS)

    async def _keep(self, kind: Literal["engine", "worker"]) -> None:
        """Start a child, and again whenever it has ended; the longer it waits, the more often that was."""
        loop = asyncio.get_running_loop()
        wait = 0.0
        while not self._stopping.is_set():
            began = loop.time()
            why = await self._live(kind)
            if self._stopping.is_set():
                return
            if kind not in self._loaded:
                raise ImpError(why)
            wait = 0.0 if loop.time() - began > _STEADY_SECONDS else min(2 * wait + 1, _LONGEST_WAIT)
            log.error("the %s has ended (%s) and is started again", kind, why)
            await asyncio.sleep(wait)

    async def _live(self, kind: Literal["engine", "worker"]) -> str:
        """One child from its beginning to its end; why it ended."""
        child = await Child.start(kind, self._begin, self._listeners if kind == "worker" else ())
        self._children[kind] = child
        self._link()
        why = ""
        async for message in child.messages():
            match message:
                case Loaded():
                    self._is_loaded(kind, message)
                case Ended():
                    why = message.why
        status = await child.process.wait()
        if self._children.get(kind) is child:
            del self._children[kind]
        child.leave()
        return why or (f"signal {-status}" if status < 0 else f"status {status}")

    def _is_loaded(self, kind: str, message: Loaded) -> None:
        if message.device:
            log.info("ready: %s on %s", self._model, message.device)
        complete = len(self._loaded) == 2
        self._loaded.add(kind)
        if len(self._loaded) == 2 and not complete:
            sd_notify("READY=1")

    def _link(self) -> None:
        """Link the worker and the engine, of which one is new."""
        worker, engine = self._children.get("worker"), self._children.get("engine")
        if worker is None or engine is None:
            return
        one, other = socket.socketpair()
        with one, other:
            worker.send(Attach(), [one])
            engine.send(Attach(), [other])
