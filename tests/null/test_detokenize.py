"""Detokenizing token by token against the bytes of everything at once and against the library."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.decoders import DecodeStream

from fake_engine import IM_END, IM_START, encode, reference_tokenizer, write_tiny_artifact
from imp_codegen.checkpoint import Metadata, open_checkpoint
from imp_codegen.tokenizer.gguf import from_keys
from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError
from imp_server.generation.tokenizer import Detokenizer, Tokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures"
TRUTH = json.loads((FIXTURES / "qwen3" / "tokenizer_truth.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_tiny_artifact(tmp_path_factory.mktemp("tokenizer") / "tiny.impc")


@pytest.fixture(scope="module")
def tokenizer(artifact: Artifact) -> Tokenizer:
    return Tokenizer(artifact)


def pieces(tokenizer: Tokenizer, ids: list[int], prompt: list[int] | None = None) -> list[str]:
    detokenizer = Detokenizer(tokenizer, prompt or [])
    return [detokenizer.push(token) for token in ids]


@pytest.mark.parametrize("case", TRUTH["encode_no_special"], ids=lambda case: repr(case["text"][:20]))
def test_encode_against_the_truth(tokenizer: Tokenizer, case: dict[str, object]) -> None:
    assert tokenizer.encode(str(case["text"]), special=True) == case["ids"]


@given(text=st.text(max_size=40))
def test_pieces_add_up_to_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = encode(text)
    assert "".join(pieces(tokenizer, ids)) == reference_tokenizer().decode(ids)


@given(text=st.text("aé🙂日 \n", max_size=20))
def test_as_early_as_the_library_stream(tokenizer: Tokenizer, text: str) -> None:
    ids = encode(text)
    stream = DecodeStream(skip_special_tokens=True)
    expected = [stream.step(reference_tokenizer(), token) or "" for token in ids]
    assert pieces(tokenizer, ids) == expected


class Vocabulary:
    """A fixture's tokenizer in an artifact, and the bytes of its tokens read from the GGUF keys alone."""

    def __init__(self, name: str, folder: Path) -> None:
        metadata = read_metadata(name)
        files = from_keys(metadata)
        self.library = tokenizers.Tokenizer.from_str(files.tokenizer_json)
        blob = {"tokenizer.json": files.tokenizer_json.encode()}
        self.tokenizer = Tokenizer(write_tiny_artifact(folder / f"{name}.impc", blobs=blob))
        tokens = metadata.strings("tokenizer.ggml.tokens")
        types = metadata.integers("tokenizer.ggml.token_type")
        spm = metadata.string("tokenizer.ggml.model") != "gpt2"
        self.strips = spm and metadata.boolean("tokenizer.ggml.add_space_prefix", True)
        self.bytes = [spm_bytes(each) if spm else letters(each) for each in tokens]
        # Kind 3 is control, which is not shown, like 2, unknown.
        self.bytes = [b"" if kind in (2, 3) else raw for raw, kind in zip(self.bytes, types, strict=True)]
        self.broken = [index for index, raw in enumerate(self.bytes) if not is_text(raw)]


def read_metadata(name: str) -> Metadata:
    path = FIXTURES / "tokenizers" / f"{name}.json"
    if path.exists():
        return Metadata(path, json.loads(path.read_text("utf-8"))["metadata"])
    return open_checkpoint(next((FIXTURES / name).glob("*.gguf"))).metadata


