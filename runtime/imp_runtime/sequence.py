"""One request on its way: prompt, generated tokens, and what the device already has of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from imp_runtime.plan import BLOCK_TOKENS, PROMPT_BIT
from imp_runtime.sampling import SamplingParams

Finish = Literal["stop", "length", "abort"]


class Status(enum.Enum):
    """Where a sequence stands. A running one has a slot and blocks; a preempted one waits again."""

    WAITING = enum.auto()
    RUNNING = enum.auto()
    FINISHED = enum.auto()


@dataclass(slots=True, eq=False)
class Sequence:
    """A request. `id` grows with arrival; `limit` is the most tokens it may generate; `seed` is the one in use.

    `generated` are the tokens read back; `launched` counts those whose sampling has been launched, so
    `launched - len(generated)` are on their way. `cached` counts the tokens that launched work has put into the KV
    cache; those before `prefill_end` get there by prefill. `served` is the scheduler's clock at its last work.
    """

    id: int
    prompt: tuple[int, ...]
    params: SamplingParams
    seed: int
    limit: int
    status: Status = Status.WAITING
    slot: int = -1
    generated: list[int] = field(default_factory=list)
    launched: int = 0
    cached: int = 0
    prefill_end: int = 0
    blocks: list[int] = field(default_factory=list)
    served: int = 0
    finish: Finish | None = None

    @property
    def unread(self) -> int:
        """Tokens launched but not yet read."""
        return self.launched - len(self.generated)

    @property
    def prefilling(self) -> bool:
        """Whether the prompt, and after a preemption what was generated before, is not yet in the cache."""
        return self.status is Status.RUNNING and self.cached < self.prefill_end

    @property
    def known(self) -> int:
        """Tokens whose values the host knows."""
        return len(self.prompt) + len(self.generated)

    @property
    def decodable(self) -> bool:
        """Whether the next token can be launched now."""
        return self.status is Status.RUNNING and not self.prefilling and self.launched < self.limit

    def tokens(self, begin: int, end: int) -> tuple[int, ...]:
        """Known tokens at positions `begin` to `end`."""
        n = len(self.prompt)
        return self.prompt[begin:end] + tuple(self.generated[max(0, begin - n) : max(0, end - n)])

    def seen(self, vocab: int) -> npt.NDArray[np.uint32]:
        """The row of seq.seen: uint32 [vocab], bits 0-30 times generated, bit 31 set if in the prompt."""
        row = np.bincount(np.array(self.generated, np.int64), minlength=vocab).astype(np.uint32)
        row[list(self.prompt)] |= np.uint32(PROMPT_BIT)
        return row


def blocks_for(tokens: int) -> int:
    """KV blocks that hold `tokens` positions."""
    return -(-tokens // BLOCK_TOKENS)
