"""Structured output: grammars that say which token may come next, by llguidance.

Where a request comes in, `compile` writes what it asks for as llguidance reads it, and tries it. That text goes to the
engine, where `start` makes of it the TokenMask that the engine asks before a step and tells the outcome. A grammar is
compiled once in each process and kept; every generation gets a copy of its own.
"""

from __future__ import annotations

import contextlib
import json
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Literal, Protocol, TypeVar

import llguidance
import llguidance.numpy
import numpy as np
import numpy.typing as npt
import tokenizers

from imp_runtime.constraint import TokenMask
from imp_runtime.errors import ImpError
from imp_server.generation.constraint import Constraint, Held, Wait
from imp_server.grammar.gbnf import gbnf_to_lark
from imp_server.grammar.json_schema import prepared
from imp_server.grammar.schema_places import one_of_places

Kind = Literal["json_object", "json_schema", "regex", "lark", "gbnf"]

K = TypeVar("K")
V = TypeVar("V")
_KEPT = 64  # compiled grammars per model
_LONGEST_SOURCE = 1 << 20
_SPACE = r"[ \t\r\n]{1,40}"  # in JSON; without a limit a model that is unsure writes line breaks for ever


class GrammarError(ImpError):
    """A schema or grammar that cannot be compiled; the message has llguidance's reason."""


class GrammarTokenizer(Protocol):
    """What a grammar needs of a model: its tokenizer, the width of its logits and the tokens that end a reply."""

    @property
    def backend(self) -> tokenizers.Tokenizer: ...  # noqa: D102
    @property
    def vocab(self) -> int: ...  # noqa: D102
    @property
    def stop_tokens(self) -> Sequence[int]: ...  # noqa: D102


def compile(kind: Kind, source: str, tokenizer: GrammarTokenizer) -> Held:  # noqa: A001  read as masks.compile
    """Replies that fit `source`: a JSON schema, a regular expression, a Lark or GBNF grammar.

    With `json_object` any JSON object fits and `source` is not read. Raises GrammarError.
    """
    return Held(_vocabulary(tokenizer).read(kind, source))


def start(constraint: Constraint, tokenizer: GrammarTokenizer) -> TokenMask:
    """The mask of one generation. Raises GrammarError for what `compile` has not made."""
    vocabulary = _vocabulary(tokenizer)
    masks: list[TokenMask] = []
    for held in constraint:
        mask: TokenMask = vocabulary.start(held.grammar)
        masks.append(mask if held.wait is None else _Waiting(mask, held.wait, vocabulary))
    return masks[0] if len(masks) == 1 else _Either(masks)


def prepare(tokenizer: GrammarTokenizer) -> None:
    """Make what all grammars of a model share: with 150,000 tokens it takes a second, in which no other thread runs."""
    with contextlib.suppress(GrammarError):  # said to whoever asks for a grammar
        _vocabulary(tokenizer)


class _Either:
    """Several masks side by side. One that a token does not fit is given up."""

    def __init__(self, masks: list[TokenMask]) -> None:
        self._masks = masks

    def mask(self) -> npt.NDArray[np.uint32] | None:
        several = [mask.mask() for mask in self._masks]
        given = [each for each in several if each is not None]
        return np.bitwise_or.reduce(given) if len(given) == len(several) else None

    def accept(self, token: int) -> None:
        if len(self._masks) > 1:
            # Where none has room for the token, it came from elsewhere: the end of reasoning that was cut short.
            self._masks = [each for each in self._masks if _allows(each, token)] or self._masks
        for mask in self._masks:
            mask.accept(token)

    def done(self) -> bool:
        return all(mask.done() for mask in self._masks)


