"""The parent: starts the engine's process and the workers, links them, and starts again what ends by itself.

It has no other work, so that nothing in it fails. A child learns from the end of its socket that the parent is gone.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Literal, cast

from imp_runtime.errors import ImpError
from imp_server.operation.config import Config
from imp_server.operation.sd_notify import sd_notify
from imp_server.processes.control import (
    LONGEST,
    Attach,
    Beat,
    Begin,
    Ended,
    Loaded,
    Lost,
    Stop,
    ToChild,
    ToParent,
    send,
    unpack,
)
from imp_server.processes.desk import ParentDesk

log = logging.getLogger("imp")
_ENGINE = "engine"  # what messages call it
_WORKER_SECONDS = 2.0  # beyond what open requests get, for the end of a worker
_ENGINE_SECONDS = 3.0  # for that of the engine
_TICK_SECONDS = 1.0
_FIRST_TICKS = 60  # by which a child's first word may come later: Python reads all modules from a disk that may be slow
_STEADY_SECONDS = 30.0  # what has run as long is started again at once
_LONGEST_WAIT = 30.0


class Child:
    """A process of the parent's, with the socket on which they speak."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self.process = process
        self._control = control
        self._silent = -_FIRST_TICKS  # ticks of the parent since it has said something
        self._why = ""  # it was killed

    @staticmethod
    async def start(kind: Literal["engine", "worker"], begin: Begin, descriptors: Sequence[int]) -> Child:
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
        child.send(begin, descriptors)
        return child

    def send(self, message: ToChild, descriptors: Sequence[int] = ()) -> None:
        """Tell the child something. One that has not read what it was told before hangs, and is killed."""
        try:
            send(self._control, message, descriptors)
        except BlockingIOError:
            self._give_up("did not read what it was told")

    async def messages(self) -> AsyncIterator[ToParent]:
        """What the child says, until it has ended."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self._control, LONGEST)
            except (
                ConnectionError
            ):  # it ended before it had read all that it was told; what it has said comes behind this
                continue
            if not data:
                return
            self._silent = 0
            yield cast(ToParent, unpack(data))

    def tick(self, most: float) -> str:
        """TICK_SECONDS have passed; after `most` seconds of silence the child is killed. Why it is, or nothing.

        Ticks are counted, not time: while the parent itself was stopped, or the machine asleep, nobody was silent.
        """
        self._silent += 1
        if self._why or self._silent * _TICK_SECONDS < most:
            return ""
        return self._give_up(f"gave no sign of life for {most:g} s")

    def _give_up(self, why: str) -> str:
        log.error("process %d %s and is killed", self.process.pid, why)
        self._why = why
        self.process.kill()
        return why

    async def ended(self, why: str) -> str:
        """Why it ended: what it has said itself, or what the system says."""
        status = await self.process.wait()
        self._control.close()
        return why or self._why or (f"signal {-status}" if status < 0 else f"status {status}")

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
    """Serves the `model` in a file: the engine's process, and a worker on each list of `listeners`."""

    def __init__(self, file: Path, model: str, config: Config, listeners: Sequence[Sequence[socket.socket]]) -> None:
        self._model = model
        self._begin = Begin(file, config)
        self._file = file.open("rb")  # so that a child that is started again finds the same
        self._listeners = listeners
        self._desk = ParentDesk(config.limits)
        self._engine: Child | None = None
        self._workers: dict[int, Child] = {}
        self._loaded: set[str] = set()  # children that have been ready once
        self._device = ""  # as the engine calls it
        self._signal = 0
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Serve until a signal comes, and return its number. Raises ImpError when a child cannot begin its work."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self._stop, number)
        tasks = [asyncio.create_task(self._keep(_ENGINE, self._run_engine))]
        for index in range(len(self._listeners)):
            name = "worker" if len(self._listeners) == 1 else f"worker {index + 1}"
            tasks.append(asyncio.create_task(self._keep(name, functools.partial(self._run_worker, index))))
        tasks += [asyncio.create_task(self._until_stopped()), asyncio.create_task(self._watch())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._stopping.set()
            await self._end()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for child in (*self._workers.values(), self._engine):
                if child is not None:
                    child.leave()
            self._file.close()
        return self._signal

    async def _until_stopped(self) -> None:
        await self._stopping.wait()

    async def _watch(self) -> None:
        """Kill who hangs. Of an engine the workers are told at once: a process in a driver's hands may die late."""
        most = self._begin.config.server.hang_seconds
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            workers = list(self._workers.values())
            for worker in workers:
                worker.tick(most)
            if self._engine is not None and (why := self._engine.tick(most)):
                for worker in workers:
                    worker.send(Lost(f"the engine {why} and was ended"))

    def _stop(self, number: int) -> None:
        hurry = self._signal != 0
        self._signal = self._signal or number
        self._stopping.set()
        if hurry:
            for worker in self._workers.values():
                worker.send(Stop(hurry=True))

    async def _end(self) -> None:
        """The workers first, so that open requests can go on in their time; then the engine."""
        sd_notify("STOPPING=1")
        workers = list(self._workers.values())
        for worker in workers:
            worker.send(Stop(hurry=False))
        seconds = self._begin.config.server.shutdown_seconds + _WORKER_SECONDS
        await asyncio.gather(*(worker.end(seconds) for worker in workers))
        if self._engine is not None:
            self._engine.leave()
            await self._engine.end(_ENGINE_SECONDS)

    async def _keep(self, name: str, run: Callable[[str], Coroutine[None, None, str]]) -> None:
        """Start a child, and again whenever it has ended; the longer it waits, the more often that was."""
        loop = asyncio.get_running_loop()
        wait = 0.0
        while not self._stopping.is_set():
            began = loop.time()
            why = await run(name)
            if self._stopping.is_set():
                return
            if name not in self._loaded:
                raise ImpError(why)
            wait = 0.0 if loop.time() - began > _STEADY_SECONDS else min(2 * wait + 1, _LONGEST_WAIT)
            log.error("the %s has ended (%s) and is started again", name, why)
            await asyncio.sleep(wait)

    async def _run_engine(self, name: str) -> str:
        """An engine from its beginning to its end; why it ended."""
        self._engine = engine = await Child.start("engine", self._begin, [self._file.fileno()])
        for worker in self._workers.values():
            _link(worker, engine)
        why = ""
        async for message in engine.messages():
            match message:
                case Loaded():
                    self._device = message.device
                    self._is_loaded(name)
                case Ended():
                    why = message.why
        why = await engine.ended(why)
        self._engine = None
        return why

    async def _run_worker(self, index: int, name: str) -> str:
        """A worker from its beginning to its end; why it ended."""
        descriptors = [self._file.fileno(), *(each.fileno() for each in self._listeners[index])]
        self._workers[index] = worker = await Child.start("worker", self._begin, descriptors)
        if self._engine is not None:
            _link(worker, self._engine)
        visitor = self._desk.come(worker.send)
        why = ""
        async for message in worker.messages():
            match message:
                case Loaded():
                    self._is_loaded(name)
                case Ended():
                    why = message.why
                case Beat():
                    pass
                case _:
                    self._desk.heard(visitor, message)
        self._desk.gone(visitor)
        why = await worker.ended(why)
        del self._workers[index]
        return why

    def _is_loaded(self, name: str) -> None:
        """Say that it is ready once everybody is, and again when the engine has been started again."""
        first = name not in self._loaded
        self._loaded.add(name)
        if len(self._loaded) < 1 + len(self._listeners):
            return
        if first:
            sd_notify("READY=1")
        if first or name == _ENGINE:
            log.info("ready: %s on %s", self._model, self._device)


def _link(worker: Child, engine: Child) -> None:
    one, other = socket.socketpair()
    with one, other:
        worker.send(Attach(), [one.fileno()])
        engine.send(Attach(), [other.fileno()])
