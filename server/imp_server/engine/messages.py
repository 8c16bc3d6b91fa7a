"""What a worker and the engine's process say to each other over a pair of sockets: dataclasses, pickled, in frames.

Both ends are one program, the pair has no name and is handed from parent to child, so nobody else can speak on it.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from imp_runtime.plan import Pooling
from imp_runtime.sampling import SamplingParams
from imp_server.generation.constraint import Constraint
from imp_server.generation.request import ThinkBudget
from imp_server.generation.timings import PromptProgress

Finish: TypeAlias = Literal["stop", "length", "error"]
# id of the generation, then what Output has
TokenTuple: TypeAlias = tuple[int, int, Finish | None, float | None, tuple[tuple[int, float], ...]]
BEAT_SECONDS = 1.0
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Generation:
    """Of a request what the engine has to know; `id` is the worker's own number of it, from 0 on."""

    id: int
    prompt: tuple[int, ...]
    params: SamplingParams
    constraint: Constraint | None
    budget: ThinkBudget | None
    progress: bool


@dataclass(frozen=True, slots=True)
class Admit:
    """Take all or none. The answer: a Began of each."""

    call: int
    generations: tuple[Generation, ...]


@dataclass(frozen=True, slots=True)
class Abort:
    """Nobody wants more of these generations."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Embed:
    """The answer: the final hidden states of `tokens`, pooled, float32 [vectors, width]."""

    call: int
    tokens: tuple[int, ...]
    pooling: Pooling


@dataclass(frozen=True, slots=True)
class Score:
    """The answer: what the model says of each of `tokens` but the first, with its `top` best, a Scored each."""

    call: int
    tokens: tuple[int, ...]
    top: int


@dataclass(frozen=True, slots=True)
class AskSlots:
    """The answer: a Slot of each running sequence, whoever asked for it."""

    call: int


@dataclass(frozen=True, slots=True)
class AskFree:
    """The answer: a Free."""

    call: int


ToEngine: TypeAlias = Admit | Abort | Embed | Score | AskSlots | AskFree


@dataclass(frozen=True, slots=True)
class Ready:
    """The first that the engine says: the target of its code, its device, the most tokens of a sequence and of all."""

    target: str
    device: str
    context: int
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class Asleep:
    """The engine has given its device back, until something is to run; then it is Ready again. `free`: all it has."""

    free: Free


@dataclass(frozen=True, slots=True)
class Beat:
    """Every BEAT_SECONDS, whether there is work or not: the engine's thread turns."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The last that the engine says before it ends, if it can: why, for people."""

    why: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call asked for."""

    call: int
    result: object


@dataclass(frozen=True, slots=True)
class Refused:
    """A call was not possible: why, for who asked. `later`: not now, by no fault of who asked."""

    call: int
    why: str
    later: bool = False


@dataclass(frozen=True, slots=True)
class Began:
    """A generation has its slot, or waits for one: since when (time.monotonic); `cached` tokens were in the cache."""

    id: int
    time: float
    cached: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A running sequence: tokens of its prompt, those that were in the prefix cache, and tokens generated."""

    slot: int
    prompt: int
    cached: int
    generated: int


@dataclass(frozen=True, slots=True)
class Free:
    """Slots that can be had, and blocks of the KV cache, those that are kept for prompts to come included."""

    slots: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Scored:
    """The log-probability of a token, and those of the best tokens at its place."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of the engine (at `time`, time.monotonic) brought for one worker, all of it in one message."""

    time: float
    began: tuple[Began, ...]
    progress: tuple[tuple[int, PromptProgress], ...]
    tokens: tuple[TokenTuple, ...]


FromEngine: TypeAlias = Ready | Asleep | Beat | Failed | Answer | Refused | Step


def frame(message: object) -> bytes:
    """A message as it goes over the socket: its length, then itself."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


class Frames:
    """Takes what comes out of a socket, as it comes, and gives the messages that are complete."""

    def __init__(self) -> None:
        self._data = bytearray()

    def push(self, data: bytes) -> Iterator[object]:
        """The messages that `data` completes."""
        self._data += data
        place, size = 0, _LENGTH.size
        with memoryview(self._data) as view:
            while len(view) >= place + size:
                (length,) = _LENGTH.unpack_from(view, place)
                if len(view) < place + size + length:
                    break
                place += size + length
                with view[place - length : place] as message:
                    yield pickle.loads(message)
        del self._data[:place]
