"""What is said when something does not build."""

from __future__ import annotations

import re
import signal

from imp_codegen.build.processes import Done
from imp_runtime.errors import ImpError

_ERROR = re.compile(r"\b(error|fatal)\b", re.IGNORECASE)
_MOST_CHARACTERS = 300  # of a compiler's line: template arguments can fill pages


class BuildError(ImpError):
    """A compiler is missing, is no compiler, or rejects the emitted source; or the cache cannot be written."""


def first_error(done: Done) -> str:
    """The line of a compiler's log that a person wants to see first, or what ended a compiler that said nothing."""
    lines = [" ".join(line.split()) for line in done.log.splitlines() if line.strip()]
    line = next((line for line in lines if _ERROR.search(line)), lines[-1] if lines else "")
    if done.status < 0:
        line = f"it was ended by {signal.Signals(-done.status).name}" + (f": {line}" if line else "")
    return line[:_MOST_CHARACTERS] or f"it said nothing and returned {done.status}"
