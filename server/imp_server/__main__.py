"""The process `imp`: what signals do, and what its streams are, from its first moment to its last."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line.

    Ctrl-C before a command begins or after it has ended ends the process on the spot: there is nothing to put away.
    SIGTERM and a closed terminal end a command as an exception does, so that it takes its temporary files and its
    compilers with it. A signal that is ignored stays ignored.
    """
    interrupt = signal.getsignal(signal.SIGINT)
    _unless_ignored(signal.SIGINT, signal.SIG_DFL)
    _open_streams()
    from imp_server.cli import execute

    for number in (signal.SIGTERM, signal.SIGHUP):
        _unless_ignored(number, _terminate)
    _unless_ignored(signal.SIGINT, interrupt)
    try:
        status = execute(sys.argv[1:])
    finally:
        _unless_ignored(signal.SIGINT, signal.SIG_DFL)
    sys.exit(status)


def _unless_ignored(number: signal.Signals, action: Callable[[int, FrameType | None], object] | int | None) -> None:
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, action)


def _terminate(number: int, _: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # one is enough: the next must not interrupt the tidying up
    sys.exit(128 + number)


def _open_streams() -> None:
    """Put /dev/null in the place of streams that the caller has closed, which a file would else take."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115  open to the end


if __name__ == "__main__":
    main()
