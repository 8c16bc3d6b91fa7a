"""What a model says, on its way to stdout."""

from __future__ import annotations

import sys

from imp_runtime.text import visible


def say(piece: str) -> None:
    """Print a piece of an answer as it comes; exactly, but a terminal obeys nothing in it beyond lines and tabs."""
    print(visible(piece, keep="\n\t") if sys.stdout.isatty() else piece, end="", flush=True)
