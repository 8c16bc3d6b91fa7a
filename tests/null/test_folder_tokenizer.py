"""Tokenizers, stops and templates of Hugging Face folders: as transformers takes them, or refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from imp_codegen.checkpoint import CheckpointError, open_checkpoint
from imp_codegen.tokenizer import TokenizerFiles, build_tokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures"
NAMES = ("llama", "qwen3")
Json = dict[str, Any]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of llama's folder, to change."""
    shutil.copytree(FIXTURES / "llama" / "hf", tmp_path / "model")
    return tmp_path / "model"


def built(path: Path) -> TokenizerFiles:
    return build_tokenizer(open_checkpoint(path))


def change(path: Path, name: str, **changes: Any) -> None:
    """Set fields of a JSON file; None of Python is null, ... takes a field away."""
    file = path / name
    fields: Json = json.loads(file.read_text("utf-8")) if file.exists() else {}
    fields |= changes
    file.write_text(json.dumps({key: value for key, value in fields.items() if value is not ...}), "utf-8")


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        built(path)
    message = str(caught.value)
    assert message.startswith(f"{path}/")
    assert "\n" not in message
    return message.removeprefix(f"{path}/")


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_the_library(name: str) -> None:
    files = built(FIXTURES / name / "hf")
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    truth = json.loads((FIXTURES / name / "tokenizer_truth.json").read_text("utf-8"))
    for case in truth["encode_no_special"]:
        assert tokenizer.encode(case["text"], add_special_tokens=False).ids == case["ids"]
    fields = json.loads((FIXTURES / name / "hf" / "tokenizer_config.json").read_text("utf-8"))
    assert files.chat_template == fields["chat_template"]
    assert files.tool_template is None
    assert files.notes == ()
    assert files.vocab_size == tokenizer.get_vocab_size()


def test_the_same_as_from_a_gguf() -> None:
    """What a folder and a GGUF file of one model say of beginnings and ends."""
    for name in NAMES:
        gguf = open_checkpoint(FIXTURES / name / f"{name}-Q8_0.gguf")
        one, two = built(FIXTURES / name / "hf"), build_tokenizer(gguf)
        for field in ("bos", "eos", "add_bos", "add_eos", "chat_template"):
            assert getattr(one, field) == getattr(two, field), (name, field)
        assert set(one.stop_tokens) <= set(two.stop_tokens)  # a GGUF file has one end, and those known by name


def test_the_list_of_ends_is_authoritative(model: Path) -> None:
    assert built(model).stop_tokens == (511,)
    change(model, "config.json", eos_token_id=[509, 510])
    assert built(model).stop_tokens == (509, 510, 511)  # and the tokenizer's own
    change(model, "generation_config.json", eos_token_id=[509, 508, 509])
    assert built(model).stop_tokens == (508, 509)
    assert built(model).eos == 511
    change(model, "generation_config.json", eos_token_id=509)
    assert built(model).stop_tokens == (509,)
    (model / "generation_config.json").unlink()
    change(model, "config.json", eos_token_id=None)
    change(model, "tokenizer_config.json", eos_token=None)
    assert built(model).stop_tokens == (509, 511)  # by their names
    for file, value, words in (
        (
            "generation_config.json",
            [1, 512],
            "generation_config.json: eos_token_id[1] is 512, expected an integer",
        ),
        ("generation_config.json", "x", "generation_config.json: eos_token_id is 'x', expected a list of integers"),
        ("config.json", -1, "config.json: eos_token_id is -1, expected an integer in 0..511"),
        ("config.json", True, "config.json: eos_token_id is True, expected"),
    ):
        change(model, file, eos_token_id=value)
        assert refusal(model).startswith(words)
        (model / "generation_config.json").unlink(missing_ok=True)


