"""Tokenizers built from GGUF keys against the ids that the models' own Hugging Face tokenizers give."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from imp_codegen.checkpoint import CheckpointError, Metadata, open_checkpoint
from imp_codegen.tokenizer import TokenizerFiles
from imp_codegen.tokenizer.gguf import from_keys
from imp_codegen.tokenizer.pretokenizers import PRE_TOKENIZERS

FIXTURES = Path(__file__).parents[1] / "fixtures"
TRUTHS = {
    **{path.parent.name: path for path in sorted(FIXTURES.glob("*/tokenizer_truth.json"))},
    **{path.stem: path for path in sorted(FIXTURES.glob("tokenizers/*.json"))},
}
Json = dict[str, Any]  # as the fixtures' files have it


def load(name: str) -> tuple[Metadata, Json]:
    """Keys and truth of a fixture: a GGUF file with the truth beside it, or one JSON file with both."""
    path = TRUTHS[name]
    found: Json = json.loads(path.read_text("utf-8"))
    if "metadata" in found:
        return Metadata(path, found["metadata"]), found["truth"]
    return open_checkpoint(next(path.parent.glob("*.gguf"))).metadata, found


def build(name: str) -> tuple[TokenizerFiles, Tokenizer, Json]:
    metadata, truth = load(name)
    files = from_keys(metadata)
    return files, Tokenizer.from_str(files.tokenizer_json), truth


def special_tokens(files: TokenizerFiles) -> dict[str, int]:
    added = json.loads(files.tokenizer_json)["added_tokens"]
    return {token["content"]: token["id"] for token in added if token["special"]}


@pytest.mark.parametrize("name", TRUTHS)
def test_ids_are_those_of_the_original(name: str) -> None:
    files, tokenizer, truth = build(name)
    assert len(truth["encode_no_special"]) > 10
    for case in truth["encode_no_special"]:
        assert tokenizer.encode(case["text"], add_special_tokens=False).ids == case["ids"], case["text"]
    assert tokenizer.encode(truth["chat_text"], add_special_tokens=False).ids == truth["chat_ids"]
    assert files.add_bos == truth["bos_added_by_default"]
    assert files.vocab_size == tokenizer.get_vocab_size()


@pytest.mark.parametrize("name", TRUTHS)
def test_nothing_is_added_to_a_prompt(name: str) -> None:
    _, tokenizer, truth = build(name)
    text = truth["encode_no_special"][0]["text"]
    assert tokenizer.encode(text).ids == tokenizer.encode(text, add_special_tokens=False).ids


TOKENIZERS = {name: build(name)[1] for name in TRUTHS}


@pytest.mark.parametrize("name", TRUTHS)
@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=60))
def test_text_survives_the_round_trip(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    assume(not any(token.content in text for token in tokenizer.get_added_tokens_decoder().values()))
    text = unicodedata.normalize("NFC", text) if name.startswith(("qwen", "mpt")) else text
    if name == "falcon":  # its vocabulary lacks some bytes
        assume(all(chr_of(byte) in tokenizer.get_vocab() for byte in text.encode()))
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


@pytest.mark.parametrize(
    ("name", "bos", "eos", "stops"),
    [
        ("llama", "<|begin_of_text|>", "<|im_end|>", {"<|im_end|>", "<|end_of_text|>"}),
        ("qwen3", None, "<|im_end|>", {"<|im_end|>", "<|endoftext|>"}),
        ("gpt-4o", "<|startoftext|>", "<|return|>", {"<|im_end|>", "<|return|>"}),
        ("spm", "<s>", "</s>", {"<|im_end|>", "</s>"}),
    ],
)
def test_special_ids(name: str, bos: str | None, eos: str, stops: set[str]) -> None:
    files, tokenizer, _ = build(name)
    assert (None if files.bos is None else tokenizer.id_to_token(files.bos)) == bos
    assert files.eos is not None
    assert tokenizer.id_to_token(files.eos) == eos
    assert {tokenizer.id_to_token(index) for index in files.stop_tokens} == stops
    for text, index in special_tokens(files).items():
        assert tokenizer.encode(f"a{text}b", add_special_tokens=False).ids.count(index) == 1
        assert tokenizer.decode([index]) == ""
    assert files.chat_template is not None
    assert "add_generation_prompt" in files.chat_template


BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_level(pre: str, extra: tuple[str, ...] = (), merges: tuple[str, ...] = (), **more: object) -> Json:
    keys = {"model": "gpt2", "pre": pre, "tokens": [*BYTES, *extra], "merges": list(merges), **more}
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def built(keys: Json) -> TokenizerFiles:
    return from_keys(Metadata(Path("model.gguf"), keys))


SAMPLES = (
    "Hello, I'm 12345 years; isn't it?  \n\n  tabs\t\tand x+=1000000; café naïve 日本語 $5.00 --- ...!?",
    "  two  spaces\r\n\r\nCRLF 3.14159 a1b2c3 'S they'll  ",
    "½ ² ٣٤ Ⅷ",
)


def cut(tokenizer: Tokenizer, text: str) -> list[str]:
    """The pieces that the pre-tokenizer cuts."""
    assert tokenizer.pre_tokenizer is not None
    return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("pre", "steps"),
    [
        ("gpt-2", [pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        ("smollm", [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        (
            "falcon",
            [
                pre_tokenizers.Punctuation("contiguous"),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
                pre_tokenizers.Digits(individual_digits=False),
                pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
            ],
        ),
    ],
)
def test_pre_tokenizers_of_older_models(pre: str, steps: list[pre_tokenizers.PreTokenizer]) -> None:
    expected = Tokenizer(models.BPE())
    expected.pre_tokenizer = pre_tokenizers.Sequence(steps)
    found = Tokenizer.from_str(built(byte_level(pre)).tokenizer_json)
    for text in SAMPLES:
        assert cut(found, text) == cut(expected, text)


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("llama-bpe", ["It", "'S", "Ġ", "123", "45", "ĠfooBar", "(ab", "():/"]),
        ("qwen2", ["It", "'S", "Ġ", "1", "2", "3", "4", "5", "ĠfooBar", "(ab", "():/"]),
        ("gpt-4o", ["It'S", "Ġ", "123", "45", "Ġfoo", "Bar", "(ab", "():/"]),
        ("tekken", ["It", "'S", "Ġ", "1", "2", "3", "4", "5", "Ġfoo", "Bar", "(ab", "():/"]),
        ("deepseek-v3", ["It", "'S", "Ġ", "123", "45", "ĠfooBar", "(ab", "():/"]),
        ("deepseek-llm", ["It", "'", "S", "Ġ", "1", "2", "3", "4", "5", "ĠfooBar", "(", "ab", "():/"]),
        ("glm4", ["It", "'S", "Ġ", "123", "45", "ĠfooBar", "(ab", "():/"]),
        ("falcon", ["It", "'", "S", "Ġ", "123", "45", "ĠfooBar", "(", "ab", "():/"]),
        ("seed-coder", ["It", "'S", "Ġ", "1", "2", "3", "4", "5", "ĠfooBar", "(ab", "():/"]),
        ("viking", ["It'S", "Ġ", "1", "2", "3", "4", "5", "ĠfooBar", "(", "ab", "()", ":/"]),
        ("ufakzeka", ["It", "'S", "Ġ", "1", "2", "3", "4", "5", "ĠfooBar", "(ab", "():/"]),
        ("superbpe", ["It'SĠ", "12", "345", "ĠfooBar(ab():/"]),
        ("deepseek-coder", ["It", "'", "S", "Ġ", "1", "2", "3", "4", "5", "ĠfooBar", "(", "ab", "():/"]),
    ],
)
def test_pieces(pre: str, pieces: list[str]) -> None:
    found = Tokenizer.from_str(built(byte_level(pre)).tokenizer_json)
    assert cut(found, "It'S 12345 fooBar(ab():/") == pieces


@pytest.mark.parametrize("pre", [name for name, pre in PRE_TOKENIZERS.items() if not pre.raw])
def test_every_pre_tokenizer_keeps_every_byte(pre: str) -> None:
    files = built(byte_level(pre))
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    for text in SAMPLES:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
        raw = "".join(tokenizer.encode(text).tokens)
        assert raw == "".join(chr_of(byte) for byte in text.encode())


def chr_of(byte: int) -> str:
    """The byte-level alphabet: printable bytes are themselves, the others follow from 256 on."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return chr(byte) if byte in shown else chr(256 + [b for b in range(256) if b not in shown].index(byte))


