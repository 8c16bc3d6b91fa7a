"""Packets between the parent and its children: long ones, and what becomes of a child that reads none."""

from __future__ import annotations

import asyncio
import socket
from unittest.mock import Mock

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from imp_server.operation.samples import Samples
from imp_server.processes.control import LONGEST, Beat, Counters, Loaded, Stop, beat, receive, send
from imp_server.processes.supervisor import Child


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def busy_counters() -> Counters:
    """Of a server that has answered on many routes in many ways."""
    registry = CollectorRegistry()
    requests = Counter("requests", "Requests", ("method", "route", "status"), registry=registry)
    seconds = Histogram("seconds", "Time", ("route",), registry=registry)
    for route in range(400):
        seconds.labels(f"/v1/some/route/{route}").observe(0.1 * route)
        for status in range(400, 410):
            requests.labels("POST", f"/v1/some/route/{route}", str(status)).inc(route)
    return Counters(Samples.of(registry))


def test_counters_of_many_routes_fit() -> None:
    sent = busy_counters()
    assert len(repr(sent)) > 5 * LONGEST
    ours, theirs = pair()
    with ours, theirs:
        send(ours, sent)
        received = receive(theirs)
    assert received is not None
    message, descriptors = received
    assert isinstance(message, Counters)
    assert message.own.families == sent.own.families
    assert descriptors == []


def test_a_message_to_nobody_is_lost() -> None:
    ours, theirs = pair()
    with ours:
        theirs.close()
        send(ours, Stop(hurry=False))
        assert receive(ours) is None
    send(ours, Stop(hurry=False))  # closed


def test_a_child_that_reads_nothing_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = pair()
    ours.setblocking(False)
    process = Mock(spec=asyncio.subprocess.Process, pid=4711)
    with ours, theirs:
        child = Child(process, ours)
        for _ in range(100_000):
            child.send(Stop(hurry=False))
            if process.kill.called:
                break
        process.kill.assert_called_once_with()
    assert "process 4711 did not read what it was told and is killed" in caplog.text


def test_a_child_that_has_not_read_all_has_ended_like_any_other() -> None:
    async def heard() -> list[object]:
        ours, theirs = pair()
        ours.setblocking(False)
        child = Child(Mock(spec=asyncio.subprocess.Process), ours)
        with ours:
            child.send(Stop(hurry=False))
            send(theirs, Loaded())
            theirs.close()
            return [message async for message in child.messages()]

    assert asyncio.run(heard()) == [Loaded()]


def test_a_beat_waits_for_no_parent() -> None:
    """One that is stopped reads nothing, for as long as it likes."""
    ours, theirs = pair()
    with ours, theirs:
        for _ in range(10_000):
            beat(theirs)
        assert receive(ours) == (Beat(), [])


def test_a_parent_that_has_not_read_all_is_gone_like_any_other() -> None:
    ours, theirs = pair()
    with theirs:
        send(theirs, Stop(hurry=False))
        ours.close()
        assert receive(theirs) is None
