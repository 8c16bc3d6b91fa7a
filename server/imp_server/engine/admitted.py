"""Requests that the engine has taken, and what has come for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from imp_server.errors import ApiError
from imp_server.generation.output import Output
from imp_server.generation.request import Request
from imp_server.generation.timings import PromptProgress, Timings, milliseconds


@dataclass(eq=False, slots=True)
class Inbox:
    """What has arrived for one caller and is not yet read: outputs with the index of their request, or an error."""

    items: list[tuple[int, Output | PromptProgress]] = field(default_factory=list)
    error: ApiError | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, index: int, item: Output | PromptProgress) -> None:
        """Something has come."""
        self.items.append((index, item))
        self.arrived.set()

    def fail(self, error: ApiError) -> None:
        """Nothing more will come."""
        self.error = self.error or error
        self.arrived.set()

    async def take(self) -> list[tuple[int, Output | PromptProgress]]:
        """Everything that has arrived, at least one. Raises the error once what came before it has been taken."""
        while not self.items:
            if self.error is not None:
                raise self.error
            self.arrived.clear()
            await self.arrived.wait()
        items, self.items = self.items, []
        return items


@dataclass(eq=False, slots=True)
class Stream:
    """A request on its way: its place among the caller's requests, and the number that the engine knows it by.

    `began` is when its prompt did, `first` and `last` when tokens came (time.monotonic), where the engine runs.
    `cached` tokens of the prompt came from the prefix cache; 0 for one that still waits for a slot.
    """

    request: Request
    index: int
    id: int
    inbox: Inbox
    began: float = 0.0
    first: float = 0.0
    last: float = 0.0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Admitted:
    """Requests that the engine has taken."""

    streams: tuple[Stream, ...]
    inbox: Inbox

    @property
    def cached(self) -> tuple[int, ...]:
        """Prompt tokens of each request that came from the prefix cache; 0 for one that still waits for a slot."""
        return tuple(stream.cached for stream in self.streams)

    def timings(self, index: int, tokens: int) -> Timings:
        """The times of a request of which `tokens` have been generated, measured where the engine runs."""
        stream = self.streams[index]
        prompt_ms = max(milliseconds(stream.first - stream.began), 0.001)
        computed = len(stream.request.prompt) - stream.cached
        return Timings(stream.cached, computed, prompt_ms, tokens, milliseconds(max(stream.last - stream.first, 0.0)))

    async def outputs(self) -> AsyncIterator[list[tuple[int, Output | PromptProgress]]]:
        """(index of the request, output or progress), in order, as many at a time as have come; endless."""
        while True:
            yield await self.inbox.take()
