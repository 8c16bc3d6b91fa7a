"""One HTTP request of a load test, without a library: what came, when, and whether it is all of an answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from dataclasses import dataclass, field

_EVENT = b"data: "


@dataclass(slots=True)
class Answer:
    """What a server said to a request. `status` is 0 where there was none.

    `times`: when each event of a stream came (time.monotonic). `complete`: the whole of an answer, to its end. `error`:
    what a well-formed error says, alone or as the last event of a stream. `problem`: what went wrong on the way.
    `retry_after`: seconds after which the server wants to be asked again.
    """

    began: float = field(default_factory=time.monotonic)
    status: int = 0
    body: bytes = b""
    times: list[float] = field(default_factory=list)
    aborted: bool = False
    complete: bool = False
    error: str | None = None
    problem: str | None = None
    retry_after: float = 0.0


Address = tuple[str, int]  # host, port


async def ask(
    server: Address,
    method: str,
    path: str,
    body: bytes | None,
    *,
    timeout: float,
    leaves: int | None = None,
    ends: re.Pattern[bytes] | None = None,
) -> Answer:
    """Send a request to a server and take its answer.

    `leaves`: go away after so many pieces of a stream, if it has as many; else after so many hundredths of a second.
    `ends` is found in the last event of a stream that is complete; None: the answer is no stream.
    """
    answer = Answer()
    try:
        async with asyncio.timeout(timeout):
            exchange = _exchange(answer, server, method, path, body or b"", leaves if ends is not None else None)
            if leaves is not None and ends is None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(exchange, leaves / 100)
                    leaves = None
                answer.aborted = leaves is not None
            else:
                await exchange
    except TimeoutError:
        answer.problem = f"no end after {timeout:g} s"
    except (OSError, EOFError, ValueError) as error:
        answer.problem = f"{type(error).__name__}: {error}"
    if not answer.aborted and answer.problem is None:
        _judge(answer, ends)
    return answer


async def _exchange(answer: Answer, server: Address, method: str, path: str, body: bytes, leaves: int | None) -> None:
    reader, writer = await asyncio.open_connection(*server, limit=1 << 20)
    try:
        head = f"{method} {path} HTTP/1.1\r\nHost: {server[0]}:{server[1]}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        answer.status = int(lines[0].split()[1])
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        answer.retry_after = float(headers.get("retry-after", 0))
        pieces: list[bytes] = []
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                piece = (await reader.readexactly(size + 2))[:-2]
                pieces.append(piece)
                answer.times += [time.monotonic()] * piece.count(_EVENT)
                if leaves is not None and len(pieces) >= leaves:
                    answer.aborted = True
                    return
            await reader.readexactly(2)
        else:
            pieces.append(await reader.readexactly(int(headers.get("content-length", "0"))))
        answer.body = b"".join(pieces)
    finally:
        writer.close()


def _judge(answer: Answer, ends: re.Pattern[bytes] | None) -> None:
    if answer.status == 200 and ends is not None:
        events = answer.body.rstrip().rsplit(b"\n\n", 2)
        answer.complete = ends.search(b"\n\n".join(events[-2:])) is not None
        if answer.complete:
            return
        last = events[-1].rpartition(_EVENT)[2]
    else:
        last = answer.body
    try:
        said = json.loads(last or b"null")
    except ValueError:
        answer.problem = "no JSON"
        return
    found = said.get("error") or said.get("response", {}).get("error") if isinstance(said, dict) else None
    if isinstance(found, dict) and isinstance(found.get("message"), str) and found["message"]:
        answer.error = found["message"]
    answer.complete = answer.status == 200 and ends is None and answer.error is None
