"""Text to token ids and back, from the `tokenizer.json` that the compiler stored in the artifact."""

from __future__ import annotations

import re
from collections.abc import Sequence

import tokenizers

from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError

_BROKEN = "\ufffd"
# Earlier tokens that stand before the new ones in a decoding; one would do for the leading-space rules.
_CONTEXT = 6
# A character is at most four tokens of one byte each; so many without an end are invalid bytes.
_MOST_HELD = 8
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


def _byte_letters() -> dict[str, int]:
    """The letters that byte-level vocabularies spell bytes with, as GPT-2 chose them: printable ones are themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_letters()


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
        self.vocab = plan.vocab
        self.stop_tokens = plan.stop_tokens
        added = self.backend.get_added_tokens_decoder()
        self._added = {index: token.content for index, token in added.items()}
        self.special_ids = frozenset(index for index, token in added.items() if token.special)
        self.special = {self._added[index]: index for index in self.special_ids}
        self._special_text = re.compile("|".join(re.escape(text) for text in self.special) or "(?!)")
        # Byte-level vocabularies spell bytes as letters; those of SentencePiece spell spaces as U+2581.
        self._byte_level = "ByteLevel" in str(self.backend.decoder)

    def encode(self, text: str, *, special: bool, spelled: bool = True) -> list[int]:
        """Token ids of `text`, in which special tokens may be spelled out unless `spelled` is false.

        `special` puts the beginning-of-sequence token in front where the model wants one and the text does not begin
        with it already; a rendered chat template has its own, so it is encoded without. Raises ImpError for text that
        is not valid Unicode.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ImpError(f"the text is not valid UTF-8: {error.reason} at character {error.start}") from None
        ids: list[int] = self._encode(text, spelled)
        if special and self._add_bos and ids[:1] != [self._bos_id]:
            return [self._bos_id, *ids]
        return ids

    def _encode(self, text: str, spelled: bool) -> list[int]:
        backend = self.backend
        if not spelled and self._special_text.search(text):
            # One of its own: the switch is a state of the backend, which other threads use meanwhile.
            backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
            backend.encode_special_tokens = True
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    def token(self, index: int) -> tuple[str, bytes]:
        """Text and bytes of one token; in the text U+FFFD stands for bytes that are no character on their own."""
        if index in self._added:
            text = self._added[index]
            return text, text.encode()
        spelled = self.spelling(index)
        if spelled is None:
            return "", b""
        if self._byte_level:
            raw = bytes(_BYTE_OF[letter] for letter in spelled if letter in _BYTE_OF)
        elif (byte := _BYTE_TOKEN.fullmatch(spelled)) is not None:
            raw = bytes((int(byte[1], 16),))
        else:
            raw = spelled.replace("\u2581", " ").encode()
        return raw.decode(errors="replace"), raw

    def without_special(self, text: str) -> str:
        """`text` without the special tokens spelled out in it."""
        return self._special_text.sub("", text)

    def spelling(self, token: object) -> str | None:
        """How a token id is written (`<|im_end|>`); None for what is no id of this vocabulary."""
        if not isinstance(token, int) or not 0 <= token < 2**31:
            return None
        text: str | None = self.backend.id_to_token(token)
        return text

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of `ids`, with special tokens spelled out or without them."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=not special)
        return text


class Detokenizer:
    """Decodes a generation token by token; text comes out as soon as its last byte is known.

    A character that is spread over several tokens is held until it is complete. U+FFFD appears only for bytes that are
    truly invalid or when the generation ends inside a character. Text is always the difference of two decodings, with
    and without the new tokens, behind the same few earlier ones: so a decoder's leading-space rule cannot bite, and a
    decoder that changes its mind about earlier text costs one token's context instead of the generation.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = (), *, special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._special = special
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
        decode, special = self._tokenizer.decode, self._special
        text = decode(self._shown + self._held, special=special)
        if hold and text.endswith(_BROKEN):
            return ""
        before = decode(self._shown, special=special)
        if not text.startswith(before):
            before = before.rstrip(_BROKEN)  # the prompt ended inside a character, which is complete now
        piece = text[len(before) :] if text.startswith(before) else decode(self._held, special=special)
        self._shown = (self._shown + self._held)[-_CONTEXT:]
        self._held = []
        return piece
