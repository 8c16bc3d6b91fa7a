"""Where the time of a start goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timings:
    """Steps in their order, each with its seconds, as the host waits for them."""

    def __init__(self) -> None:
        self.steps: dict[str, float] = {}
        self._inside = 0.0  # seconds of the steps inside of the one that is timed now

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count the time of the block to a step, but for what other steps inside of it take."""
        began, before, self._inside = time.perf_counter(), self._inside, 0.0
        try:
            yield
        finally:
            spent = time.perf_counter() - began
            self.steps[name] = self.steps.get(name, 0.0) + spent - self._inside
            self._inside = before + spent

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return sum(self.steps.values())
