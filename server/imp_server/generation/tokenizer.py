"""Text to token ids and back, from the `tokenizer.json` that the compiler stored in the artifact."""

from __future__ import annotations

import codecs
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Sequence

import tokenizers

from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError
from imp_server.generation.pieces import Pieces

_LONGEST_CHARACTER = 4  # bytes, in UTF-8
_CONTROL = re.compile("<[|\uff5c].*|.*[|\uff5c]>")
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


def _byte_letters() -> dict[str, int]:
    """The letters that byte-level vocabularies spell bytes with, as GPT-2 chose them: printable ones are themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_letters()


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Finds the longest of `texts` at each place; nothing where there are none."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")


def in_pieces(backend: tokenizers.Tokenizer) -> Pieces:
    """What encodes texts as `backend` does, and cuts them at added tokens that take nothing but themselves."""

    def whole(text: str) -> list[int]:
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    # Those that are looked for in the normalized text are found in what these leave.
    first = {index: token for index, token in backend.get_added_tokens_decoder().items() if not token.normalized}
    plain = {
        token.content: index
        for index, token in first.items()
        if not (token.lstrip or token.rstrip or token.single_word) and whole(token.content) == [index]
    }
    return Pieces(whole, _any_of(token.content for token in first.values()), plain)


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
        self._add_eos = plan.add_eos and plan.eos_token >= 0
        self._eos_id = plan.eos_token
        self.vocab = plan.vocab
        self.stop_tokens = plan.stop_tokens
        added = self.backend.get_added_tokens_decoder()
        self._added = {index: token.content for index, token in added.items()}
        self.special_ids = frozenset(index for index, token in added.items() if token.special)
        self.special = {self._added[index]: index for index in self.special_ids}
        self._special_text = _any_of(self.special)
        # What opens and closes turns, though some files call such tokens text.
        self._control = {text: i for i, text in self._added.items() if text in self.special or _CONTROL.fullmatch(text)}
        self._control_text = _any_of(self._control)
        self._beginnings = frozenset(text[:length] for text in self._control for length in range(1, len(text)))
        self._longest_beginning = max(map(len, self._beginnings), default=0)
        self._read_decoder()
        self._pieces = in_pieces(self.backend)
        self._raw: dict[int, bytes] = {}
        self._texts: dict[int, str | None] = {}

    def _read_decoder(self) -> None:
        """How tokens are spelled: bytes as letters (byte-level), or spaces as U+2581 and odd bytes as `<0x0A>`.

        The second kind comes from SentencePiece, which puts a space in front of every text and takes it off again.
        """
        decoder = json.loads(self.backend.decoder.__getstate__()) if self.backend.decoder is not None else {}
        steps = [step["type"] for step in decoder.get("decoders", [decoder]) if "type" in step]
        self._byte_level = steps == ["ByteLevel"]
        self.strips_space = "Strip" in steps
        if not self._byte_level and steps[:3] != ["Replace", "ByteFallback", "Fuse"]:
            shown = ", ".join(steps) or "nothing"
            raise ImpError(f"tokenizer.json in the artifact decodes by {shown}, which is unknown; compile it again")

    def encode(self, text: str, *, special: bool, end: bool = False, spelled: bool = True) -> list[int]:
        """Token ids of `text`, in which control tokens may be spelled out unless `spelled` is false.

        `special` puts the beginning-of-sequence token in front where the model wants one and the text does not begin
        with it already; a rendered chat template has its own, so it is encoded without. `end` does the same behind the
        text with the end-of-sequence token: for an embedding, not for a text that is to go on. Raises ImpError for text
        that is not valid Unicode.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ImpError(f"the text is not valid UTF-8: {error.reason} at character {error.start}") from None
        ids: list[int] = self._encode(text, spelled)
        return self.framed(ids, begin=special, end=end)

    @functools.cached_property
    def vocabulary_hash(self) -> str:
        """A hash of all token ids and what they spell: two models with the same one have the same tokens."""
        vocabulary = sorted((index, token) for token, index in self.backend.get_vocab(with_added_tokens=True).items())
        return hashlib.blake2b(json.dumps(vocabulary).encode(), digest_size=16).hexdigest()

    @property
    def begin(self) -> int | None:
        """The beginning-of-sequence token, where the model wants one in front of a text."""
        return self._bos_id if self._add_bos else None

    def framed(self, ids: list[int], *, begin: bool = True, end: bool = True) -> list[int]:
        """`ids` with the beginning- and end-of-sequence tokens that the model wants and that are not there yet."""
        if begin and self._add_bos and ids[:1] != [self._bos_id]:
            ids = [self._bos_id, *ids]
        if end and self._add_eos and ids[-1:] != [self._eos_id]:
            ids = [*ids, self._eos_id]
        return ids

    def marked(self, text: str, mark: str) -> str:
        """`text` with `mark` within every control token that is spelled in it, and behind one that its end begins."""
        begins = any(text[-length:] in self._beginnings for length in range(1, self._longest_beginning + 1))
        while places := [match.start() + 1 for match in self._control_text.finditer(text) if len(match[0]) > 1]:
            text = mark.join(text[start:end] for start, end in itertools.pairwise([0, *places, len(text)]))
        return text + mark if begins else text

    def encode_marked(self, text: str, mark: str) -> list[int]:
        """Token ids of `text` without its marks; what had one is no control token."""
        if mark not in text:
            return self.encode(text, special=False)
        ids: list[int] = []
        start = 0
        for match in self._control_text.finditer(text):
            ids += self._literal(text[start : match.start()].replace(mark, ""))
            ids.append(self._control[match[0]])
            start = match.end()
        return ids + self._literal(text[start:].replace(mark, ""))

    def _literal(self, text: str) -> list[int]:
        return self.encode(text, special=False, spelled=False) if text else []

    def _encode(self, text: str, spelled: bool) -> list[int]:
        literal = not spelled and self._control_text.search(text) is not None
        return (self._unspelled if literal else self._pieces).encode(text)

    @functools.cached_property
    def _unspelled(self) -> Pieces:
        """One of its own: the switch is a state of the backend, which other threads use meanwhile."""
        description = json.loads(self.backend.to_str())
        for token in description["added_tokens"]:
            token["special"] = token["content"] in self._control
        backend = tokenizers.Tokenizer.from_str(json.dumps(description))
        backend.encode_special_tokens = True
        return in_pieces(backend)

    def token(self, index: int) -> tuple[str, bytes]:
        """Text and bytes of one token; in the text U+FFFD stands for bytes that are no character on their own."""
        raw = self.raw(index)
        return raw.decode(errors="replace"), raw

    def raw(self, index: int) -> bytes:
        """The bytes that a token stands for, special tokens spelled out; none for what is no token."""
        raw = self._raw.get(index)
        if raw is None:
            raw = self._raw[index] = self._bytes(index)
        return raw

    def text(self, index: int) -> str | None:
        """What a token spells if that is whole characters; None where they begin before it or end behind it."""
        try:
            return self._texts[index]
        except KeyError:
            try:
                text = self.raw(index).decode()
            except UnicodeDecodeError:
                text = None
            return self._texts.setdefault(index, text)

    def _bytes(self, index: int) -> bytes:
        spelled = self.spelling(index)
        if spelled is None:
            return b""
        if index in self._added and self._byte_level:
            return spelled.encode()
        if self._byte_level:
            letters = [_BYTE_OF.get(letter) for letter in spelled]
            return bytes(each for each in letters if each is not None) if None not in letters else spelled.encode()
        if (byte := _BYTE_TOKEN.fullmatch(spelled)) is not None:
            return bytes((int(byte[1], 16),))
        return spelled.replace("\u2581", " ").encode()

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
        """The text of `ids`, with special tokens spelled out or without; U+FFFD for bytes that are no character."""
        pieces = Detokenizer(self, special=special)
        return "".join(map(pieces.push, ids)) + pieces.rest()


