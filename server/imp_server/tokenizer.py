"""Text to token ids and back, from the `tokenizer.json` that the compiler stored in the artifact."""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers

from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError

_BROKEN = "\ufffd"
# Earlier tokens that stand before the new ones in a decoding; one would do for the leading-space rules.
_CONTEXT = 6
# A character is at most four tokens of one byte each; so many without an end are invalid bytes.
_MOST_HELD = 8


class Tokenizer:
    """The tokenizer of one artifact."""

    def __init__(self, artifact: Artifact) -> None:
        """Raises ImpError when the artifact has no tokenizer or one that cannot be read."""
        if not artifact.has("tokenizer.json"):
            raise ImpError("the artifact has no tokenizer.json; it takes token ids only (compile from a GGUF with one)")
        try:
            self.backend = tokenizers.Tokenizer.from_buffer(artifact.read("tokenizer.json"))
        except Exception as error:  # the library raises plain Exception
            raise ImpError(f"tokenizer.json in the artifact cannot be read: {error}") from None
        plan = artifact.plan
        self._add_bos = plan.add_bos and plan.bos_token >= 0
        self._bos_id = plan.bos_token

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids of `text`, in which special tokens may be spelled out.

        `special` puts the beginning-of-sequence token in front where the model wants one and the text does not begin
        with it already; a rendered chat template has its own, so it is encoded without. Raises ImpError for text that
        is not valid Unicode.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ImpError(f"the text is not valid UTF-8: {error.reason} at character {error.start}") from None
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        if special and self._add_bos and ids[:1] != [self._bos_id]:
            return [self._bos_id, *ids]
        return ids

    def spelling(self, token: object) -> str | None:
        """How a token id is written (`<|im_end|>`); None for what is no id of this vocabulary."""
        if not isinstance(token, int) or not 0 <= token < 2**31:
            return None
        text: str | None = self.backend.id_to_token(token)
        return text

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without special tokens."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=True)
        return text


class Detokenizer:
    """Decodes a generation token by token; text comes out as soon as its last byte is known.

    A character that is spread over several tokens is held until it is complete. U+FFFD appears only for bytes that are
    truly invalid or when the generation ends inside a character. Text is always the difference of two decodings, with
    and without the new tokens, behind the same few earlier ones: so a decoder's leading-space rule cannot bite, and a
    decoder that changes its mind about earlier text costs one token's context instead of the generation.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._shown = list(prompt[-_CONTEXT:])
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """The text that is complete with `token`; often one token's text, sometimes none."""
        self._held.append(token)
        return self._text(hold=len(self._held) <= _MOST_HELD)

    def flush(self) -> str:
        """The text of the tokens still held, complete or not."""
        return self._text(hold=False)

    def _text(self, *, hold: bool) -> str:
        decode = self._tokenizer.decode
        text = decode(self._shown + self._held)
        if hold and text.endswith(_BROKEN):
            return ""
        before = decode(self._shown)
        if not text.startswith(before):
            before = before.rstrip(_BROKEN)  # the prompt ended inside a character, which is complete now
        piece = text[len(before) :] if text.startswith(before) else decode(self._held)
        self._shown = (self._shown + self._held)[-_CONTEXT:]
        self._held = []
        return piece
