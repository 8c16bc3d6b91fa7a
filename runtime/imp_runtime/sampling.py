"""How the next token is chosen, as the user asks for it and as the kernels read it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imp_runtime.errors import ImpError
from imp_runtime.plan import BIASED, BREAKER_WORDS, LONGEST_REPEAT, MIROSTAT, SAMPLING_DTYPE

MOST_LOGPROBS = 1000
_WHOLE = 2**31 - 1


class SamplingError(ImpError):
    """A sampling parameter has a value that makes no sense."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Parameters of one request. The defaults choose greedily and stop at a stop token or after 256 tokens.

    Off are: `temperature` 0 (greedy), `top_k` 0, `top_p`, `typical_p` and `repetition_penalty` 1, the others at 0.
    `seed` None draws a new one for every request. They act in this order: `logit_bias`, penalties, DRY, top-k, typical,
    top-p, min-p, XTC, temperature; with `mirostat` 2 it alone comes between DRY and the draw, after the temperature.

    `repeat_last_n`: the repetition penalty looks at so many of the last tokens; -1: at all; frequency and presence
    count what was generated. `dry_penalty_last_n` likewise. `dry_sequence_breakers`: token ids across which DRY finds
    no repetition. `logit_bias`: (token, added to its logit), in the range -1000 (never) to 1000.
    `ignore_eos` goes on after a stop token of the model; `stop_tokens` are further ones, of this request. Before
    `min_tokens` no stop token is chosen. `top_logprobs`: report each token's log-probability and that many of the best,
    of the model's own distribution; with `sampled_logprobs` of the one that the token was drawn from.
    Raises SamplingError.
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
    typical_p: float = 1.0
    repeat_last_n: int = -1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[tuple[int, ...], ...] = ()
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    top_logprobs: int | None = None
    sampled_logprobs: bool = False
    stop_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for field, value, low, high in (
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("typical_p", self.typical_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, 0.01, 100.0),
            ("frequency_penalty", self.frequency_penalty, -2.0, 2.0),
            ("presence_penalty", self.presence_penalty, -2.0, 2.0),
            ("dry_multiplier", self.dry_multiplier, 0.0, 100.0),
            ("dry_base", self.dry_base, 1.0, 100.0),
            ("mirostat_tau", self.mirostat_tau, 0.0, 100.0),
            ("mirostat_eta", self.mirostat_eta, 0.0, 1.0),
            ("xtc_probability", self.xtc_probability, 0.0, 1.0),
            ("xtc_threshold", self.xtc_threshold, 0.0, 1.0),
            *((f"logit_bias[{token}]", bias, -1000.0, 1000.0) for token, bias in self.logit_bias),
        ):
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not low <= value <= high:
                raise SamplingError(f"{field} is {value!r:.40}, expected a number from {low:g} to {high:g}")
        for field, whole, least, most in (
            ("top_k", self.top_k, 0, _WHOLE),
            ("max_tokens", self.max_tokens, 1, _WHOLE),
            ("min_tokens", self.min_tokens, 0, _WHOLE),
            ("seed", self.seed if self.seed is not None else 0, -(2**63), 2**64 - 1),
            ("repeat_last_n", self.repeat_last_n, -1, _WHOLE),
            ("dry_allowed_length", self.dry_allowed_length, 1, _WHOLE),
            ("dry_penalty_last_n", self.dry_penalty_last_n, -1, _WHOLE),
            ("top_logprobs", self.top_logprobs if self.top_logprobs is not None else 0, 0, MOST_LOGPROBS),
            *(("logit_bias token", token, 0, _WHOLE) for token, _ in self.logit_bias),
            *(("stop_tokens", token, 0, _WHOLE) for token in self.stop_tokens),
        ):
            if type(whole) is not int or not least <= whole <= most:
                raise SamplingError(f"{field} is {whole!r:.40}, expected a whole number from {least} to {most}")
        words = sum(len(tokens) + 1 for tokens in self.dry_sequence_breakers)
        if words >= BREAKER_WORDS:
            raise SamplingError(
                f"dry_sequence_breakers are {words} tokens, each with its end, expected fewer than {BREAKER_WORDS}"
            )
        if type(self.mirostat) is not int or self.mirostat not in (0, 2):
            raise SamplingError(f"mirostat is {self.mirostat!r:.40}, expected 0 (off) or 2")

    @property
    def penalises(self) -> bool:
        """Whether the choice depends on how often the sequence has which tokens."""
        repeated = self.repetition_penalty != 1 and self.repeat_last_n != 0
        return repeated or self.frequency_penalty != 0 or self.presence_penalty != 0

    @property
    def repeats(self) -> bool:
        """Whether DRY looks at the sequence's tokens."""
        return self.dry_multiplier > 0 and self.dry_penalty_last_n != 0

    @property
    def adjusts(self) -> bool:
        """Whether the choice is made from other numbers than the logits."""
        return self.penalises or self.repeats or bool(self.logit_bias)

    @property
    def remembers(self) -> bool:
        """Whether the choice depends on the order of the sequence's tokens."""
        return self.repeats or (self.repetition_penalty != 1 and self.repeat_last_n > 0)

    @property
    def sieves(self) -> bool:
        """Whether the choice takes a program of SIEVED."""
        return self.temperature > 0 and (self.typical_p < 1 or self.mirostat != 0 or self.xtc_probability > 0)

    @property
    def on_host(self) -> bool:
        """Whether the host chooses, since it is to say what all probabilities were."""
        return self.sampled_logprobs

    @property
    def dry_longest(self) -> int:
        """The longest repetition that counts: with a longer one the penalty would leave the range of float32."""
        if self.dry_base <= 1:
            return LONGEST_REPEAT
        exponent = math.log(float(np.finfo(np.float32).max)) / math.log(self.dry_base)
        return min(LONGEST_REPEAT, self.dry_allowed_length + int(exponent))

    def record(self, seed: int, ledger: int) -> npt.NDArray[np.void]:
        """What the sampling kernels read of a sequence with that ledger, or NO_LEDGER: SAMPLING_DTYPE [1]."""
        record = np.zeros(1, SAMPLING_DTYPE)
        for field in (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "frequency_penalty",
            "presence_penalty",
            "typical_p",
            "xtc_probability",
            "xtc_threshold",
            "mirostat_tau",
            "mirostat_eta",
            "repeat_last_n",
            "dry_base",
            "dry_longest",
        ):
            record[field] = getattr(self, field)
        record["repetition_penalty"] = self.repetition_penalty if self.repeat_last_n != 0 else 1
        record["dry_multiplier"] = self.dry_multiplier if self.repeats else 0
        record["dry_allowed_length"] = min(self.dry_allowed_length, LONGEST_REPEAT + 1)
        record["dry_last_n"] = self.dry_penalty_last_n
        record["seed"] = seed % 2**64
        record["flags"] = self.flags
        record["ledger"] = ledger
        return record

    @property
    def flags(self) -> int:
        """Those of the record that say how the kernels choose, and do not change from token to token."""
        return (BIASED if self.logit_bias else 0) | (MIROSTAT if self.mirostat and self.temperature > 0 else 0)

    def breakers(self) -> npt.NDArray[np.int32]:
        """`dry_sequence_breakers` as a row of ledger.breakers."""
        words = [word for tokens in self.dry_sequence_breakers if tokens for word in (len(tokens), *tokens)]
        return np.array([*words, 0], np.int32)

    def bias(self, vocab: int) -> npt.NDArray[np.float32]:
        """`logit_bias` as float32 [vocab]."""
        bias = np.zeros(vocab, np.float32)
        for token, value in self.logit_bias:
            bias[token] = value
        return bias