def spm_bytes(token: str) -> bytes:
    byte = re.fullmatch("<0x(..)>", token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode()


def letters(token: str) -> bytes:
    """The bytes behind GPT-2's letters: printable latin-1 is itself, the rest of the bytes follow from U+0100 on."""
    rest = [byte for byte in range(256) if not (33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174)]
    return bytes(rest[ord(letter) - 256] if ord(letter) >= 256 else ord(letter) for letter in token)


def is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


NAMES = ("qwen3", "llama", "gpt-4o", "qwen35", "falcon", "spm", "spm-no-prefix", "spm-runs", "gemma4")


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Vocabulary]:
    folder = tmp_path_factory.mktemp("vocabularies")
    return {name: Vocabulary(name, folder) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_tokens_streamed_are_the_whole_text(vocabularies: dict[str, Vocabulary], name: str, data: object) -> None:
    """Whatever the tokens: the pieces are their bytes as text, but for a character that the end cuts in two."""
    assert isinstance(data, st.DataObject)
    vocabulary = vocabularies[name]
    anything = st.integers(0, len(vocabulary.bytes) - 1)
    ids = data.draw(st.lists(anything | st.sampled_from(vocabulary.broken), max_size=40))
    border = data.draw(st.integers(0, len(ids)))
    raw = b"".join(vocabulary.bytes[token] for token in ids)
    begun = b"".join(vocabulary.bytes[token] for token in ids[:border])
    if vocabulary.strips:
        raw, begun = raw.removeprefix(b" "), begun.removeprefix(b" ")
    streamed = "".join(pieces(vocabulary.tokenizer, ids))
    assert streamed == codecs.utf_8_decode(raw, "replace", False)[0]
    before, _ = codecs.utf_8_decode(begun, "replace", False)
    assert "".join(pieces(vocabulary.tokenizer, ids[border:], ids[:border])) == streamed[len(before) :]
    assert vocabulary.tokenizer.decode(ids) == raw.decode(errors="replace")
    if is_text(raw):
        assert vocabulary.tokenizer.decode(ids) == vocabulary.library.decode(ids)


@pytest.mark.parametrize("name", NAMES)
def test_many_characters_of_several_tokens(vocabularies: dict[str, Vocabulary], name: str) -> None:
    text = "😀😁😂🤣😃 日本語 👩\u200d👩\u200d👧 é" * 3
    vocabulary = vocabularies[name]
    assert "".join(pieces(vocabulary.tokenizer, vocabulary.library.encode(text).ids)) == text


@given(ids=st.lists(st.integers(0, 497), max_size=30))
def test_any_bytes_are_read_as_the_library_reads_them(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert tokenizer.decode(ids) == reference_tokenizer().decode(ids)


def test_emoji_split_over_tokens(tokenizer: Tokenizer) -> None:
    ids = encode("🙂")
    assert len(ids) > 1
    assert pieces(tokenizer, ids) == [""] * (len(ids) - 1) + ["🙂"]


def test_a_generation_that_ends_inside_a_character_holds_it_back(tokenizer: Tokenizer) -> None:
    ids = encode("a🙂")[:-1]
    assert "".join(pieces(tokenizer, ids)) == "a"
    assert tokenizer.decode(ids) == "a\ufffd"


def test_a_prompt_that_ends_inside_a_character(tokenizer: Tokenizer) -> None:
    ids = encode("a🙂b")
    assert "".join(pieces(tokenizer, ids[-2:], ids[:-2])) == "🙂b"


def test_invalid_bytes_do_not_hold_text_for_ever(tokenizer: Tokenizer) -> None:
    continuation = encode("🙂")[-1]
    shown = pieces(tokenizer, [continuation] * 40)
    assert any(shown[:20])
    assert "".join(shown) == "\ufffd" * 40


def test_special_tokens_are_read_but_not_shown(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<|im_start|>a", special=False)[0] == IM_START
    assert "".join(pieces(tokenizer, [IM_START, *encode("a"), IM_END])) == "a"


def test_sentencepiece_keeps_the_space_after_the_prompt(tmp_path: Path) -> None:
    words = ["<unk>", "\u2581Hello", "\u2581world", "!", "[INST]"]
    keys = {"model": "llama", "tokens": words, "scores": [0.0] * 5, "token_type": [2, 1, 1, 1, 3]}
    files = from_keys(Metadata(tmp_path, {f"tokenizer.ggml.{key}": value for key, value in keys.items()}))
    blob = {"tokenizer.json": files.tokenizer_json.encode()}
    tokenizer = Tokenizer(write_tiny_artifact(tmp_path / "spm.impc", blobs=blob))
    assert pieces(tokenizer, [1, 2, 3]) == ["Hello", " world", "!"]
    assert pieces(tokenizer, [2, 3], [1]) == [" world", "!"]
    assert pieces(tokenizer, [2, 3], [4]) == ["world", "!"]


@pytest.mark.parametrize("text", ["a", "<|im_start|>a"])
def test_the_bos_token_is_put_in_front_once(tmp_path: Path, text: str) -> None:
    tokenizer = Tokenizer(write_tiny_artifact(tmp_path / "bos.impc", bos_token=IM_START, add_bos=True))
    assert tokenizer.encode(text, special=True) == [IM_START, *encode("a")]
    assert tokenizer.encode("a", special=False) == encode("a")


def test_the_eos_token_is_put_behind_once_where_a_text_ends(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_tiny_artifact(tmp_path / "eos.impc", add_eos=True))
    assert tokenizer.encode("a", special=True, end=True) == [*encode("a"), IM_END]
    assert tokenizer.encode("a<|im_end|>", special=True, end=True) == [*encode("a"), IM_END]
    assert tokenizer.encode("a", special=True) == encode("a")
    tokenizer = Tokenizer(write_tiny_artifact(tmp_path / "none.impc"))
    assert tokenizer.encode("a", special=True, end=True) == encode("a")


def test_bad_tokenizers_and_texts(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(ImpError, match=r"tokenizer\.json in the artifact cannot be read"):
        Tokenizer(write_tiny_artifact(tmp_path / "bad.impc", blobs={"tokenizer.json": b"{"}))
    other = tokenizers.Tokenizer(tokenizers.models.WordPiece({"a": 0}))
    other.decoder = tokenizers.decoders.WordPiece()
    with pytest.raises(ImpError, match="decodes by WordPiece, which is unknown"):
        Tokenizer(write_tiny_artifact(tmp_path / "other.impc", blobs={"tokenizer.json": other.to_str().encode()}))
    with pytest.raises(ImpError, match=r"not valid UTF-8.*character 1"):
        tokenizer.encode("a\udcff", special=True)
