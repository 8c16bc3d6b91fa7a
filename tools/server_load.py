"""Measures what the HTTP server adds to the engine, with an engine that answers at once. Loopback only, a few seconds.

    python tools/server_load.py

Throughput: streamed tokens per second over 32 connections. Latency: from the engine's step to the client's socket, per
token, with 8 connections at 100 tokens per second each.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import numpy.typing as npt
import uvicorn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fake_engine import FakeEngine, Output, encode, write_tiny_artifact
from hosted import HostedEngine
from imp_server.api.app import create_app
from imp_server.api.http import listen
from imp_server.model import Model

CONTEXT = 8192
MOST_TOKENS = 4096
MOST_STREAMS = 64
REPLY = encode("word and another one, then ") * 1000


class TimedEngine(FakeEngine):
    """Paces its steps and writes down when each token of each sequence was made."""

    def __init__(self, path: Path, times: npt.NDArray[np.float64], period: float) -> None:
        super().__init__(write_tiny_artifact(path, context=CONTEXT, table_blocks=CONTEXT // 16), lambda _: REPLY)
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
            self._times[output.sequence.prompt[0], len(output.sequence.generated) - 1] = now
        return outputs


def serve(name: str, period: float, ready: multiprocessing.Queue[int]) -> None:
    memory = SharedMemory(name)
    times = np.ndarray((MOST_STREAMS, MOST_TOKENS), np.float64, memory.buf)
    with tempfile.TemporaryDirectory() as folder:
        engine = TimedEngine(Path(folder) / "tiny.impc", times, period)
        app = create_app(HostedEngine(lambda: Model(engine)))  # type: ignore[arg-type]  # the engine's twin
        with listen("127.0.0.1", 0) as listener:
            ready.put(listener.getsockname()[1])
            uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])


async def stream(port: int, number: int, tokens: int) -> list[float]:
    """When each token of one stream arrived."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"prompt": [number], "max_tokens": tokens, "stream": True, "ignore_eos": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    writer.write(head + body)
    arrived: list[float] = []
    rest = b""
    while b"[DONE]" not in rest:
        piece = await reader.read(1 << 16)
        if not piece:
            break
        now = time.monotonic()
        text = rest + piece
        arrived += [now] * text.count(b'"finish_reason":null')
        rest = text[text.rfind(b"\n\n") :]
    writer.close()
    return arrived


async def load(port: int, streams: int, tokens: int) -> tuple[float, list[list[float]]]:
    began = time.monotonic()
    found = await asyncio.gather(*(stream(port, number, tokens) for number in range(streams)))
    return time.monotonic() - began, found


def measure(streams: int, tokens: int, period: float) -> tuple[float, npt.NDArray[np.float64]]:
    """Tokens per second, and the latency of every token in seconds."""
    memory = SharedMemory(create=True, size=MOST_STREAMS * MOST_TOKENS * 8)
    ready: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(memory.name, period, ready))
    server.start()
    try:
        port = ready.get(timeout=30)
        asyncio.run(load(port, 1, 8))  # warm
        seconds, found = asyncio.run(load(port, streams, tokens))
        times: npt.NDArray[np.float64] = np.ndarray((MOST_STREAMS, MOST_TOKENS), np.float64, memory.buf)
        assert all(len(arrived) == tokens for arrived in found), [len(arrived) for arrived in found]
        late = [np.array(arrived) - times[number, :tokens] for number, arrived in enumerate(found)]
        return streams * tokens / seconds, np.concatenate(late)
    finally:
        server.terminate()
        server.join()
        memory.close()
        memory.unlink()


def main(arguments: Sequence[str]) -> None:
    speed, _ = measure(32, 1000, 0.0)
    print(f"32 connections: {speed:,.0f} tokens/s")
    _, late = measure(8, 300, 0.01)
    p50, p99 = np.percentile(late, (50, 99)) * 1000
    print(f"8 connections at 100 tokens/s each: added latency p50 {p50:.2f} ms, p99 {p99:.2f} ms")


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main(sys.argv[1:])
