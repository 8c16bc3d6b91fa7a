"""The events of a whole reply, gathered for answers that are not streamed."""

from __future__ import annotations

from dataclasses import dataclass, field

from imp_server.generation.events import (
    Event,
    Finished,
    Reasoning,
    Started,
    Text,
    TokenLogprob,
    ToolArguments,
    ToolClose,
    ToolOpen,
)
from imp_server.generation.timings import Timings


@dataclass(slots=True)
class Call:
    """A tool call; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Reply:
    """One generation from begin to end."""

    started: Started
    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    timings: Timings | None = None
    finished: Finished = field(default_factory=lambda: Finished("stop", 0, 0))

    def add(self, event: Event) -> None:
        """The next event."""
        if isinstance(event, Text):
            self.text += event.text
            self.logprobs += event.logprobs
            self.tokens += event.tokens
        elif isinstance(event, Timings):
            self.timings = event
        elif isinstance(event, Reasoning):
            self.reasoning += event.text
        elif isinstance(event, ToolOpen):
            self.calls.append(Call(event.id, event.name))
        elif isinstance(event, ToolArguments):
            self.calls[-1].arguments += event.text
        elif isinstance(event, ToolClose):
            self.calls[-1].arguments = self.calls[-1].arguments or "{}"
        elif isinstance(event, Finished):
            self.finished = event
