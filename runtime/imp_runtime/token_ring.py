"""Tokens as they come back from the device, through the ring in pinned host memory."""

from __future__ import annotations

import time

from imp_runtime.device import DeviceError
from imp_runtime.model_runner import ModelRunner
from imp_runtime.plan import NO_TOKEN, RING

_SPINS = 50
_SLEEP_SECONDS = 50e-6


class TokenRing:
    """Reads the ring of `runner`: token `index` of all sampled since load."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner

    def poll(self, index: int) -> int | None:
        """Token `index`, if it has arrived."""
        entry = int(self._runner.ring[index % RING])
        return entry & 0xFFFFFFFF if entry >> 32 == (index + 1) & 0xFFFFFFFF else None

    def wait(self, index: int) -> int | None:
        """Token `index`, None where its logits were no finite numbers.

        A short spin, then sleeps: the next program is queued already, so a late wake is free.

        Raises DeviceError when the device has nothing to do any more, or for a token that does not exist.
        """
        device = self._runner.device
        for _ in range(_SPINS):
            if (token := self.poll(index)) is not None:
                break
        else:
            while (token := self.poll(index)) is None:
                if not device.busy() and self.poll(index) is None:
                    raise DeviceError(f"{device.name}: a program ended without a token; run imp verify on the artifact")
                time.sleep(_SLEEP_SECONDS)
        if token == NO_TOKEN:
            return None
        if token >= self._runner.plan.vocab:
            raise DeviceError(f"{device.name}: token {token} is outside the vocabulary; run imp verify on the artifact")
        return token
