"""Entries of a build list that lie on the Hub, a local one: built of heads, left alone, built anew when they change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from hub import Hub, serve
from imp_codegen import compiler
from imp_codegen.build import CodeObject
from imp_server.cli import execute
from small_gguf import write_gguf


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(compiler, "build", lambda units, progress: tuple(CodeObject(b"x", "", True) for _ in units))
    (tmp_path / "hub").mkdir()
    with serve(tmp_path / "hub") as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


@pytest.mark.parametrize("thin", [True, False])
def test_an_entry_of_the_hub(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], thin: bool) -> None:
    path, output = tmp_path / "m.toml", tmp_path / "dist"
    path.write_text(f'[[model]]\nname = "m"\nsource = "hf:org/m"\ntargets = ["sim"]\nthin = {str(thin).lower()}\n')

    def outcome() -> str:
        capsys.readouterr()
        execute(["build", str(path), "-o", str(output), "--json"])
        return str(json.loads(capsys.readouterr().out)["outcomes"]["m"])

    model = write_gguf(hub.folder / "m.gguf", quant="Q8_0")
    hub.tags = ["gguf", "license:apache-2.0"]
    assert outcome().startswith("built")
    (made,) = json.loads((output / "index.json").read_text())["models"]
    told = {"name": "m.gguf", "bytes": model.stat().st_size, "sha256": hashlib.sha256(model.read_bytes()).hexdigest()}
    assert (made["inputs"], made["source"], made["licence"]) == ([told], "hf:org/m", "apache-2.0")
    assert outcome() == "unchanged"
    raw = bytearray(model.read_bytes())
    raw[-1] ^= 1
    model.write_bytes(raw)
    assert outcome().startswith("built"), "of other weights, though the heads are the same"
    model.unlink()
    assert outcome().startswith("failed: hf:org/m: ")
    assert not (output / "m.impc").exists()


def test_an_index_that_lies_removes_nothing_elsewhere(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.impc").write_text("mine")
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "index.json").write_text('{"version": 1, "models": [{"name": "../mine"}]}')
    path = tmp_path / "m.toml"
    path.write_text('[[model]]\nname = "m"\nsource = "hf:org/m"\ntargets = ["sim"]\nthin = true\n')
    assert execute(["build", str(path), "-o", str(tmp_path / "dist")]) == 1
    assert (tmp_path / "mine.impc").read_text() == "mine"