def _allows(mask: TokenMask, token: int) -> bool:
    words = mask.mask()
    return words is None or bool(words[token // 32] >> np.uint32(token % 32) & np.uint32(1))


class _Grammar:
    """The mask of one generation."""

    def __init__(self, matcher: llguidance.LLMatcher, stops: npt.NDArray[np.uint32]) -> None:
        self._matcher = matcher
        self._stops = stops

    def mask(self) -> npt.NDArray[np.uint32]:
        if self.done():
            return self._stops.copy()
        words = np.zeros((1, len(self._stops)), np.int32)
        llguidance.numpy.fill_next_token_bitmask(self._matcher, words)
        # A grammar that has run into one of llguidance's limits leaves nothing; the reply ends there.
        return words[0].view(np.uint32) if words.any() else self._stops.copy()

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)

    def done(self) -> bool:
        return self._matcher.is_stopped()


class _Vocabulary:
    """llguidance's view of one tokenizer, and the grammars compiled for it."""

    def __init__(self, tokenizer: GrammarTokenizer) -> None:
        stops = list(tokenizer.stop_tokens)
        try:
            self.tokens = llguidance.LLTokenizer(
                tokenizer.backend.to_str(), n_vocab=tokenizer.vocab, eos_token=stops or None
            )
        except Exception as error:  # the library raises plain ValueError and its own
            raise GrammarError(f"structured output does not work with this tokenizer: {_line(error)}") from None
        bits = np.zeros(-(-tokenizer.vocab // 32) * 32, np.uint8)
        bits[stops] = 1
        self._stops: npt.NDArray[np.uint32] = np.packbits(bits, bitorder="little").view(np.uint32)
        self._read: OrderedDict[tuple[Kind, str], str] = OrderedDict()
        self._compiled: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()
        self._lock = Lock()

    def read(self, kind: Kind, source: str) -> str:
        """The grammar that `source` is, which can be compiled."""
        grammar = self._kept(self._read, (kind, source), lambda: _grammar(kind, source, self.token))
        matcher = self._matcher(grammar)
        if matcher.is_error():
            why = self._one_of(source) if kind == "json_schema" and "oneOf" in matcher.get_error() else None
            raise GrammarError(f"the {_NAMES[kind]} cannot be used: {why or _line(matcher.get_error())}")
        return grammar

    def start(self, grammar: str) -> _Grammar:
        matcher = self._matcher(grammar)
        if matcher.is_error():
            raise GrammarError(f"the grammar cannot be used: {_line(matcher.get_error())}")
        return _Grammar(matcher.deep_copy(), self._stops)

    def _matcher(self, grammar: str) -> llguidance.LLMatcher:
        return self._kept(self._compiled, grammar, lambda: llguidance.LLMatcher(self.tokens, grammar, log_level=0))

    def _kept(self, kept: OrderedDict[K, V], key: K, make: Callable[[], V]) -> V:
        """`make()`, or what it gave when it was last asked for `key`."""
        with self._lock:
            if key in kept:
                kept.move_to_end(key)
                return kept[key]
        made = make()
        with self._lock:
            kept[key] = made
            if len(kept) > _KEPT:
                kept.popitem(last=False)
        return made

    def _one_of(self, source: str) -> str:
        """Which `oneOf` of a schema llguidance cannot tell the alternatives of apart."""
        schema = prepared(json.loads(source))
        shared = {key: schema[key] for key in ("$defs", "definitions") if isinstance(schema, dict) and key in schema}
        unclear = (
            path
            for path, alone in one_of_places(schema)
            if "oneOf" in llguidance.LLMatcher(self.tokens, _json(shared | alone), log_level=0).get_error()
        )
        path = next(unclear, "oneOf")
        return f"{path}: two alternatives may hold for the same value, which cannot be enforced; use anyOf"

    def token(self, text: str) -> int | None:
        """The token that `text` is, if it is one."""
        ids = self.tokens.tokenize_str(text, parse_special=True)
        return ids[0] if len(ids) == 1 else None

    def spelled(self, token: int) -> bytes:
        """The bytes of a token."""
        return self.tokens.decode_bytes([token])


class _Waiting:
    """A mask that begins behind a tag."""

    def __init__(self, mask: TokenMask, wait: Wait, vocabulary: _Vocabulary) -> None:
        self._mask = mask
        self._vocabulary = vocabulary
        self._tag = wait.tag.encode()
        self._opening = None if wait.opening is None else vocabulary.token(wait.opening.strip())
        self._seen = b""
        self._waits = wait.opening is None
        self._gap = False  # the tag has just come; one token of line breaks may follow it

    def mask(self) -> npt.NDArray[np.uint32] | None:
        if self._waits:
            return None
        mask = self._mask.mask()
        extra = self._gap_tokens() if self._gap else ()
        if self._opening is not None:
            extra = (self._opening,)
        if mask is None or not extra:
            return mask
        mask = mask.copy()
        for token in extra:
            mask[token // 32] |= np.uint32(1 << token % 32)
        return mask

    def accept(self, token: int) -> None:
        opening, self._opening = self._opening, None
        gap, self._gap = self._gap, False
        if self._waits:
            self._seen = (self._seen + self._vocabulary.spelled(token))[-64 - len(self._tag) :]
            if self._tag in self._seen:
                self._waits = False
                self._gap = not self._seen.partition(self._tag)[2]
        elif token == opening:
            self._waits = True
        elif not (gap and token in self._gap_tokens()):
            self._mask.accept(token)

    def done(self) -> bool:
        return not self._waits and self._mask.done()

    def _gap_tokens(self) -> tuple[int, ...]:
        found = (self._vocabulary.token(text) for text in ("\n", "\n\n"))
        return tuple(token for token in found if token is not None)


_NAMES = {
    "json_object": "JSON grammar",
    "json_schema": "JSON schema",
    "regex": "regular expression",
    "lark": "Lark grammar",
    "gbnf": "GBNF grammar",
}


def _grammar(kind: Kind, source: str, token: Callable[[str], int | None]) -> str:
    """`source` as llguidance wants it."""
    if len(source) > _LONGEST_SOURCE:
        raise GrammarError(f"the {_NAMES[kind]} has {len(source):,} characters, the most is {_LONGEST_SOURCE:,}")
    matcher = llguidance.LLMatcher
    if kind == "json_object":
        return _json({"type": "object"})
    if kind == "regex":
        return matcher.grammar_from_regex(source)
    if kind == "lark":
        return matcher.grammar_from_lark(source)
    try:
        if kind == "gbnf":
            return matcher.grammar_from_lark(gbnf_to_lark(source, token))
        schema = prepared(json.loads(source))
        # `true` and `{}` allow everything; llguidance takes objects only
        return _json({} if schema is True else {"enum": []} if schema is False else schema)
    except (ValueError, RecursionError, ImpError) as error:
        raise GrammarError(f"the {_NAMES[kind]} cannot be used: {_line(error)}") from None


def _json(schema: dict[str, object]) -> str:
    return llguidance.LLMatcher.grammar_from_json_schema(schema, {"whitespace_pattern": _SPACE})


_vocabularies: weakref.WeakKeyDictionary[GrammarTokenizer, _Vocabulary] = weakref.WeakKeyDictionary()
_vocabularies_lock = Lock()


def _vocabulary(tokenizer: GrammarTokenizer) -> _Vocabulary:
    with _vocabularies_lock:
        found = _vocabularies.get(tokenizer)
        if found is None:
            found = _vocabularies[tokenizer] = _Vocabulary(tokenizer)
        return found


def _line(error: object) -> str:
    return " ".join(str(error).split())[:400]