def test_harmony_ends_in_one_of_two_ways(tmp_path: Path) -> None:
    """<|call|> ends a reply as <|return|> does, whoever names the latter alone; <|end|> separates channels."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        text = (FIXTURES / "gpt_oss" / "hf" / name).read_text("utf-8")
        text = text.replace("<|im_start|>", "<|call|>").replace("<|im_end|>", "<|end|>")
        (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / "model.safetensors").symlink_to(FIXTURES / "gpt_oss" / "hf" / "model.safetensors")
    assert built(tmp_path).stop_tokens == (509, 510)
    change(tmp_path, "generation_config.json", eos_token_id=[509])
    assert built(tmp_path).stop_tokens == (509, 510)
    change(tmp_path, "generation_config.json", eos_token_id=[508])
    assert built(tmp_path).stop_tokens == (508,)
    (tmp_path / "generation_config.json").unlink()
    change(tmp_path, "config.json", eos_token_id=None)
    change(tmp_path, "tokenizer_config.json", eos_token=None)
    assert built(tmp_path).stop_tokens == (509, 510)


def test_how_the_makers_sample(model: Path) -> None:
    assert built(model).recommended == {}
    change(model, "generation_config.json", temperature=0.6, top_k=20, top_p=1, do_sample=True, max_length=5)
    assert built(model).recommended == {"temperature": 0.6, "top_k": 20, "top_p": 1.0, "do_sample": True}
    change(model, "generation_config.json", suppress_tokens=[3])
    assert built(model).notes == (f"{model}/generation_config.json: suppress_tokens is not followed",)
    change(model, "generation_config.json", top_p=1.5)
    assert refusal(model).startswith("generation_config.json: top_p is 1.5, expected a finite number in 0.0..1.0")


def test_chat_templates(model: Path) -> None:
    change(model, "tokenizer_config.json", chat_template=[
        {"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}, {"name": "rag", "template": "c"},
    ])  # fmt: skip
    assert (built(model).chat_template, built(model).tool_template) == ("a", "b")
    change(model, "chat_template.json", chat_template="old")
    assert (built(model).chat_template, built(model).tool_template) == ("old", "b")
    (model / "chat_template.jinja").write_text("file", "utf-8")
    assert (built(model).chat_template, built(model).tool_template) == ("file", "b")
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "tool_use.jinja").write_text("tools", "utf-8")
    assert (built(model).chat_template, built(model).tool_template) == ("file", "tools")
    (model / "chat_template.jinja").write_bytes(b"\xff")
    assert refusal(model).startswith("chat_template.jinja: is not UTF-8")
    (model / "chat_template.jinja").unlink()
    for given in (3, ["a"], [{"name": "a"}], {"name": "x"}, [{"name": "a", "template": "b"}] * 2):
        change(model, "tokenizer_config.json", chat_template=given)
        assert "tokenizer_config.json: chat_template must be a text, or a list of" in refusal(model)
    change(model, "tokenizer_config.json", chat_template=...)
    change(model, "chat_template.json", chat_template=...)
    shutil.rmtree(model / "additional_chat_templates")
    assert (built(model).chat_template, built(model).tool_template) == (None, None)


def post_processor(*pieces: int | None) -> Json:
    """Tokens around a text, which is None."""
    single = [
        {"Sequence": {"id": "A", "type_id": 0}} if piece is None else {"SpecialToken": {"id": str(piece), "type_id": 0}}
        for piece in pieces
    ]
    tokens = {str(p): {"id": str(p), "ids": [p], "tokens": [str(p)]} for p in pieces if p is not None}
    return {"type": "TemplateProcessing", "single": single, "pair": single * 2, "special_tokens": tokens}


def test_what_stands_around_a_text(model: Path) -> None:
    files = built(model)
    assert (files.bos, files.add_bos, files.eos, files.add_eos) == (508, True, 511, False)
    change(model, "tokenizer.json", post_processor=post_processor(509, None, 510))
    files = built(model)
    assert (files.bos, files.add_bos, files.eos, files.add_eos) == (509, True, 510, True)
    change(model, "tokenizer.json", post_processor=None)
    files = built(model)
    assert (files.bos, files.add_bos) == (508, False)
    assert files.notes == (
        f"{model}/tokenizer_config.json: add_bos_token is True, but tokenizer.json puts none; it counts",
    )
    change(model, "tokenizer_config.json", add_bos_token=False, add_eos_token=True)
    assert built(model).notes == (
        f"{model}/tokenizer_config.json: add_eos_token is True, but tokenizer.json puts none; it counts",
    )
    change(model, "tokenizer.json", post_processor=post_processor(508, 509, None))
    assert "tokenizer.json: its post_processor puts 2 tokens before a text; imp puts one" in refusal(model)


def test_a_prompt_is_neither_cut_nor_made_longer(model: Path) -> None:
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "x",
    }  # fmt: skip
    change(model, "tokenizer.json", truncation=truncation, padding=padding)
    text = "def f(x): return 1"
    found = Tokenizer.from_str(built(model).tokenizer_json).encode(text, add_special_tokens=False).ids
    truth = Tokenizer.from_str((FIXTURES / "llama" / "hf" / "tokenizer.json").read_text("utf-8"))
    assert found == truth.encode(text, add_special_tokens=False).ids
    assert len(found) > 2


def test_other_tokenizers_are_refused_by_name(model: Path) -> None:
    whole = json.loads((model / "tokenizer.json").read_text("utf-8"))
    for changes, words in (
        ({"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}, "decoder is WordPiece, expected"),
        ({"decoder": None}, "decoder is nothing, expected ByteLevel"),
        ({"decoder": {"type": "Nonsense"}}, "cannot be read: "),
        ({"model": whole["model"] | {"dropout": 0.5}}, "model.dropout is 0.5, expected null"),
        ({"model": whole["model"] | {"vocab": {}, "merges": []}, "added_tokens": []}, "has 0 tokens, expected 1.."),
        ({"model": whole["model"] | {"vocab": whole["model"]["vocab"] | {"far": 2**31}}}, "has 2147483649 tokens"),
        ({"post_processor": {"type": "Nonsense"}}, "cannot be read: "),
    ):  # fmt: skip
        (model / "tokenizer.json").write_text(json.dumps(whole | changes), "utf-8")
        assert refusal(model).startswith(f"tokenizer.json: {words}")
    for raw in (b"", b"{", b"\xff", b"[" * 100_000):
        (model / "tokenizer.json").write_bytes(raw)
        assert refusal(model).startswith("tokenizer.json: cannot be read: ")
    (model / "tokenizer.json").unlink()
    assert refusal(model) == "tokenizer.json: does not exist; download it"
    for name in ("tokenizer.model", "tekken.json"):
        (model / name).touch()
        assert f"tokenizer.json: does not exist, and imp reads no {name}; make it with transformers: " in refusal(model)
        (model / name).unlink()


def test_files_that_contradict_each_other(model: Path) -> None:
    for changes, words in (
        ({"eos_token": "<nothing>"}, "eos_token is '<nothing>', expected a token of tokenizer.json"),
        ({"bos_token": {"content": "<nothing>"}}, "bos_token.content is '<nothing>', expected a token"),
        ({"added_tokens_decoder": {"508": {"content": "x"}}}, "added_tokens_decoder.508.content is 'x', expected what"),
        ({"added_tokens_decoder": {"900": {"content": "x"}}}, "expected what tokenizer.json has: it has no such token"),
        ({"added_tokens_decoder": {"x": {"content": "x"}}}, "added_tokens_decoder has 'x', expected a token's id"),
        ({"added_tokens_decoder": {"508": {}}}, "has no key added_tokens_decoder.508.content"),
        ({"add_bos_token": "yes"}, "add_bos_token is 'yes', expected true or false"),
    ):
        shutil.copy(FIXTURES / "llama" / "hf" / "tokenizer_config.json", model)
        change(model, "tokenizer.json", post_processor=None)
        change(model, "tokenizer_config.json", **changes)
        assert words in refusal(model)
    (model / "tokenizer_config.json").write_text("[]", "utf-8")
    assert refusal(model) == "tokenizer_config.json: the file is not a JSON object"
    (model / "tokenizer_config.json").unlink()  # then config.json has the ends, and the tokenizer what comes before
    assert built(model).stop_tokens == (511,)
