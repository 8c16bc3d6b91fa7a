"""Numbers and tables for people."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from imp_runtime.text import visible


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: int = 1) -> Table:
    """A table whose columns from number `right` on are numbers, set flush right."""
    grid = Table(
        title=visible(title) or None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_header=any(columns),
    )
    for i, column in enumerate(columns):
        grid.add_column(column, justify="right" if i >= right else "left", no_wrap=i == 0 or i >= right)
    for row in rows:
        grid.add_row(*map(visible, row))
    return grid


def show(*tables: Table) -> None:
    """Print tables to stdout; where it is no terminal, as wide as they need."""
    console = Console(markup=False, highlight=False)
    if console.is_terminal:
        console.print(*tables, sep="\n")
        return
    wide = Console(markup=False, highlight=False, width=10_000, file=io.StringIO())
    with wide.capture() as capture:
        wide.print(*tables, sep="\n")
    for line in capture.get().splitlines():
        print(line.rstrip())


def quantity(value: float, unit: str) -> str:
    """Three digits with a decimal prefix: 1234567 "B" -> "1.23 MB"."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(value) < 999.5 or prefix == "T":
            digits = f"{value:.0f}" if prefix == "" and value == int(value) else f"{value:.3g}"
            return f"{digits} {prefix}{unit}"
        value /= 1000
    raise AssertionError("unreachable")