class Detokenizer:
    """Decodes token by token: a text's bytes in their order, so that where tokens end makes no difference.

    A character comes out with its last byte. `prompt` is what stands before the text: a character that it began is
    completed, and only the first visible token of all loses the space that SentencePiece puts in front of a text.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = (), *, special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._hidden: frozenset[int] = frozenset() if special else tokenizer.special_ids
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = tokenizer.strips_space and all(token in self._hidden for token in prompt)
        tail = b""
        for token in reversed(prompt):
            if len(tail) >= _LONGEST_CHARACTER:
                break
            tail = self._visible(token) + tail
        self._decoder.decode(tail)
        self._between = not self._decoder.getstate()[0]  # no character has begun

    def push(self, token: int) -> str:
        """The text that is complete with `token`: often its own, sometimes none."""
        if self._between and not self._at_start and token not in self._hidden:
            text = self._tokenizer.text(token)
            if text is not None:
                return text
        raw = self._visible(token)
        if self._at_start and raw:
            self._at_start = False
            raw = raw.removeprefix(b" ")
        text = self._decoder.decode(raw)
        self._between = not self._decoder.getstate()[0]
        return text

    def rest(self) -> str:
        """U+FFFD if the last token left a character incomplete; a generation that ends there does not show it."""
        return self._decoder.decode(b"", final=True)

    def _visible(self, token: int) -> bytes:
        return b"" if token in self._hidden else self._tokenizer.raw(token)
