"""The version of imp, and which versions read what this one writes; part of every artifact."""

from __future__ import annotations

import re

VERSION = "0.1.0"
READ_BY = ">=0.1.0,<0.2.0"
"""As pip writes it: from the first version that knows this plan and container, up to the first that may not."""

_RANGE = re.compile(r">=(\d{1,6}\.\d{1,6}\.\d{1,6}),<(\d{1,6}\.\d{1,6}\.\d{1,6})", re.ASCII)


def misfit(read_by: str, version: str = VERSION) -> str | None:
    """Why `version` does not read what only versions in `read_by` do, and what to install; None where it does.

    Raises ValueError where `read_by` is no range.
    """
    match = _RANGE.fullmatch(read_by)
    if match is None:
        raise ValueError(f"{read_by!r:.80} is not a range of versions like {READ_BY!r}")
    first, end = match.groups()
    if _numbers(first) <= _numbers(version) < _numbers(end):
        return None
    which = f"imp {first} or newer" if _numbers(version) < _numbers(first) else f"imp older than {end}"
    return f"needs {which}, this is {version}; install imp{read_by}, or compile the model again with this one"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