@pytest.mark.parametrize(
    ("pre", "tokens"),
    [
        *((name, ["abc"]) for name in ("llama-bpe", "tekken", "glm4", "glm5", "minicpm5", "youtu")),
        *((name, ["a", "bc"]) for name in ("qwen2", "chatglm-bpe", "smaug-bpe", "deepseek-v3")),
    ],
)
def test_ignore_merges_takes_whole_words(pre: str, tokens: list[str]) -> None:
    keys = byte_level(pre, ("ab", "bc", "abc"), ("b c",))
    assert Tokenizer.from_str(built(keys).tokenizer_json).encode("abc").tokens == tokens


def test_user_defined_tokens_are_found_whole_and_shown() -> None:
    types = [1] * 256 + [4, 3, 5]
    keys = byte_level("qwen2", ("<tool>", "<|end|>", "[unused]"), token_type=types, eot_token_id=257)
    files = built(keys)
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    assert tokenizer.encode("a<tool>b<|end|>").ids[1::2] == [256, 257]
    assert tokenizer.decode([256, 257]) == "<tool>"
    assert special_tokens(files) == {"<|end|>": 257}
    assert files.stop_tokens == (257,)
    assert (files.bos, files.eos, files.add_bos, files.chat_template) == (None, None, False, None)


def test_named_chat_templates() -> None:
    assert built(byte_level("gpt-2")).tool_template is None
    files = built(byte_level("gpt-2") | {"tokenizer.chat_template": "a", "tokenizer.chat_template.tool_use": "b"})
    assert (files.chat_template, files.tool_template) == ("a", "b")


