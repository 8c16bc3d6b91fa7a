"""Thin artifacts of models on the Hub, of which the weights are not downloaded."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from huggingface_hub import constants

from edited_folder import hold, say, weights
from hub import Hub, serve
from imp_codegen import compiler
from imp_codegen.build import CodeObject, Unit
from imp_runtime.artifact import RECIPE, Artifact
from imp_server.cli import execute
from small_gguf import vector, write_gguf

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(units: tuple[Unit, ...], progress: object) -> tuple[CodeObject, ...]:
        return tuple(CodeObject(b"code", "", True) for _ in units)

    monkeypatch.setattr(compiler, "build", build)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    (tmp_path / "hub").mkdir()
    with serve(tmp_path / "hub") as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


def imp(*arguments: str | Path) -> int:
    return execute([*map(str, arguments)])


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("imp: error: ")
    assert "internal error" not in error
    return error


def thin_and_whole(hub: Hub, model: Path, folder: Path, *more: str) -> Path:
    """A thin artifact of the hub's heads; linked with the files it is what they compile to."""
    thin, linked, whole = (folder / name for name in ("m.thin.impc", "linked.impc", "whole.impc"))
    assert imp("compile", "hf:org/m", "--thin", "-o", thin, "--target", "sim", *more) == 0
    assert imp("link", thin, model, "-o", linked) == 0
    assert imp("compile", model, "-o", whole, "--target", "sim", *more) == 0
    assert linked.read_bytes() == whole.read_bytes()
    return thin


