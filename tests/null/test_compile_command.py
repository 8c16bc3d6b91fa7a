"""What `imp compile` must not write to, and what it is given that it cannot read: one line, and no file is touched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_artifact import write_tiny

from imp_codegen import compiler
from imp_codegen.build import CodeObject, Unit
from imp_codegen.checkpoint import CheckpointError, open_checkpoint
from imp_runtime.artifact import Artifact, is_artifact
from imp_runtime.text import visible
from imp_server.cli import execute
from small_gguf import byte_letters, tensors_of, write_gguf


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "m.gguf")


@pytest.fixture(autouse=True)
def built(monkeypatch: pytest.MonkeyPatch) -> list[Unit]:
    """No compiler runs; the units that would have been built."""
    units: list[Unit] = []

    def build(given: tuple[Unit, ...], progress: object) -> tuple[CodeObject, ...]:
        units.extend(given)
        return tuple(CodeObject(b"code", "", True) for _ in given)

    monkeypatch.setattr(compiler, "build", build)
    return units


def imp_compile(*arguments: str | Path) -> int:
    return execute(["compile", *map(str, arguments), "--target", "sim"])


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("imp: error: ")
    assert error.count("\n") == 1
    assert error.removesuffix("\n") == visible(error.removesuffix("\n"))
    assert "internal error" not in error
    return error


def same(folder: Path) -> Path:
    return folder / "m.gguf"


def another_spelling(folder: Path) -> Path:
    return folder / "sub" / ".." / "m.gguf"


def symbolic(folder: Path) -> Path:
    (folder / "link.impc").symlink_to("m.gguf")
    return folder / "link.impc"


def hard(folder: Path) -> Path:
    os.link(folder / "m.gguf", folder / "hard.impc")
    return folder / "hard.impc"


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "forced"])
@pytest.mark.parametrize("output", [same, another_spelling, symbolic, hard])
def test_the_source_is_never_overwritten(
    model: Path,
    output: Callable[[Path], Path],
    force: tuple[str, ...],
    built: list[Unit],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (model.parent / "sub").mkdir()
    before = model.read_bytes()
    assert imp_compile(model, "-o", output(model.parent), *force) == 2
    assert "is the model that is to be compiled" in complaint(capsys)
    assert model.read_bytes() == before
    assert not built


def test_a_config_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Path(__file__).parents[2] / "models" / "shapes" / "qwen3-0.6b.json"
    copy = tmp_path / "config.json"
    copy.write_bytes(config.read_bytes())
    for source in (copy, tmp_path):
        assert imp_compile(source, "--random-weights", "-o", copy, "--force") == 2
        assert "is the model that is to be compiled" in complaint(capsys)
    assert copy.read_bytes() == config.read_bytes()


@pytest.mark.parametrize("link", [None, Path.symlink_to, Path.hardlink_to])
def test_no_file_of_a_folder_is_overwritten(
    tmp_path: Path, link: Callable[[Path, Path], None] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(Path(__file__).parents[1] / "fixtures" / "llama" / "hf", folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert folder / "model.safetensors" in before
    for path in before:
        output = path
        if link is not None:
            output = tmp_path / f"{path.name}.impc"
            link(output, path)
        assert imp_compile(folder, "-o", output, "--force") == 2
        assert "is the model that is to be compiled" in complaint(capsys)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    for _ in range(2):  # beside them there is room, and what is there may be replaced
        assert imp_compile(folder, "-o", folder / "out.impc") == 0


def test_what_an_artifact_replaces(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = model.parent / "out.impc"
    assert imp_compile(model, "-o", output) == 0
    assert imp_compile(model, "-o", output) == 0  # an artifact
    output.write_bytes(output.read_bytes().replace(b'"format_version":"', b'"format_version":"9', 1))
    assert is_artifact(output)
    assert imp_compile(model, "-o", output) == 0  # one of another version
    output.write_bytes(b"")
    assert imp_compile(model, "-o", output) == 0  # mktemp's
    capsys.readouterr()
    for other in (b"x", b"a diary of many years\n", b'{"__metadata__":{"format":"impc"}}', model.read_bytes()):
        output.write_bytes(other)
        assert imp_compile(model, "-o", output) == 2
        assert "exists and is no compiled model" in complaint(capsys)
        assert output.read_bytes() == other
    assert imp_compile(model, "-o", output, "--force") == 0
    assert Artifact.open(output).plan.model == "small"


def test_weights_that_differ_anywhere_have_another_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hashes = []
    matrix = tensors_of("llama")["blk.1.ffn_down.weight"]
    for name, row, context in (("a", 0, 64), ("b", -1, 64), ("c", -1, 32)):
        changed = matrix.copy()
        changed[row, -1] += 1
        source = write_gguf(tmp_path / f"{name}.gguf", "llama", {}, {"blk.1.ffn_down.weight": changed})
        assert imp_compile(source, "-o", tmp_path / f"{name}.impc", "--context", str(context)) == 0
        hashes.append(Artifact.open(tmp_path / f"{name}.impc").weights_hash)
    assert hashes[0] != hashes[1] == hashes[2]


def test_outputs_that_are_no_files(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for output, words in {
        ".": ".: is a folder; name the file to write, like m.impc",
        "": "is a folder",
        "..": "..: is a folder; name the file to write, like ../m.impc",
        "/": "/: is a folder",
        str(tmp_path): "is a folder",
        "/dev/null": "/dev/null: is not a regular file",
        "pipe": "pipe: is not a regular file",
        "no/out.impc": "the folder no does not exist",
        "-": "- is no file",
    }.items():
        assert imp_compile(model, "-o", output) == 2
        assert words in complaint(capsys)
        assert imp_compile(model, "-o", output, "--force") == 2
        complaint(capsys)
    assert Path("/dev/null").is_char_device()


def test_the_output_is_looked_at_before_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("imp_server.remote.download.download", lambda source: pytest.fail("downloads"))
    assert imp_compile("hf:org/repo", "-o", tmp_path) == 2
    assert f"is a folder; name the file to write, like {tmp_path}/repo.impc" in complaint(capsys)


def test_names_that_are_not_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_gguf(tmp_path / "m.gguf", "llama", {"general.name": None})
    odd = tmp_path / os.fsdecode(b"mod\xe8le \x1b[31m.gguf")
    source.rename(odd)
    output = tmp_path / os.fsdecode(b"mod\xe8le\n.impc")
    assert imp_compile(odd, "-o", output) == 0
    shown = capsys.readouterr().out
    assert shown.replace("\n", "") == visible(shown.replace("\n", ""))
    letter = os.fsdecode(b"\xe8")  # which some locales have
    assert Artifact.open(output).plan.model == f"mod{letter if letter.isalpha() else ' '}le 31m"
    odd.write_bytes(b"GGUF" + bytes(20))
    assert imp_compile(odd, "-o", output) == 2
    complaint(capsys)
    assert execute(["inspect", str(output)]) == 0
    assert execute(["inspect", str(odd)]) == 2
    assert "is a GGUF file, not a compiled model" in capsys.readouterr().err


def test_sources_that_are_no_model(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = write_tiny(tmp_path / "tiny.impc")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(100))
    output = tmp_path / "out.impc"
    for source, words in {
        "-": "- is no file",
        str(tmp_path): "is a folder without config.json; name one of its files: m.gguf",
        str(artifact): "tiny.impc: is compiled already",
        str(weights): "is one file of a model; name the folder that it lies in",
        str(tmp_path / "none"): "No such file",
    }.items():
        assert imp_compile(source, "-o", output) == 2
        assert words in complaint(capsys)
    assert imp_compile(model, "-o", output, "--quant", "Q8_0") == 2
    assert "--quant Q8_0 is the format of --random-weights" in complaint(capsys)
    assert not output.exists()


@pytest.mark.parametrize("command", ["run", "chat", "serve", "inspect", "verify", "bench"])
def test_a_gguf_is_no_artifact(model: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([command, str(model), *(["x"] if command == "run" else [])]) == 2
    assert f"compile it first: imp compile {model} -o m.impc" in complaint(capsys)


def test_a_folder_is_no_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "Small-1B"
    folder.mkdir()
    assert execute(["inspect", str(folder)]) == 2
    assert f"is a folder, not a compiled model; compile it first: imp compile {folder} -o Small-1B.impc" in complaint(
        capsys
    )


def test_a_token_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", "llama")
    letter = byte_letters()[200].encode()
    raw = path.read_bytes()
    assert raw.count(len(letter).to_bytes(8, "little") + letter) == 1
    path.write_bytes(raw.replace(len(letter).to_bytes(8, "little") + letter, b"\2" + bytes(7) + b"\xff\xfe"))
    with pytest.raises(CheckpointError, match=r"tokenizer\.ggml\.tokens\[200\] is b'\\xff\\xfe', expected a text"):
        open_checkpoint(path).metadata.strings("tokenizer.ggml.tokens")


def test_what_a_file_leaves_open_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {
        "tokenizer.ggml.pre": None,
        "tokenizer.ggml.token_type": [1] * 260,
        "tokenizer.chat_template": "{% for m in messages",
    }
    model = write_gguf(tmp_path / "m.gguf", keys=keys)
    assert imp_compile(model, "-o", tmp_path / "m.impc") == 0
    notes = notes_of(capsys)
    for note, words in zip(
        notes, ("has no key tokenizer.ggml.pre", "<|im_end|> text", "template has an error"), strict=True
    ):
        assert words in note
    artifact = Artifact.open(tmp_path / "m.impc")
    assert not artifact.has("chat_template.jinja")
    assert not artifact.has("chat.json")
    assert artifact.plan.stop_tokens == (257, 259)


def test_nothing_is_said_of_a_file_that_says_all(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert imp_compile(model, "-o", model.parent / "m.impc") == 0
    assert notes_of(capsys) == []


def notes_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("imp: note: ")]
