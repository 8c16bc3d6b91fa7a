"""From the tokens of one generation to its events: detokenizer, reply parser, stop strings, reason of the end.

One event stream feeds every API: `Started`, then `Text`, `Reasoning` and tool calls as they come, then `Finished`.
`Timings` are those of the events behind them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

from imp_runtime.sampling import SamplingParams
from imp_server.content_tokens import ContentTokens
from imp_server.stop import StopMatcher
from imp_server.timings import PromptProgress, Timings
from imp_server.tokenizer import Detokenizer, Tokenizer

if TYPE_CHECKING:
    from imp_runtime.constraint import TokenMask
    from imp_runtime.engine import StepOutput

FinishReason = Literal["stop", "length", "tool_calls"]
Bytes = bytes  # a field below has the name
Place = tuple[int, int]
FLOOR = -9999.0  # what JSON gets for a log-probability of minus infinity


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with the natural logarithm of its probability; `bytes` are its own, which need not be whole characters.

    `top` are the most probable tokens at its place as (token, bytes, logprob), best first; `top_ids` are their ids.
    """

    token: str
    bytes: Bytes
    logprob: float
    top: tuple[tuple[str, Bytes, float], ...] = ()
    id: int = -1
    top_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """First event of a generation: the engine has admitted it."""

    prompt_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Text:
    """Visible content; never empty unless log-probabilities or tokens are released.

    `tokens` are the ids behind it, where they were asked for. `places`: where in the reply's text a parser found it,
    from and to a character.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: tuple[int, ...] = ()
    places: tuple[Place, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What the model thinks before it answers; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolOpen:
    """A tool call begins; `index` counts the calls of the reply from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolArguments:
    """A piece of the JSON text of a call's arguments."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolClose:
    """A tool call is complete."""

    index: int


@dataclass(frozen=True, slots=True)
class Finished:
    """Last event of a generation. `stop_string` is the one that ended it, if one did."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    stop_string: str | None = None


Piece = Text | Reasoning | ToolOpen | ToolArguments | ToolClose
Event = Started | PromptProgress | Timings | Piece | Finished


class ReplyParser(Protocol):
    """Cuts the text of a reply, special tokens spelled out, into its pieces."""

    def push(self, text: str) -> Sequence[Piece]:
        """The pieces that are certain after `text`."""
        ...

    def finish(self, *, cut: bool = False) -> Sequence[Piece]:
        """What was held back, when the reply ends.

        With `cut` it ended before its time, and what may be the beginning of a call's markup is not shown as text.
        """
        ...


class ThinkWatch:
    """Follows by token ids whether a reply is in its reasoning part.

    `opening` and `closing` are the token ids of the tags; `inside` says how the prompt left it. Ids, not text, because
    the engine's thread asks between two steps.
    """

    def __init__(self, opening: Sequence[int], closing: Sequence[int], *, inside: bool) -> None:
        self._opening = tuple(opening)
        self._closing = tuple(closing)
        self.inside = inside
        self.tokens = 0
        self._recent: deque[int] = deque(maxlen=max(len(opening), len(closing), 1))

    def accept(self, token: int) -> None:
        """The next token of the reply."""
        self._recent.append(token)
        if self.inside:
            self.tokens += 1
        tag = self._closing if self.inside else self._opening
        if tag and tuple(self._recent)[-len(tag) :] == tag:
            self.inside = not self.inside
            self._recent.clear()


@dataclass(frozen=True, slots=True)
class ThinkBudget:
    """At most `tokens` tokens of reasoning; then `closing` is put in the model's mouth."""

    tokens: int
    closing: tuple[int, ...]
    watch: Callable[[], ThinkWatch]


@dataclass(frozen=True, slots=True)
class Request:
    """One generation, whatever protocol it came by: token ids in, sampling, strings that end it.

    `parser` and `constraint` make a fresh one for every run. Without a parser all text is content, and special tokens
    are left out of it. `keep_stop` leaves the stop string in the text. Beside it the events tell the `progress` of the
    prompt, if `timed` the times of every piece, and if `with_tokens` the ids behind each text.
    """

    prompt: tuple[int, ...]
    params: SamplingParams
    stop: tuple[str, ...] = ()
    parser: Callable[[], ReplyParser] | None = None
    constraint: Callable[[], TokenMask] | None = None
    budget: ThinkBudget | None = None
    keep_stop: bool = False
    progress: bool = False
    timed: bool = False
    with_tokens: bool = False


