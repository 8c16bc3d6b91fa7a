"""`make load`: many clients ask a server for many things at once, and nothing may be lost.

    python tools/load.py model.impc --seconds 600 --clients 64 --kill
    python tools/load.py http://127.0.0.1:8080 --seconds 60

Clients use all APIs, streamed and not, with prompts and answers of random lengths, samplings and masks of all kinds;
some leave in the middle, some send what is to be refused. With --kill the engine's process is killed halfway. At the
end every request must have had its answer or a clear error, and the server as many free slots and blocks as before.
The exit code is 0 if so, else 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from load_client import Address, Answer, ask
from load_requests import Asked, Limits, random_request

from imp_runtime.errors import ImpError

_START_SECONDS = 600  # for a model to be loaded
_IDLE_SECONDS = 20  # for what has been left to end
_ANSWER_SECONDS = 300  # the longest that an answer may take
_IN_A_ROW = 16  # good answers about its health, of all workers, after which a server is there again
_LOST = "LOST"
_OUTCOMES = ("answered", "aborted", "refused", "too many", "engine ended", _LOST)


@dataclass(slots=True)
class Report:
    """What has happened so far. `faults` are what must not be, with the first request of each kind that had it."""

    began: float = field(default_factory=time.monotonic)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)  # (API, what became of it)
    statuses: Counter[int] = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    events: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    killed: float | None = None
    again: float | None = None  # the engine is there

    def add(self, asked: Asked, answer: Answer) -> None:
        """A request has ended."""
        self.statuses[answer.status] += 1
        outcome = self._outcome(asked, answer)
        self.outcomes[asked.api, outcome] += 1
        self.events += len(answer.times)
        if outcome == "answered" and asked.stream and answer.times:
            self.first.append(answer.times[0] - answer.began)
            self.gaps += np.diff(answer.times).tolist()

    def _outcome(self, asked: Asked, answer: Answer) -> str:
        refused = 400 <= answer.status < 500 and answer.error is not None
        if answer.aborted:
            return "aborted"
        # Who was there when the engine ended, or came before it was there again.
        while_away = self.killed is not None and (self.again is None or answer.began < self.again)
        ended = while_away and answer.error is not None
        if answer.status >= 500 and ended:
            return "engine ended"
        if asked.bad:
            return "refused" if refused else self._fault(asked, answer, "was not refused")
        if answer.complete:
            return "answered"
        if answer.status == 429 and refused:
            return "too many"
        if answer.status == 200 and ended:
            return "engine ended"
        return self._fault(asked, answer, "has no answer" if answer.error is None else "has an error")

    def _fault(self, asked: Asked, answer: Answer, what: str) -> str:
        shown = answer.error or answer.problem or answer.body[-200:].decode(errors="replace")
        how = "streamed" if asked.stream else "whole"
        fault = f"{asked.api} ({how}) {what}: status {answer.status}, {shown}"
        self.faults[fault] += 1
        self.examples.setdefault(fault, asked.shown)
        return _LOST

    def show(self) -> None:
        """Print it: what became of the requests of each API, and how long streams waited."""
        seconds = time.monotonic() - self.began
        print(
            f"{sum(self.statuses.values())} requests in {seconds:.0f} s, {self.events / seconds:,.0f} events a second"
        )
        print("statuses: " + ", ".join(f"{status or 'none'} {n}" for status, n in sorted(self.statuses.items())))
        apis = sorted({api for api, _ in self.outcomes})
        print(f"{'':12}" + "".join(f"{what:>14}" for what in _OUTCOMES))
        for api in apis:
            print(f"{api:12}" + "".join(f"{self.outcomes[api, what]:14}" for what in _OUTCOMES))
        print(f"{'':12}{'p50':>14}{'p90':>14}{'p99':>14}{'longest':>14}")
        for what, values in (("first token", self.first), ("gap", self.gaps)):
            if values:
                times = np.percentile(values, (50, 90, 99, 100)) * 1000
                print(f"{what:12}" + "".join(f"{time:11.1f} ms" for time in times))

    def verdict(self, before: Free, after: Free) -> None:
        """Print what is asked beside what was found."""
        lost = sum(n for (_, what), n in self.outcomes.items() if what == _LOST)
        away = "not killed"
        if self.killed is not None:
            away = "not there again" if self.again is None else f"there again after {self.again - self.killed:.1f} s"
        rows = (
            ("requests with neither answer nor clear error", "0", str(lost)),
            ("free slots", str(before.slots), str(after.slots)),
            ("free blocks of the cache", str(before.blocks), str(after.blocks)),
            ("the engine", "there at the end", away),
        )
        print(f"{'':46}{'asked':>20}{'found':>28}")
        for row in rows:
            print("{:46}{:>20}{:>28}".format(*row))


@dataclass(frozen=True, slots=True)
class Free:
    """What a server has to give, and how much of it is taken."""

    slots: int
    blocks: int


async def state(at: Address) -> tuple[Free, Limits]:
    """Of a server that is ready. Raises ImpError where it does not say."""
    answer = await ask(at, "GET", "/props", None, timeout=60)
    try:
        props = json.loads(answer.body)
        limits = Limits(int(props["default_generation_settings"]["n_ctx"]))
        return Free(int(props["free_slots"]), int(props["free_kv_blocks"])), limits
    except (ValueError, KeyError, TypeError):
        raise ImpError(f"/props answers {answer.status} and does not say what is free: {answer.body[:200]!r}") from None


async def client(at: Address, seed: int, until: float, limits: Limits, aborts: float, report: Report) -> None:
    """Ask for one thing after another until the time is up."""
    rng = random.Random(seed)
    while time.monotonic() < until:
        asked = random_request(rng, limits)
        leaves = rng.randrange(20) if rng.random() < aborts else None
        answer = await ask(at, "POST", asked.path, asked.body, leaves=leaves, timeout=_ANSWER_SECONDS, ends=asked.ends)
        report.add(asked, answer)
        if answer.retry_after:
            await asyncio.sleep(min(answer.retry_after, max(until - time.monotonic(), 0)))


async def kill(pid: int, at: Address, seconds: float, report: Report) -> None:
    """End a process in its middle after a time, and wait until the server has another."""
    await asyncio.sleep(seconds)
    report.killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    gone, healthy, since = False, 0, 0.0
    while time.monotonic() - report.killed < _START_SECONDS:
        asked = time.monotonic()
        if (await ask(at, "GET", "/health", None, timeout=60)).status == 200:
            healthy, since = healthy + 1, since or asked
        else:
            gone, healthy, since = True, 0, 0.0
        if gone and healthy == _IN_A_ROW:
            report.again = since
            return
        await asyncio.sleep(0.02)
    report.faults["the engine was killed and did not come again"] += 1


async def run(at: Address, given: argparse.Namespace, victim: int | None) -> int:
    """Load the server; the exit code."""
    before, limits = await state(at)
    report = Report()
    until = time.monotonic() + given.seconds
    tasks = [
        client(at, given.seed * 1000 + number, until, limits, given.aborts, report) for number in range(given.clients)
    ]
    if victim is not None:
        tasks.append(kill(victim, at, given.seconds / 2, report))
    await asyncio.gather(*tasks)
    report.show()
    deadline = time.monotonic() + _IDLE_SECONDS
    while (after := (await state(at))[0]) != before and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    report.verdict(before, after)
    if after != before:
        report.faults[f"leaked: {before} were free and now {after}"] += 1
    if not any(what == "answered" for _, what in report.outcomes):
        report.faults["nothing was answered"] += 1
    for fault, count in report.faults.items():
        print(f"FAULT: {fault} ({count} times)" + (f"; first {asked}" if (asked := report.examples.get(fault)) else ""))
    return 1 if report.faults else 0


@contextmanager
def server(model: str, arguments: Sequence[str]) -> Iterator[tuple[Address, int]]:
    """A server of an artifact, as a process of its own; its address, and the process id of its engine."""
    command = [sys.executable, "-m", "imp_server", "serve", model, "--port", "0", "--any-model"]
    command += ["--set", "log.level=warning", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr
        try:
            line = said.readline()
            if " at http://" not in line:
                raise ImpError((line + said.read()).strip().splitlines()[-1].removeprefix("imp: error: "))
            rest = threading.Thread(target=lambda: sys.stderr.writelines(said))
            rest.start()
            at = "127.0.0.1", int(line.strip().removesuffix("/v1").rsplit(":", 1)[1])
            asyncio.run(ready(at, process))
            yield at, engine_of(process.pid)
            process.terminate()
            process.wait(30)
            rest.join()
        finally:
            if process.poll() is None:
                process.kill()


async def ready(at: Address, process: subprocess.Popen[str]) -> None:
    """Wait until the model is loaded. Raises ImpError when the server ends instead."""
    for _ in range(_START_SECONDS * 10):
        if (await ask(at, "GET", "/health", None, timeout=60)).status == 200:
            return
        if process.poll() is not None:
            raise ImpError(f"the server ended with {process.returncode}")
        await asyncio.sleep(0.1)
    raise ImpError(f"the model was not loaded in {_START_SECONDS} s")


def engine_of(pid: int) -> int:
    """The process of a server's engine."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split():
        if b"imp_server.processes.engine" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
            return int(child)
    raise ImpError(f"the server {pid} has no process of its engine")


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0, 1 where something is lost or leaked, 2 where it cannot be tried."""
    parser = argparse.ArgumentParser(prog="load.py", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add(
        "server",
        metavar="MODEL.impc|URL",
        help="what to serve, or where a server runs that answers to any model's name",
    )
    add("--seconds", type=float, default=60, metavar="N")
    add("--clients", type=int, default=64, metavar="N")
    add("--aborts", type=float, default=0.05, metavar="P", help="share of the requests that are left in the middle")
    add("--kill", nargs="?", const=0, type=int, metavar="PID", help="kill the engine halfway; its process, at a URL")
    add("--seed", type=int, default=1, metavar="N")
    add("--serve", default="", metavar="FLAGS", help="further flags of imp serve, in one text")
    given = parser.parse_args(arguments)
    if given.seconds <= 0 or given.clients < 1 or not 0 <= given.aborts <= 1:
        parser.error("--seconds and --clients take numbers above 0, --aborts a share from 0 to 1")
    remote = given.server.startswith("http://")
    if remote and given.kill == 0:
        parser.error("--kill needs the engine's process id where the server runs already")
    try:
        if remote:
            url = urlsplit(given.server)
            return asyncio.run(run((url.hostname or "", url.port or 80), given, given.kill))
        with server(given.server, given.serve.split()) as (at, engine):
            return asyncio.run(run(at, given, None if given.kill is None else given.kill or engine))
    except (ImpError, OSError, ValueError) as error:
        print(f"load: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
