"""From the tokens of one generation to its events: detokenizer, reply parser, stop strings, reason of the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from imp_server.generation.content_tokens import ContentTokens
from imp_server.generation.events import (
    FLOOR,
    Finished,
    FinishReason,
    Piece,
    Reasoning,
    Text,
    TokenLogprob,
    ToolOpen,
)
from imp_server.generation.output import Token
from imp_server.generation.request import Request
from imp_server.generation.stop import StopMatcher
from imp_server.generation.tokenizer import Detokenizer, Tokenizer


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
        # Which token a text belongs to is of interest for log-probabilities only.
        self._content = ContentTokens() if request.params.top_logprobs is not None else None
        self._visible = 0  # characters of content so far, shown or held by the stop matcher
        self._shown = 0
        self._special = False
        self._calls = 0
        self._thinking = False
        self._unsent: list[int] = []
        self.tokens = 0
        self.reasoning_tokens = 0
        self.finish: FinishReason | None = None

    def take(self, output: Token) -> list[Piece]:
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
            if self._content is not None and output.logprob is not None and not special:
                self._content.add(self._logprob(output))
            for piece in self._heard(self._detokenizer.push(output.token)):
                self._show(piece, pieces)
            self.reasoning_tokens += self._thinking
        if output.finish is not None:
            for piece in self._parser.finish(cut=output.finish == "length") if self._parser is not None else ():
                self._show(piece, pieces)
            if self._content is not None:
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
        places = (self._content.heard(text),) if self._content is not None else ()
        if not text:
            return ()
        return self._parser.push(text) if self._parser is not None else (Text(text, places=places),)

    def _show(self, piece: Piece, pieces: list[Piece]) -> None:
        if self._stops.matched is not None:
            return
        if isinstance(piece, Text):
            self._thinking = False
            text = self._readable(piece.text)
            if self._content is not None:
                self._content.content(
                    piece.places, lambda length: self._visible + len(self._readable(piece.text[:length]))
                )
            self._visible += len(text)
            shown = self._stops.push(text)
            if shown is piece.text and shown and not pieces:
                self._shown += len(shown)
                pieces.append(piece)
            elif shown:
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
        if self._content is None:
            return pieces
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

    def _logprob(self, output: Token) -> TokenLogprob:
        assert output.logprob is not None
        token, raw = self._tokenizer.token(output.token)
        top = tuple((*self._tokenizer.token(index), max(value, FLOOR)) for index, value in output.top)
        ids = tuple(index for index, _ in output.top)
        return TokenLogprob(token, raw, max(output.logprob, FLOOR), top, output.token, ids)
