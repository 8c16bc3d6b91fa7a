"""What the parent and a child say to each other: a packet a message, and with it sockets for the child.

The pair of sockets ends with either process, however that ends: so each sees that the other is gone.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, TypeAlias, cast

from imp_server.operation.config import Config
from imp_server.operation.samples import Samples

LONGEST = 1 << 17  # bytes of a packet; Linux lets one have somewhat more
_MOST_DESCRIPTORS = 64


@dataclass(frozen=True, slots=True)
class Begin:
    """To a child, first of all: what to do. With it go the open file, and the sockets on which a worker listens."""

    file: Path
    config: Config


@dataclass(frozen=True, slots=True)
class Attach:
    """To the engine, with a socket: a worker is at its other end. To a worker: the engine is."""


@dataclass(frozen=True, slots=True)
class Lost:
    """To a worker: the engine is given up, for the reason `why`, though the socket to it may have no end yet."""

    why: str


@dataclass(frozen=True, slots=True)
class Stop:
    """To a worker: take no more requests, give those that are open their time, unless there is a `hurry`, and end."""

    hurry: bool


@dataclass(frozen=True, slots=True)
class Done:
    """To a worker: the answer to what it has asked at the desk."""

    call: int
    result: object


@dataclass(frozen=True, slots=True)
class GiveCounters:
    """To a worker: its Counters are wanted."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """To the parent: the model is loaded, as far as this child needs it; the engine's says on which `device`."""

    device: str = ""


@dataclass(frozen=True, slots=True)
class Beat:
    """To the parent, about once in BEAT_SECONDS: the child turns. It is sent by the thread that does the work."""


@dataclass(frozen=True, slots=True)
class Ended:
    """To the parent: why the child cannot go on, for people."""

    why: str


@dataclass(frozen=True, slots=True)
class Enter:
    """To the desk: a place for a request that generates. The answer: None once it is there, or why it cannot be."""

    call: int


@dataclass(frozen=True, slots=True)
class Leave:
    """To the desk: the place that was asked for in `call` is wanted no more, whether it has come yet or not."""

    call: int


@dataclass(frozen=True, slots=True)
class Hit:
    """To the desk: a client has come. The answer: 0, or the seconds until it may come in."""

    call: int
    client: str


@dataclass(frozen=True, slots=True)
class Everyone:
    """To the desk: the counters of all workers are wanted; `own` are those of who asks. The answer: Samples."""

    call: int
    own: Samples


@dataclass(frozen=True, slots=True)
class Counters:
    """To the desk: a worker's counters, as it was asked."""

    own: Samples


ToChild: TypeAlias = Begin | Attach | Lost | Stop | Done | GiveCounters
ToDesk: TypeAlias = Enter | Leave | Hit | Everyone | Counters
ToParent: TypeAlias = Loaded | Beat | Ended | ToDesk


def pack(message: ToChild | ToParent) -> bytes:
    """A packet. Counters are the longest by far, and nine tenths of them are the same names again and again."""
    return zlib.compress(pickle.dumps(message), 1)


def unpack(packet: bytes) -> object:
    """The message in a packet."""
    message: object = pickle.loads(zlib.decompress(packet))
    return message


def send(control: socket.socket, message: ToChild | ToParent, descriptors: Sequence[int] = ()) -> None:
    """Send a message; it is lost where the other end is gone, as whoever reads there will see.

    Raises BlockingIOError where the other end does not read what it is sent, and the socket does not wait.
    """
    if control.fileno() < 0:  # closed
        return
    with contextlib.suppress(ConnectionError):
        socket.send_fds(control, [pack(message)], descriptors)


def beat(control: socket.socket) -> None:
    """Send a Beat, unless the parent has not read those before: it may be stopped, and nobody waits for it."""
    with contextlib.suppress(ConnectionError, BlockingIOError):
        control.send(pack(Beat()), socket.MSG_DONTWAIT)


def receive(control: socket.socket) -> tuple[ToChild, list[int]] | None:
    """The next message from the parent, with its descriptors; None once there is no parent any more."""
    try:
        data, descriptors, _, _ = socket.recv_fds(control, LONGEST, _MOST_DESCRIPTORS)
    except ConnectionError:  # it was killed before it had read all that it was told
        return None
    return (cast(ToChild, unpack(data)), descriptors) if data else None


def child(main: Callable[[socket.socket, Begin, list[socket.socket]], None]) -> NoReturn:
    """Run `main` with the control socket, and what it begins with, as the process that Child.start starts.

    A child ends when its parent says so, or is gone: signals that are sent to all processes of a service, or of a
    terminal, are the parent's business.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    begun = receive(control)
    if begun is not None:
        message, (file, *listeners) = begun
        assert isinstance(message, Begin)
        begin = replace(message, file=_same_file(message.file, file))
        main(control, begin, [socket.socket(fileno=each) for each in listeners])
    sys.exit(0)


def _same_file(path: Path, opened: int) -> Path:
    """The path of the file that the parent has opened, also where another has taken its name, or none has it."""
    with contextlib.suppress(OSError):
        if os.path.samestat(path.stat(), os.fstat(opened)):
            return path
    return Path(f"/proc/self/fd/{opened}")


def leave(status: int) -> NoReturn:
    """End the process on the spot: the system frees what it has, also where a thread waits for a device for ever."""
    sys.stderr.flush()
    os._exit(status)