def test_harmony_goes_on_after_end() -> None:
    types = [1] * 256 + [3, 3, 3]
    keys = byte_level("gpt-4o", ("<|end|>", "<|return|>", "<|call|>"), token_type=types, eos_token_id=257)
    assert built(keys).stop_tokens == (257, 258)
    for kind in (1, 3, 4):
        keys["tokenizer.ggml.token_type"] = [1] * 256 + [kind] * 3
        files = built(keys | {"tokenizer.ggml.eot_token_id": 256})
        assert files.stop_tokens == (257, 258)
        assert not any("<|end|>" in note for note in files.notes)


@pytest.mark.parametrize("kind", [1, 3, 4])
def test_what_ends_a_reply_is_a_control_token_whatever_the_file_calls_it(kind: int) -> None:
    ends = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
    merges = ("< |", "<| im_end|>")  # as if it were text
    keys = byte_level("qwen2", (*ends, "<|", "im_end|>"), merges, token_type=[1] * 256 + [kind] * 4 + [1] * 2)
    files = built(keys)
    assert files.stop_tokens == (256, 257, 258, 259)
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    assert tokenizer.encode("a<|im_end|>b<|eot_id|>").ids[1::2] == [256, 257]
    assert tokenizer.decode([256]) == ""
    assert bool(files.notes) == (kind != 3)
    assert all("token_type calls <|im_end|>, <|eot_id|>, <end_of_turn>, <|end|> text" in note for note in files.notes)
    tokenizer.encode_special_tokens = True
    assert tokenizer.decode(tokenizer.encode("a<|im_end|>").ids) == "a<|im_end|>"


def test_a_tag_of_html_ends_a_reply_only_as_a_control_token() -> None:
    for kind, stops in ((1, ()), (3, (256,)), (4, ())):
        assert built(byte_level("qwen2", ("</s>",), token_type=[1] * 256 + [kind])).stop_tokens == stops


def test_a_missing_pre_tokenizer_is_said() -> None:
    keys = byte_level("default")
    assert built(keys).notes == ()
    del keys["tokenizer.ggml.pre"]
    (note,) = built(keys).notes
    assert note.startswith("model.gguf: has no key tokenizer.ggml.pre: text is cut in llama.cpp's default way")


def test_what_stands_around_a_text() -> None:
    keys = byte_level("qwen2", ("<b>", "<e>"), token_type=[1] * 256 + [3] * 2, bos_token_id=256, eos_token_id=257)
    assert (built(keys).add_bos, built(keys).add_eos) == (False, False)
    keys |= {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    assert (built(keys).add_bos, built(keys).add_eos) == (True, True)
    del keys["tokenizer.ggml.eos_token_id"]
    assert not built(keys).add_eos


def spm(**more: object) -> Json:
    metadata, _ = load("spm")
    keys: Json = {key: metadata.strings(key) for key in ("tokenizer.ggml.tokens",)}
    keys |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": metadata.numbers("tokenizer.ggml.scores")}
    keys["tokenizer.ggml.token_type"] = metadata.integers("tokenizer.ggml.token_type")
    return keys | {f"tokenizer.ggml.{key}": value for key, value in more.items()}


def test_best_score_wins() -> None:
    """`abc` is a + bc or ab + c: the union with the better score is made first, whatever the ids."""
    tokens = ["<unk>", "<s>", "</s>", "a", "b", "c", "ab", "bc"]
    keys: Json = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens}
    keys["tokenizer.ggml.token_type"] = [2, 3, 3, 1, 1, 1, 1, 1]
    keys["tokenizer.ggml.add_space_prefix"] = False
    for first, second, expected in ((-1.0, -2.0, ["ab", "c"]), (-2.0, -1.0, ["a", "bc"])):
        keys["tokenizer.ggml.scores"] = [0.0, 0.0, 0.0, -9.0, -9.0, -9.0, first, second]
        assert Tokenizer.from_str(built(keys).tokenizer_json).encode("abc").tokens == expected


