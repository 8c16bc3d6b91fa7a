"""Measures what clients of a served model wait for: gaps of running streams beside a long prompt, and first tokens.

    python tools/stream_gaps.py http://127.0.0.1:8080 --streams 8,32 --prompt 16000 --cached 8000

The server must answer to any model's name. Prompts are bytes as token ids, so that no tokenizer is measured. For each
number of streams: the gaps between their tokens while nothing else runs, and from the moment a long prompt is sent to
its first token. Then the first token of a prompt that the prefix cache has.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import numpy as np
from load_client import Address

_ALONE_SECONDS = 1.5
_REPEATED = 20


def asked(prompt: Sequence[int], tokens: int) -> bytes:
    """The body of a request for a streamed greedy answer."""
    body = {"model": "any", "prompt": list(prompt), "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    return json.dumps(body | {"stream": True}).encode()


async def stream(at: Address, body: bytes, times: list[float]) -> None:
    """Add to `times` when each event of an answer came. Raises RuntimeError if it is refused."""
    reader, writer = await asyncio.open_connection(*at, limit=1 << 20)
    try:
        writer.write(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head[:20]:
            raise RuntimeError((head + await reader.read(1000)).decode())
        while True:
            piece = await reader.read(1 << 16)
            times += [time.monotonic()] * piece.count(b"data: {")
            if not piece or b"[DONE]" in piece:
                return
    finally:
        writer.close()


def shown(seconds: Iterable[float]) -> str:
    """Percentiles."""
    values = np.array(list(seconds)) * 1000
    p50, p90, p99, most = np.percentile(values, (50, 90, 99, 100))
    return f"p50 {p50:.1f} ms, p90 {p90:.1f}, p99 {p99:.1f}, longest {most:.1f} (of {len(values)})"


def prompt_of(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(33, 127) for _ in range(length)]


async def beside(at: Address, streams: int, prompt: int, rng: random.Random) -> None:
    """Print the gaps of running streams, alone and beside a long prompt."""
    arrived: list[list[float]] = [[] for _ in range(streams)]
    running = [asyncio.create_task(stream(at, asked(prompt_of(rng, 64), 1 << 14), times)) for times in arrived]
    body = asked(prompt_of(rng, prompt), 1)
    await asyncio.sleep(2 * _ALONE_SECONDS)
    began, first = time.monotonic(), list[float]()
    await stream(at, body, first)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    print(f"{streams} streams, then a prompt of {prompt} tokens: its first after {first[0] - began:.3f} s")
    for what, low, high in (("alone", began - _ALONE_SECONDS, began), ("beside", began, first[0])):
        gaps = [end - start for times in arrived for start, end in itertools.pairwise(times) if low < end < high]
        print(f"  gaps {what}: {shown(gaps)}")


async def cached(at: Address, length: int, rng: random.Random) -> None:
    """Print how long the first token of a prompt takes that has run before."""
    body = asked(prompt_of(rng, length), 1)
    taken = []
    for _ in range(1 + _REPEATED):
        began, first = time.monotonic(), list[float]()
        await stream(at, body, first)
        taken.append(first[0] - began)
    print(f"first token of {length} tokens: {taken[0] * 1000:.1f} ms, cached {shown(taken[1:])}")


async def run(given: argparse.Namespace) -> None:
    url = urlsplit(given.server)
    at = url.hostname or "", url.port or 80
    rng = random.Random(1)
    await stream(at, asked(prompt_of(rng, given.cached), 16), [])  # warm
    for streams in given.streams.split(","):
        await beside(at, int(streams), given.prompt, rng)
    await cached(at, given.cached, rng)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="stream_gaps.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("server", metavar="URL")
    parser.add_argument("--streams", default="8,32", metavar="N,...")
    parser.add_argument("--prompt", type=int, default=16000, metavar="TOKENS")
    parser.add_argument("--cached", type=int, default=8000, metavar="TOKENS")
    asyncio.run(run(parser.parse_args(arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
