"""Measures what the HTTP server adds to the engine, with an engine that answers at once. Loopback only, half a minute.

    python tools/server_load.py --workers 2

The engine, each worker and the clients are processes of their own, as where a model is served. Throughput: streamed
tokens per second over 64 connections, and CPU time a token of the workers and of the engine's process; what has come
while a worker was busy is sent together. Then with an engine that makes its steps at a given rate, so that tokens
come one by one: what is reached, and the latency from the engine's step to the client's socket.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fake_engine import FakeEngine, Output, encode, write_tiny_artifact
from imp_runtime.artifact import Artifact
from imp_server.api.app import create_app
from imp_server.api.http import listen
from imp_server.engine.host import EngineHost
from imp_server.frontend import Frontend
from imp_server.operation.gateway import wrap
from imp_server.operation.lifetime import Server
from imp_server.operation.metrics import Metrics, ObservedEngine
from imp_server.operation.settings import load as load_config

CONTEXT = 8192
MOST_TOKENS = 4096
MOST_STREAMS = 64
REPLY = encode("word and another one, then ") * 1000
TOKEN = re.compile(rb'"text":"[^"]|"content":"[^"]')  # a chunk with a token of REPLY
PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


class TimedEngine(FakeEngine):
    """Paces its steps and writes down when each token of each sequence was made."""

    def __init__(self, artifact: Artifact, times: npt.NDArray[np.float64], period: float) -> None:
        super().__init__(artifact, lambda _: REPLY)
        self._times = times
        self._period = period
        self._next_step = 0.0

    def step(self) -> list[Output]:
        wait = self._next_step - time.monotonic()
        time.sleep(max(wait, 0))
        self._next_step = max(self._next_step, time.monotonic() - self._period) + self._period
        outputs = super().step()
        now = time.monotonic()
        for output in outputs:
            self._times[output.sequence.prompt[0] % MOST_STREAMS, len(output.sequence.generated) - 1] = now
        return outputs


def run_engine(file: Path, memory: str, period: float, links: Sequence[socket.socket]) -> None:
    """The engine's process."""
    shared = SharedMemory(memory)
    times: npt.NDArray[np.float64] = np.ndarray((MOST_STREAMS, MOST_TOKENS), np.float64, shared.buf)
    engine = TimedEngine(Artifact.open(file), times, period)
    host = EngineHost(engine, None)  # type: ignore[arg-type]  # the engine's twin; no grammar is asked for
    for link in links:
        host.attach(link)
    host.run()


def run_worker(file: Path, link: socket.socket, listener: socket.socket) -> None:
    """A worker's process: all of HTTP, as it is served."""
    config, _ = load_config(None, ("log.level=warning",), {})
    metrics = Metrics()
    engine = ObservedEngine(lambda: Frontend(Artifact.open(file)), metrics, limit=MOST_STREAMS)
    server = Server(wrap(create_app(engine), config, metrics), config)
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        loop = runner.get_loop()
        loop.create_task(engine.attach(link))
        runner.run(server.serve(sockets=[listener]))


async def stream(port: int, api: str, number: int, tokens: int) -> list[float]:
    """When each token of one stream arrived."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    asked: dict[str, object] = {"max_tokens": tokens, "stream": True, "ignore_eos": True}
    asked |= {"messages": [{"role": "user", "content": "go on"}]} if api == "chat" else {"prompt": [number]}
    body = json.dumps(asked).encode()
    head = f"POST {PATHS[api]} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    writer.write(head + body)
    arrived: list[float] = []
    whole, rest = b"", b""
    while b"[DONE]" not in whole and (piece := await reader.read(1 << 16)):
        now = time.monotonic()
        whole, _, rest = (rest + piece).rpartition(b"\n\n")  # events that have come to their end
        arrived += [now] * len(TOKEN.findall(whole))
    writer.close()
    return arrived


async def load(port: int, api: str, streams: int, tokens: int) -> tuple[float, list[list[float]]]:
    """Seconds, and when each token of each stream arrived."""
    began = time.monotonic()
    found = await asyncio.gather(*(stream(port, api, number, tokens) for number in range(streams)))
    return time.monotonic() - began, found


@dataclass(frozen=True, slots=True)
class Measured:
    """Tokens per second; the latency of every token in seconds; CPU seconds a token of the workers and the engine."""

    speed: float
    late: npt.NDArray[np.float64]
    workers: float
    engine: float


def measure(workers: int, api: str, streams: int, tokens: int, period: float) -> Measured:
    """Start all processes, stream, and end them. Latencies are those of completions, whose prompts have numbers."""
    memory = SharedMemory(create=True, size=MOST_STREAMS * MOST_TOKENS * 8)
    pairs = [socket.socketpair() for _ in range(workers)]
    with tempfile.TemporaryDirectory() as folder, listen("127.0.0.1", 0) as listener:
        file = Path(folder) / "tiny.impc"
        write_tiny_artifact(file, context=CONTEXT, table_blocks=CONTEXT // 16, slots=MOST_STREAMS)
        args = (file, memory.name, period, [ours for ours, _ in pairs])
        engine = multiprocessing.Process(target=run_engine, args=args)
        served = [multiprocessing.Process(target=run_worker, args=(file, link, listener)) for _, link in pairs]
        for process in (engine, *served):
            process.start()
        port = listener.getsockname()[1]
        try:
            while not all(asyncio.run(answers(port)) for _ in range(4 * workers)):
                time.sleep(0.1)
            asyncio.run(load(port, api, 2 * workers, 8))  # warm
            before = [cpu_seconds(process.pid) for process in (engine, *served)]
            seconds, found = asyncio.run(load(port, api, streams, tokens))
            spent = [cpu_seconds(process.pid) - was for process, was in zip((engine, *served), before, strict=True)]
            assert all(len(arrived) == tokens for arrived in found), [len(arrived) for arrived in found]
            times: npt.NDArray[np.float64] = np.ndarray((MOST_STREAMS, MOST_TOKENS), np.float64, memory.buf)
            late = [np.array(arrived) - times[number, :tokens] for number, arrived in enumerate(found)]
            count = streams * tokens
            return Measured(count / seconds, np.concatenate(late), sum(spent[1:]) / count, spent[0] / count)
        finally:
            for process in (engine, *served):
                process.terminate()
                process.join()
            memory.close()
            memory.unlink()


async def answers(port: int) -> bool:
    """Whether the worker that takes the connection has an engine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return b" 200 " in answer[:20]


def cpu_seconds(pid: int | None) -> float:
    """Of all threads of a process: fields 14 and 15 of proc(5)'s stat, in ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="server_load.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=1, metavar="N")
    workers = parser.parse_args(arguments).workers
    for api in PATHS:
        found = measure(workers, api, MOST_STREAMS, 2000, 0.0)
        print(
            f"{MOST_STREAMS} connections, {api}: {found.speed:,.0f} tokens/s; "
            f"CPU a token: workers {found.workers * 1e6:.1f} us, engine {found.engine * 1e6:.1f} us"
        )
    for streams, rate in ((8, 100), (MOST_STREAMS, 300), (MOST_STREAMS, 500)):
        found = measure(workers, "completions", streams, 3 * rate, 1 / rate)
        p50, p99 = np.percentile(found.late, (50, 99)) * 1000
        print(
            f"{streams} connections, {rate} steps/s: {found.speed:,.0f} tokens/s; added latency p50 {p50:.2f} ms, "
            f"p99 {p99:.2f} ms; CPU a token: workers {found.workers * 1e6:.1f} us, engine {found.engine * 1e6:.1f} us"
        )


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main(sys.argv[1:])
