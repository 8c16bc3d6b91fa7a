"""How the next token is chosen, as the user asks for it and as the kernels read it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imp_runtime.errors import ImpError
from imp_runtime.plan import SAMPLING_DTYPE


class SamplingError(ImpError):
    """A sampling parameter has a value that makes no sense."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Parameters of one request. The defaults choose greedily and stop at a stop token or after 256 tokens.

    `temperature` 0 is greedy; `top_k` 0, `top_p` 1, `min_p` 0, `repetition_penalty` 1 and the other penalties at 0 are
    off. `seed` None draws a new one for every request. `ignore_eos` goes on after a stop token. Raises SamplingError.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    max_tokens: int = 256
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        for field, value, low, high in (
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, 0.01, 100.0),
            ("frequency_penalty", self.frequency_penalty, -2.0, 2.0),
            ("presence_penalty", self.presence_penalty, -2.0, 2.0),
        ):
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not low <= value <= high:
                raise SamplingError(f"{field} is {value!r:.40}, expected a number from {low:g} to {high:g}")
        for field, whole, least, most in (
            ("top_k", self.top_k, 0, 2**31 - 1),
            ("max_tokens", self.max_tokens, 1, 2**31 - 1),
            ("seed", self.seed if self.seed is not None else 0, -(2**63), 2**64 - 1),
        ):
            if type(whole) is not int or not least <= whole <= most:
                raise SamplingError(f"{field} is {whole!r:.40}, expected a whole number from {least} to {most}")

    @property
    def penalises(self) -> bool:
        """Whether the choice depends on which tokens the sequence already has."""
        return self.repetition_penalty != 1 or self.frequency_penalty != 0 or self.presence_penalty != 0

    def record(self, seed: int) -> npt.NDArray[np.void]:
        """What the sampling kernel reads: SAMPLING_DTYPE [1]."""
        record = np.zeros(1, SAMPLING_DTYPE)
        for field in (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "repetition_penalty",
            "frequency_penalty",
            "presence_penalty",
        ):
            record[field] = getattr(self, field)
        record["seed"] = seed % 2**64
        return record