def test_of_a_gguf_only_the_head_is_served(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imp_codegen.checkpoint.heads._FIRST_GGUF", 1000)  # so that it takes several to find the end
    factors = vector(np.random.default_rng(1), 8)  # which are read when it is compiled
    model = write_gguf(hub.folder / "m.gguf", tensors={"rope_freqs.weight": factors}, quant="Q8_0")
    thin = thin_and_whole(hub, model, tmp_path)
    head = min(int(tensor.data_offset) for tensor in gguf.GGUFReader(model).tensors)
    assert head - 64 <= hub.served < 2 * head
    assert hub.served < model.stat().st_size / 3
    recipe = _recipe(thin)
    assert recipe["files"] == [
        {"name": "m.gguf", "bytes": model.stat().st_size, "sha256": hashlib.sha256(model.read_bytes()).hexdigest()}
    ]
    assert b'"sha256":""' in Artifact.open(thin, thin=True).read(RECIPE)


def test_what_is_rounded_is_not_compared(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_gguf(hub.folder / "m.gguf", quant="F16")
    thin_and_whole(hub, model, tmp_path, "--weights", "nvfp4")
    thin, whole = capsys.readouterr().out.split("bytes before")[1:]
    assert "not measured" in thin
    assert "not measured" not in whole


def test_of_parts_in_a_folder_of_their_own(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "Q8_0").mkdir()
    write_gguf(hub.folder / "Q8_0" / "m.gguf", quant="Q8_0", split=5)
    parts = sorted((hub.folder / "Q8_0").iterdir())
    thin = thin_and_whole(hub, parts[0], tmp_path)
    assert [file["name"] for file in _recipe(thin)["files"]] == [path.name for path in parts]


def test_of_a_folder_only_heads_and_texts_are_served(hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "llama" / "hf", hub.folder, dirs_exist_ok=True)
    halves = _halves(hub.folder)
    model = tmp_path / "models--org--m" / "snapshots" / "x"  # which is called as in the Hub's cache
    shutil.copytree(hub.folder, model)
    thin = thin_and_whole(hub, model, tmp_path)
    heads = sum(8 + int.from_bytes(path.read_bytes()[:8], "little") for path in halves)
    assert heads <= hub.served <= max(heads, 2 << 16)
    assert Artifact.open(thin, thin=True).plan.model == "m"


def test_a_head_that_is_tied_is_compared_by_a_few_rows(hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "qwen3" / "hf", hub.folder, dirs_exist_ok=True)
    tensors = weights(hub.folder)
    embedding = tensors["model.embed_tokens.weight"]
    say(hold(hub.folder, tensors | {"lm_head.weight": embedding}), tie_word_embeddings=True)
    model = tmp_path / "models--org--m" / "snapshots" / "x"
    shutil.copytree(hub.folder, model)
    thin_and_whole(hub, model, tmp_path)
    assert hub.served <= (1 << 16) + 6 * len(embedding[2]) // embedding[1][0]


def test_other_files_are_refused(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_gguf(hub.folder / "m.gguf", quant="Q8_0")
    thin = tmp_path / "m.thin.impc"
    assert imp("compile", "hf:org/m", "--thin", "-o", thin, "--target", "sim") == 0
    raw = bytearray(model.read_bytes())
    before = hashlib.sha256(raw).hexdigest()
    raw[-1] ^= 1
    other = tmp_path / "called otherwise.gguf"
    other.write_bytes(raw)
    assert imp("link", thin, other, "-o", tmp_path / "linked.impc") == 2
    after = hashlib.sha256(raw).hexdigest()
    assert f"{other} has the SHA-256 {after}, expected {before}" in complaint(capsys)
    longer = write_gguf(tmp_path / "longer.gguf", quant="Q8_0", keys={"general.name": "x" * 100})
    assert imp("link", thin, longer, "-o", tmp_path / "linked.impc") == 2
    assert f"longer.gguf: has {longer.stat().st_size:,} bytes, expected {len(raw):,}" in complaint(capsys)
    write_gguf(tmp_path / "s.gguf", quant="Q8_0", split=5)
    assert imp("link", thin, min(tmp_path.glob("s-*")), "-o", tmp_path / "linked.impc") == 2
    assert "its weights are in 6 files, those of the thin artifact in 1: m.gguf" in complaint(capsys)
    other.write_bytes(model.read_bytes())  # its name does not count
    assert imp("link", thin, other, "-o", tmp_path / "linked.impc") == 0


def test_what_the_hub_may_do_wrong(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("imp_codegen.checkpoint.heads._FIRST_GGUF", 1000)

    def refused() -> str:
        assert imp("compile", "hf:org/m", "--thin", "-o", tmp_path / "m.impc", "--target", "sim") == 2
        assert not (tmp_path / "m.impc").exists()
        return complaint(capsys)

    model = write_gguf(hub.folder / "m.gguf", quant="Q8_0")
    raw = model.read_bytes()
    hub.ranges = False
    assert "the Hub does not give the bytes 0 to" in refused()
    hub.ranges = True
    hub.longer = 32
    assert "bytes follow the last tensor" in refused()
    hub.longer = -32
    assert "past the end of the file" in refused()
    hub.longer = 1 << 62
    assert "m.gguf" in refused()
    hub.longer = 0
    model.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + (1 << 40).to_bytes(8, "little") + raw[16:])
    assert "1099511627776 tensors" in refused()
    model.write_bytes(b"<html>")
    assert "is no GGUF file" in refused()
    (hub.folder / "m.gguf").unlink()
    (hub.folder / "m.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + bytes(100))
    (hub.folder / "config.json").write_text("{}")
    assert "its header should have 1152921504606846976 bytes" in refused()


def _recipe(thin: Path) -> dict[str, list[dict[str, object]]]:
    recipe: dict[str, list[dict[str, object]]] = json.loads(Artifact.open(thin, thin=True).read(RECIPE))
    return recipe


def _halves(folder: Path) -> list[Path]:
    """The weights of a folder in two files with an index."""
    stored = weights(folder)
    names = sorted(stored)
    files = {f"model-{i + 1:05}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, held in files.items():
        hold(folder, {name: stored[name] for name in held}).joinpath("model.safetensors").rename(folder / file)
    index = {name: file for file, held in files.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return [folder / file for file in files]
