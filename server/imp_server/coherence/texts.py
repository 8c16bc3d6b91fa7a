"""What can be seen of an answer alone: loops, dead tokens, tokens and bytes that mean nothing."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from imp_server.generation.events import Reasoning, Text
from imp_server.generation.tokenizer import Tokenizer
from imp_server.parsers import ParserFamily

PERIOD = 64
REPEATS = 4
LOOP_TOKENS = 32
DEAD_RUN = 16


def loop(tokens: Sequence[int]) -> str | None:
    """Whether `tokens` end in the same PERIOD or fewer, REPEATS times or more, together LOOP_TOKENS or more."""
    for period in range(1, min(PERIOD, len(tokens) // REPEATS) + 1):
        count = period
        while count < len(tokens) and tokens[-1 - count] == tokens[-1 - count + period]:
            count += 1
        if count >= max(REPEATS * period, LOOP_TOKENS):
            return f"ends in {count // period} times the same {period} tokens"
    return None


def dead_token(tokens: Sequence[int]) -> str | None:
    """Whether one token stands DEAD_RUN times or more in succession."""
    run = 0
    for i, token in enumerate(tokens):
        run = run + 1 if i and token == tokens[i - 1] else 1
        if run == DEAD_RUN:
            return f"token {token} {DEAD_RUN} times in succession"
    return None


def unknown_token(tokens: Sequence[int], tokenizer: Tokenizer) -> str | None:
    """Whether a token is none of the tokenizer's: embeddings often have rows that belong to none."""
    for i, token in enumerate(tokens):
        if tokenizer.spelling(token) is None:
            return f"token {token} at step {i + 1} is none of the tokenizer's"
    return None


def special_token(
    tokens: Sequence[int], tokenizer: Tokenizer, family: ParserFamily | None, prompt: Sequence[int]
) -> str | None:
    """Whether a special token stands in what a reader is shown.

    `family`: what reads replies of the model's chat template, which takes those that are its own out; None for a text.
    """
    if not tokenizer.special_ids.intersection(tokens):
        return None
    shown = [tokenizer.decode(tokens, special=True)]
    if family is not None:
        parser = family.start(tokenizer.decode(prompt, special=True), None)
        pieces = [*parser.push(shown[0]), *parser.finish(cut=True)]
        shown = [piece.text for piece in pieces if isinstance(piece, Text | Reasoning)]
    for token in tokens:
        text = tokenizer.spelling(token)
        if token in tokenizer.special_ids and text is not None and any(text in each for each in shown):
            return f"the special token {text} stands in the middle"
    return None


def broken_bytes(tokens: Sequence[int], tokenizer: Tokenizer, *, cut: bool) -> str | None:
    """Whether the bytes that tokens stand for are no UTF-8; a text that was `cut` may end within a character."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for token in tokens:
            decoder.decode(tokenizer.raw(token))
        decoder.decode(b"", final=not cut)
    except UnicodeDecodeError as error:
        return f"its bytes are no UTF-8: {error.reason}"
    return None
