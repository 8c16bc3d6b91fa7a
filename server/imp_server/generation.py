"""From the tokens of one generation to the text that is shown: detokenizer, stop strings, reason of the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from imp_runtime.sampling import SamplingParams
from imp_server.stop import StopMatcher
from imp_server.tokenizer import Detokenizer, Tokenizer

if TYPE_CHECKING:
    from imp_runtime.engine import StepOutput

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Request:
    """One generation, whatever protocol it came by: token ids in, sampling, strings that end it."""

    prompt: tuple[int, ...]
    params: SamplingParams
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """First event of a generation: the engine has admitted it."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Text:
    """Event of a generation: text to show, never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Last event of a generation."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


Event = Started | Text | Finished


class Transcript:
    """The text of one generation as it grows.

    `tokens` counts what the model generated, a stop token not included; `finish` is None until the end.
    """

    def __init__(self, tokenizer: Tokenizer, request: Request) -> None:
        self._detokenizer = Detokenizer(tokenizer, request.prompt)
        self._stops = StopMatcher(request.stop)
        self.tokens = 0
        self.finish: FinishReason | None = None

    def take(self, output: StepOutput) -> str:
        """The text to show after `output`, often empty. Sets `finish` at the end or when a stop string is complete.

        The token that ended the generation is not shown; a held beginning of a stop string is, when the end comes.
        """
        text = ""
        if output.finish != "stop":
            self.tokens += 1
            text = self._stops.push(self._detokenizer.push(output.token))
        if output.finish is not None:
            text += self._stops.push(self._detokenizer.flush())
        if self._stops.matched is not None:
            self.finish = "stop"
        elif output.finish is not None:
            self.finish = output.finish
            text += self._stops.flush()
        return text