def test_only_normal_tokens_are_joined() -> None:
    """Text that looks like a byte token, or like one marked unused, is spelled out."""
    tokens = ["<unk>", "<s>", "</s>", "<0x41>", "<0", "x41>", "a", "b", "ab"]
    keys: Json = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens}
    keys |= {"tokenizer.ggml.token_type": [2, 3, 3, 6, 1, 1, 1, 1, 5], "tokenizer.ggml.scores": [0.0] * 9}
    tokenizer = Tokenizer.from_str(built(keys).tokenizer_json)
    assert tokenizer.encode("ab").tokens[-2:] == ["a", "b"]
    assert "<0x41>" not in tokenizer.encode("<0x41>").tokens


def test_sentence_piece_falls_back_to_bytes() -> None:
    files = built(spm())
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    assert isinstance(tokenizer.decoder, decoders.Decoder)
    assert tokenizer.encode("🙂").tokens[-4:] == ["<0xF0>", "<0x9F>", "<0x99>", "<0x82>"]
    assert (files.bos, files.eos, files.add_bos) == (1, 2, True)


BAD_KEYS: dict[str, tuple[Json, str]] = {
    "no model": ({}, "has no key tokenizer.ggml.model"),
    "none": ({"tokenizer.ggml.model": "none"}, "tokenizer.ggml.model is 'none', expected gpt2"),
    "another model": ({"tokenizer.ggml.model": "t5"}, "tokenizer.ggml.model is 't5', expected gpt2"),
    "no tokens": ({"tokenizer.ggml.model": "gpt2"}, "has no key tokenizer.ggml.tokens"),
    "tokens of another type": ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": 3}, "is 3, expected a list"),
    "empty list": ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": []}, "is a list of 0 ()"),
    "empty token": (byte_level("qwen2", ("",)), "token 256 has 0 characters"),
    "long token": (byte_level("qwen2", ("x" * 5000,)), "token 256 has 5000 characters"),
    "repeated token": (byte_level("qwen2", ("ab", "ab")), "tokens 256 and 257 are both 'ab'"),
    "types": (byte_level("qwen2", token_type=[1, 1]), "expected one type for each of the 256 tokens"),
    "eos": (byte_level("qwen2", eos_token_id=256), "eos_token_id is 256, expected an integer in 0..255"),
    "negative bos": (byte_level("qwen2", bos_token_id=-1), "bos_token_id is -1"),
    "add_bos": (byte_level("qwen2", add_bos_token=1), "add_bos_token is 1, expected true or false"),
    "pre": (byte_level("qwen9"), "tokenizer.ggml.pre is 'qwen9', expected one of the 88 that imp knows, like "),
    "merge of one": (byte_level("qwen2", ("ab",), ("ab",)), "merge 0, 'ab', is not a pair of tokens"),
    "merge of strangers": (byte_level("qwen2", ("ab",), ("a b", "a xy")), "merge 1, 'a xy', is not a pair"),
    "merge without result": (byte_level("qwen2", (), ("a b",)), "merge 0, 'a b', is not a pair"),
    "scores": (spm(scores=[0.0]), "expected one score for each of the 512 tokens"),
    "nan scores": (spm(scores=[float("nan")] * 512), "scores[0] is nan, expected a finite number"),
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_bad_keys_are_refused_by_name(name: str) -> None:
    keys, expected = BAD_KEYS[name]
    with pytest.raises(CheckpointError) as caught:
        built(keys)
    message = str(caught.value)
    assert message.startswith("model.gguf: ")
    assert expected in message
    assert "\n" not in message
    assert len(message) < 500
