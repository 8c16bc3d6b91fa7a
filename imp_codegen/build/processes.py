"""Compilers at work, as many at a time as cores, each with all that it starts in a process group of its own.

The only place of the compiler that starts processes. A terminal's Ctrl-C reaches none of them: they are ended here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

# A signal that comes just before the main thread begins to wait, or to another thread, wakes nobody: Python answers it
# when the main thread next runs.
_PULSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Done:
    """How a process ended: its exit status, or minus the signal's number; what it wrote to both streams."""

    status: int
    log: str


class Processes:
    """Starts processes until it is told to end them all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def run(self, command: Sequence[str | Path], folder: Path, environment: Mapping[str, str]) -> Done:
        """Run one in `folder` to its end. OSError where it cannot be started, CancelledError where all are ended."""
        with self._lock:
            if self._ended:
                raise CancelledError
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
            self._running.add(process)
        assert process.stdout is not None
        with process.stdout as stream:
            said = stream.read()  # to the end also of what the process has started, which holds the stream open too
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:  # no number is killed that is no longer the process's
            self._running.remove(process)
            status = process.wait()
        if self._ended:
            raise CancelledError
        return Done(status, said.decode(errors="replace"))

    def end(self) -> None:
        """Kill what runs, with all that it has started; nothing starts any more."""
        with self._lock:
            self._ended = True
            for process in self._running:
                os.killpg(process.pid, signal.SIGKILL)


def together(
    tasks: Sequence[Callable[[Processes], None]], finished: Callable[[int], None] = lambda count: None
) -> None:
    """Run all tasks; `finished` is told how many have ended. The first error, or an interruption, ends the others."""
    processes, ended = Processes(), 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        try:
            futures = {pool.submit(task, processes) for task in tasks}
            while futures:
                done, futures = wait(futures, _PULSE_S, FIRST_COMPLETED)
                for future in done:
                    future.result()
                    ended += 1
                    finished(ended)
        except BaseException:
            processes.end()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
