"""`imp serve` of the demo model on the simulator, as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from imp_codegen.compiler import CompileOptions, compile_model
from model_checks import quiet

ROOT = Path(__file__).parents[1]


def imp(*arguments: str | Path) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "imp_server", *map(str, arguments)]


def compile_demo(folder: Path) -> Path:
    path = folder / "demo.impc"
    compile_model(ROOT / "models" / "demo.gguf", path, ("sim",), CompileOptions(), quiet)
    return path


class Process:
    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def child(self, kind: str) -> int:
        """The process id of the engine or of the worker."""
        (found,) = self.children(kind)
        return found

    def children(self, kind: str) -> list[int]:
        """The process ids of all children of a kind, "engine" or "worker"."""
        told = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text("ascii").split()
        name = f"imp_server.processes.{kind}".encode()
        commands = {pid: Path(f"/proc/{pid}/cmdline") for pid in told}
        return [int(pid) for pid, command in commands.items() if command.exists() and name in command.read_bytes()]

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[float, int, str]:
        """Seconds until it has ended after the signal, its exit status, and the rest of stderr."""
        began = time.monotonic()
        self.process.send_signal(number)
        _, error = self.process.communicate(timeout=15)
        return time.monotonic() - began, self.process.returncode, error


@contextmanager
def serving(
    model: Path, *arguments: str, environment: dict[str, str] | None = None, through: Sequence[str] = ()
) -> Iterator[Process]:
    """A server that is ready, started by the command `through`; at the end it is gone."""
    command = [*through, *imp("serve", model, "--target", "sim", "--port", "0", *arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | (environment or {}))
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        assert "http://" in line, line + process.stderr.read()
        url = line.split(" at ")[1].split(",")[0].strip().removesuffix("/v1")
        for _ in range(600):
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        yield Process(process, url)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
