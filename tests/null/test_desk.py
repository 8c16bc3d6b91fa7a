"""What several workers share: places, rates and counters; and what is left when one ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from imp_server.errors import ApiError
from imp_server.operation.config import LimitsConfig
from imp_server.operation.samples import Samples
from imp_server.processes import control as c
from imp_server.processes.desk import ParentDesk, RemoteDesk, Visitor


class Shared:
    """A desk and workers that ask there over their sockets, all in one loop."""

    def __init__(self, limits: LimitsConfig) -> None:
        self.desk = ParentDesk(limits)
        self.sockets: list[socket.socket] = []

    def worker(self, own: Samples | None = None) -> tuple[RemoteDesk, Visitor]:
        """A worker, whose counters are `own`, or which says nothing of them."""
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        remote = RemoteDesk(theirs)
        self.sockets += [theirs, ours]

        def tell(message: c.ToChild) -> None:
            if isinstance(message, c.Done):
                remote.heard(message)
            elif own is not None:
                c.send(theirs, c.Counters(own))

        visitor = self.desk.come(tell)

        def heard() -> None:
            received = c.receive(ours)
            assert received is not None
            self.desk.heard(visitor, received[0])  # type: ignore[arg-type]  # the other way round

        asyncio.get_running_loop().add_reader(ours, heard)
        return remote, visitor


@asynccontextmanager
async def shared(**limits: object) -> AsyncIterator[Shared]:
    found = Shared(LimitsConfig(**limits))  # type: ignore[arg-type]
    try:
        yield found
    finally:
        for each in found.sockets:
            asyncio.get_running_loop().remove_reader(each)
            each.close()


async def settle() -> None:
    await asyncio.sleep(0.02)


def test_places_are_counted_over_all_workers() -> None:
    async def run() -> None:
        async with shared(concurrent=2, queue=2) as all_:
            (one, _), (other, _) = all_.worker(), all_.worker()
            first, second = await one.enter(), await other.enter()
            waiting = [asyncio.create_task(each.enter()) for each in (one, other)]
            await settle()
            with pytest.raises(ApiError, match="2 requests run and 2 wait") as caught:
                await other.enter()
            assert caught.value.status == 429
            assert not any(each.done() for each in waiting)
            other.leave(second)
            third = await waiting[0]  # who came first
            await settle()
            assert not waiting[1].done()
            one.leave(first)
            one.leave(third)
            other.leave(await waiting[1])
            assert [await one.enter(), await other.enter()]  # both are free again

    asyncio.run(run())


def test_who_waits_no_more_takes_nothing() -> None:
    async def run() -> None:
        async with shared(concurrent=1, queue=5) as all_:
            (one, _), (other, _) = all_.worker(), all_.worker()
            place = await one.enter()
            leaves, stays = asyncio.create_task(one.enter()), asyncio.create_task(other.enter())
            await settle()
            leaves.cancel()
            await settle()
            one.leave(place)
            other.leave(await asyncio.wait_for(stays, 1))
            for _ in range(20):  # cancelled while the place is on its way, or about to be
                entering = asyncio.create_task(one.enter())
                await asyncio.sleep(0)
                entering.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await entering
            await settle()
            one.leave(await asyncio.wait_for(one.enter(), 1))

    asyncio.run(run())


def test_a_worker_that_ends_leaves_its_places() -> None:
    async def run() -> None:
        async with shared(concurrent=2, queue=5) as all_:
            (one, visitor), (other, _) = all_.worker(), all_.worker()
            await one.enter()
            await one.enter()
            queued = asyncio.create_task(one.enter())
            waiting = [asyncio.create_task(other.enter()) for _ in range(2)]
            await settle()
            all_.desk.gone(visitor)
            for each in waiting:
                other.leave(await asyncio.wait_for(each, 1))
            assert not queued.done()
            queued.cancel()

    asyncio.run(run())


def test_a_rate_is_counted_over_all_workers() -> None:
    async def run() -> None:
        async with shared(rate="2/minute") as all_:
            (one, _), (other, _) = all_.worker(), all_.worker()
            assert [await one.hit("a"), await other.hit("a"), await one.hit("b")] == [0, 0, 0]
            assert 50 <= await other.hit("a") <= 60

    asyncio.run(run())


def counted(requests: int, seconds: float, running: int) -> Samples:
    registry = CollectorRegistry()
    Counter("asked", "Requests", ("path",), registry=registry).labels("/x").inc(requests)
    Histogram("took", "Seconds", buckets=(1.0, 2.0), registry=registry).observe(seconds)
    Gauge("runs", "Now", registry=registry).set(running)
    Gauge("imp_kv_tokens", "As the engine says", registry=registry).set(1000)
    return Samples.of(registry)


def told(samples: Samples) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(samples)
    lines = [line.split(" ") for line in generate_latest(registry).decode().splitlines() if line[0] != "#"]
    return {name: float(value) for name, value in lines if "_created" not in name}


def test_counters_add_up_and_outlast_a_worker() -> None:
    async def run() -> None:
        async with shared() as all_:
            own = counted(3, 0.5, 2)
            (one, _), (_, visitor) = all_.worker(own), all_.worker(counted(4, 1.5, 1))
            both = {
                'asked_total{path="/x"}': 7,
                'took_bucket{le="1.0"}': 1,
                'took_bucket{le="2.0"}': 2,
                'took_bucket{le="+Inf"}': 2,
                "took_count": 2,
                "took_sum": 2,
                "runs": 3,
                "imp_kv_tokens": 1000,
            }
            assert told(await one.everyone(own)) == both
            all_.desk.gone(visitor)
            assert told(await one.everyone(own)) == both | {"runs": 2}
            all_.worker()  # has begun and says nothing yet: nobody waits for it for long
            assert told(await asyncio.wait_for(one.everyone(own), 3)) == both | {"runs": 2}

    asyncio.run(run())
