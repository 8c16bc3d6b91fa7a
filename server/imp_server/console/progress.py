"""Progress of long steps: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Report(Protocol):
    """What long work is given: it calls `report(step, done, total)`; numbers are of the step's own unit."""

    def __call__(self, step: str, done: int, total: int, /) -> None:
        """Say that `done` of `total` units of `step` are done."""


@contextmanager
def progress(*, transient: bool = False) -> Iterator[Report]:
    """A Report that shows on stderr. `transient` bars vanish at the end, and plain lines are not written at all."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=transient) as bars:
            yield _bars(bars)
    elif transient:
        yield lambda step, done, total: None
    else:
        yield _lines(console)


def _bars(bars: Progress) -> Report:
    tasks: dict[str, TaskID] = {}

    def report(step: str, done: int, total: int, /) -> None:
        if step not in tasks:
            tasks[step] = bars.add_task(step, total=total)
        bars.update(tasks[step], completed=done, total=total)

    return report


def _lines(console: Console) -> Report:
    """One line when a step begins and one when it is complete."""
    began: dict[str, float] = {}
    complete: set[str] = set()

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    def report(step: str, done: int, total: int, /) -> None:
        now = time.monotonic()
        if step not in began:
            began[step] = now
            say(f"{step} ...")
        if done >= total and step not in complete:
            complete.add(step)
            say(f"{step} done, {now - began[step]:.1f} s")

    return report
