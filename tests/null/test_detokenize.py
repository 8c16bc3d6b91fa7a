"""Detokenizing token by token against decoding everything at once and against the library's own stream."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.decoders import DecodeStream

from fake_engine import IM_END, IM_START, encode, reference_tokenizer, write_tiny_artifact
from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError
from imp_server.tokenizer import Detokenizer, Tokenizer

TRUTH = json.loads((Path(__file__).parents[1] / "fixtures" / "qwen3" / "tokenizer_truth.json").read_text())


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_tiny_artifact(tmp_path_factory.mktemp("tokenizer") / "tiny.impc")


@pytest.fixture(scope="module")
def tokenizer(artifact: Artifact) -> Tokenizer:
    return Tokenizer(artifact)


def pieces(tokenizer: Tokenizer, ids: list[int], prompt: list[int] | None = None) -> list[str]:
    detokenizer = Detokenizer(tokenizer, prompt or [])
    return [*(detokenizer.push(token) for token in ids), detokenizer.flush()]


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
    assert pieces(tokenizer, ids)[:-1] == expected


@given(ids=st.lists(st.integers(0, 497), max_size=30))
def test_any_bytes_are_neither_lost_nor_doubled(tokenizer: Tokenizer, ids: list[int]) -> None:
    expected = reference_tokenizer().decode(ids)
    got = "".join(pieces(tokenizer, ids))
    # Where invalid bytes run on, it is open how many U+FFFD stand for them; everything else is exact.
    assert got.replace("\ufffd", "") == expected.replace("\ufffd", "")
    assert ("\ufffd" in got) == ("\ufffd" in expected)


def test_emoji_split_over_tokens(tokenizer: Tokenizer) -> None:
    ids = encode("🙂")
    assert len(ids) > 1
    assert pieces(tokenizer, ids) == [""] * (len(ids) - 1) + ["🙂", ""]


def test_a_generation_that_ends_inside_a_character_shows_it(tokenizer: Tokenizer) -> None:
    ids = encode("a🙂")[:-1]
    assert "".join(pieces(tokenizer, ids)) == "a\ufffd"


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
    words = {"<unk>": 0, "\u2581Hello": 1, "\u2581world": 2, "!": 3}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(words, [], unk_token="<unk>"))
    backend.decoder = tokenizers.decoders.Metaspace(prepend_scheme="first")
    blob = {"tokenizer.json": backend.to_str().encode()}
    tokenizer = Tokenizer(write_tiny_artifact(tmp_path / "spm.impc", blobs=blob))
    assert pieces(tokenizer, [1, 2, 3]) == ["Hello", " world", "!", ""]
    assert pieces(tokenizer, [2, 3], [1]) == [" world", "!", ""]


@pytest.mark.parametrize("text", ["a", "<|im_start|>a"])
def test_the_bos_token_is_put_in_front_once(tmp_path: Path, text: str) -> None:
    tokenizer = Tokenizer(write_tiny_artifact(tmp_path / "bos.impc", bos_token=IM_START, add_bos=True))
    assert tokenizer.encode(text, special=True) == [IM_START, *encode("a")]
    assert tokenizer.encode("a", special=False) == encode("a")


def test_bad_tokenizers_and_texts(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(ImpError, match=r"tokenizer\.json in the artifact cannot be read"):
        Tokenizer(write_tiny_artifact(tmp_path / "bad.impc", blobs={"tokenizer.json": b"{"}))
    with pytest.raises(ImpError, match=r"not valid UTF-8.*character 1"):
        tokenizer.encode("a\udcff", special=True)