class Transcript:
    """The events of one generation as it grows.

    `tokens` counts what the model generated, a stop token not included; `finish` is None until the end.
    """

    def __init__(self, tokenizer: Tokenizer, request: Request) -> None:
        self._tokenizer = tokenizer
        self._request = request
        self._parser = request.parser() if request.parser is not None else None
        self._detokenizer = Detokenizer(tokenizer, request.prompt, special=self._parser is not None)
        self._stops = StopMatcher(request.stop)
        self._content = ContentTokens()
        self._visible = 0  # characters of content so far, shown or held by the stop matcher
        self._shown = 0
        self._special = False
        self._calls = 0
        self._thinking = False
        self._unsent: list[int] = []
        self.tokens = 0
        self.reasoning_tokens = 0
        self.finish: FinishReason | None = None

    def take(self, output: StepOutput) -> list[Piece]:
        """The pieces to show after `output`, often none. Sets `finish` at the end or when a stop string is complete.

        The token that ended the generation is not shown, nor is a character that the end cuts in two; a held beginning
        of a stop string is, when the end comes.
        """
        assert output.finish != "error", "whoever reads the engine's outputs raises that"
        pieces: list[Piece] = []
        if output.finish != "stop":
            self.tokens += 1
            if self._request.with_tokens:
                self._unsent.append(output.token)
            special = self._parser is not None and output.token in self._tokenizer.special_ids
            self._special = self._special or special
            if output.logprob is not None and not special:
                self._content.add(self._logprob(output))
            for piece in self._heard(self._detokenizer.push(output.token)):
                self._show(piece, pieces)
            self.reasoning_tokens += self._thinking
        if output.finish is not None:
            for piece in self._parser.finish(cut=output.finish == "length") if self._parser is not None else ():
                self._show(piece, pieces)
            self._content.end(all_is_content=self._parser is None)
        if self._stops.matched is not None:
            self.finish = "stop"
            if self._request.keep_stop:
                pieces.append(Text(self._stops.matched))
        elif output.finish is not None:
            self.finish = output.finish
            if held := self._stops.flush():
                self._append_text(held, pieces)
        if self.finish == "stop" and self._calls:
            self.finish = "tool_calls"
        return self._with_tokens(self._with_logprobs(pieces))

    def finished(self, cached_tokens: int = 0) -> Finished:
        """The last event; `finish` must be set."""
        assert self.finish is not None
        return Finished(
            self.finish,
            len(self._request.prompt),
            self.tokens,
            self.reasoning_tokens,
            cached_tokens,
            self._stops.matched,
        )

    def _heard(self, text: str) -> Sequence[Piece]:
        place = self._content.heard(text)
        if not text:
            return ()
        return self._parser.push(text) if self._parser is not None else (Text(text, places=(place,)),)

    def _show(self, piece: Piece, pieces: list[Piece]) -> None:
        if self._stops.matched is not None:
            return
        if isinstance(piece, Text):
            self._thinking = False
            text = self._readable(piece.text)
            self._content.content(piece.places, lambda length: self._visible + len(self._readable(piece.text[:length])))
            self._visible += len(text)
            if shown := self._stops.push(text):
                self._append_text(shown, pieces)
            return
        if held := self._stops.flush():
            self._append_text(held, pieces)
        self._thinking = isinstance(piece, Reasoning)
        if isinstance(piece, ToolOpen):
            self._calls += 1
        pieces.append(piece)

    def _append_text(self, text: str, pieces: list[Piece]) -> None:
        self._shown += len(text)
        if pieces and isinstance(last := pieces[-1], Text):
            pieces[-1] = Text(last.text + text)
        else:
            pieces.append(Text(text))

    def _readable(self, text: str) -> str:
        """`text` of a parser without the special tokens spelled out in it."""
        return self._tokenizer.without_special(text) if self._special else text

    def _with_logprobs(self, pieces: list[Piece]) -> list[Piece]:
        """`pieces` with the log-probabilities of the tokens whose text is out, on the last text."""
        place = max((i for i, piece in enumerate(pieces) if isinstance(piece, Text)), default=None)
        if place is None and self.finish is None:
            return pieces
        released = self._content.shown(self._shown)
        if released and place is None:
            pieces.append(Text("", released))
        elif released and place is not None:
            text = pieces[place]
            assert isinstance(text, Text)
            pieces[place] = Text(text.text, released)
        return pieces

    def _with_tokens(self, pieces: list[Piece]) -> list[Piece]:
        """`pieces` with the ids of the tokens since the last text, where they were asked for, on the last one."""
        if not self._unsent:
            return pieces
        place = max((i for i, piece in enumerate(pieces) if isinstance(piece, Text)), default=None)
        if place is not None:
            text = pieces[place]
            assert isinstance(text, Text)
            pieces[place] = replace(text, tokens=tuple(self._unsent))
        elif self.finish is not None:
            pieces.append(Text("", tokens=tuple(self._unsent)))
        else:
            return pieces
        self._unsent = []
        return pieces

    def _logprob(self, output: StepOutput) -> TokenLogprob:
        assert output.logprob is not None
        token, raw = self._tokenizer.token(output.token)
        top = tuple((*self._tokenizer.token(index), max(value, FLOOR)) for index, value in output.top)
        ids = tuple(index for index, _ in output.top)
        return TokenLogprob(token, raw, max(output.logprob, FLOOR), top, output.token, ids)
