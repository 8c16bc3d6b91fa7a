"""One request on its way: prompt, generated tokens, and what the device already has of it."""

from __future__ import annotations

import enum
import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from imp_runtime.constraint import TokenMask
from imp_runtime.host_sampler import HostSampler
from imp_runtime.plan import BLOCK_TOKENS, EXPORTED, LISTED, MASKED, NO_LEDGER, TOP_LOGPROBS
from imp_runtime.sampling import SamplingParams

NAMED_AT_ONCE = 64  # places: a prompt may find nothing, and many at a time cost half as much each
Finish = Literal["stop", "length", "abort", "error"]


class Status(enum.Enum):
    """Where a sequence stands. A running one has a slot, blocks, and a ledger if it wants one; others have none."""

    WAITING = enum.auto()
    RUNNING = enum.auto()
    FINISHED = enum.auto()


@dataclass(slots=True, eq=False)
class Sequence:
    """A request. `id` grows with arrival; `limit` is the most tokens it may generate; `seed` is the one in use.

    `generated` are the tokens read back; `launched` counts those whose sampling has been launched, so
    `launched - len(generated)` are on their way. `cached` counts the tokens that launched work has put into the KV
    cache; those before `prefill_end` get there by prefill. `served` is the scheduler's clock at its last work.
    `sampler` chooses tokens on the host where all probabilities are asked for. `masked` is whether the device applies a
    token mask.
    `surprise_limit` is Mirostat's state after the last token read, in bits.
    `injections` counts calls of inject: tokens launched before one are void. `moved` says that the device has yet to be
    told where the sequence stands. `prompt_cached` counts the prompt tokens that were in the prefix cache when the
    sequence first got its slot. `names` are those of its first full places, as far as they have been asked for.
    `blocks` are those that it holds of each group of layers, by place (see paging.py), 0 where it has given them back;
    `begins` are the first places of these, `told` is the place up to which the device knows all, `named` that up to
    which they have their names.
    """

    id: int
    prompt: tuple[int, ...]
    params: SamplingParams
    seed: int
    limit: int
    status: Status = Status.WAITING
    slot: int = -1
    ledger: int = NO_LEDGER
    generated: list[int] = field(default_factory=list)
    launched: int = 0
    cached: int = 0
    prefill_end: int = 0
    blocks: list[list[int]] = field(default_factory=list)
    begins: list[int] = field(default_factory=list)
    told: int = 0
    named: int = 0
    served: int = 0
    finish: Finish | None = None
    constraint: TokenMask | None = None
    sampler: HostSampler | None = None
    masked: bool = False
    surprise_limit: float = 0.0
    injections: int = 0
    moved: bool = False
    prompt_cached: int = 0
    names: list[bytes] = field(default_factory=list)

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
    def answering(self) -> bool:
        """Whether it takes steps: tokens are to be launched, and what comes before them is in the cache."""
        return self.status is Status.RUNNING and not self.prefilling and self.launched < self.limit

    @property
    def decodable(self) -> bool:
        """Whether the next token can be launched now."""
        return self.answering and not (self.unread and self.lockstep)

    @property
    def lockstep(self) -> bool:
        """Whether the host must have read a token before the next one can be launched."""
        return self.constraint is not None or self.sampler is not None or self.exports

    @property
    def exports(self) -> bool:
        """Whether the host needs all logits of every step."""
        return self.sampler is not None or (self.params.top_logprobs or 0) > TOP_LOGPROBS

    @property
    def lists(self) -> bool:
        """Whether the host needs the best logits of every step."""
        return self.params.top_logprobs is not None and not self.exports

    @property
    def flags(self) -> int:
        """Those of its sampling record; where the host chooses, what the kernels choose is of no matter."""
        flags = 0 if self.sampler else self.params.flags | (MASKED if self.masked else 0)
        return flags | (EXPORTED if self.exports else 0) | (LISTED if self.lists else 0)

    @property
    def wants_ledger(self) -> bool:
        """Whether device or host need something of every token of the vocabulary, from step to step."""
        masks = self.constraint is not None or self.params.min_tokens > 0
        return masks or self.exports or self.params.adjusts

    def tokens(self, begin: int, end: int) -> tuple[int, ...]:
        """Known tokens at positions `begin` to `end`."""
        n = len(self.prompt)
        return self.prompt[begin:end] + tuple(self.generated[max(0, begin - n) : max(0, end - n)])

    def block_names(self, begin: int, end: int) -> Iterator[bytes]:
        """Names of places `begin` to `end`, full of known tokens: hashes of a place's tokens and the name before it."""
        for index in range(begin, end):
            while index >= len(self.names):
                self._name(min(end, len(self.names) + NAMED_AT_ONCE))
            yield self.names[index]

    def _name(self, end: int) -> None:
        first = len(self.names)
        known = self.tokens(first * BLOCK_TOKENS, end * BLOCK_TOKENS)
        tokens = struct.pack(f"<{len(known)}i", *known)
        name = self.names[-1] if self.names else b""
        for start in range(0, len(tokens), 4 * BLOCK_TOKENS):
            name = hashlib.blake2b(name + tokens[start : start + 4 * BLOCK_TOKENS], digest_size=32).digest()
            self.names.append(name)

    def seen(self, vocab: int) -> npt.NDArray[np.uint32]:
        """The row of ledger.seen: uint32 [vocab, 2], times generated and times among the last tokens."""
        last_n = self.params.repeat_last_n
        recent = self.tokens(max(0, self.known - last_n) if last_n >= 0 else 0, self.known)
        counts = [np.bincount(np.array(tokens, np.int64), minlength=vocab) for tokens in (self.generated, recent)]
        return np.stack(counts, axis=1).astype(np.uint32)
