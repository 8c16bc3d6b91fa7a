"""Thin artifacts and their weights: linked they are what a whole compile gives, and other weights are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import gguf
import numpy as np
import pytest

from edited_folder import say
from fp8_folder import BLOCKS, quantised
from imp_codegen import compiler, link, recipe
from imp_codegen.build import CodeObject, Unit
from imp_codegen.sources import Float32, Plus, Rows, Source, Tensor
from imp_runtime.artifact import RECIPE, Artifact
from imp_runtime.artifact_writer import write_artifact
from imp_server.cli import execute
from imp_server.commands import serve
from small_gguf import tensors_of, write_gguf

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(units: tuple[Unit, ...], progress: object) -> tuple[CodeObject, ...]:
        return tuple(CodeObject(b"code", "", True) for _ in units)

    monkeypatch.setattr(compiler, "build", build)


def imp(*arguments: str | Path) -> int:
    return execute([*map(str, arguments)])


def mixed(folder: Path) -> Path:
    return write_gguf(folder / "m.gguf", quant="Q8_0", kinds={"output.weight": "F32", "token_embd.weight": "F16"})


def split(folder: Path) -> Path:
    write_gguf(folder / "m.gguf", quant="Q8_0", split=5)
    return min(folder.glob("*.gguf"))


def k_quants(folder: Path) -> Path:
    return Path(shutil.copy(FIXTURES / "phi3" / "phi3-Q4_K_M.gguf", folder / "m.gguf"))


def permuted(folder: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "llama" / "hf", folder / "m"))


def above_one(folder: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "gemma3" / "hf", folder / "m"))


def experts(folder: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "qwen3_moe" / "hf", folder / "m"))


def gpt_oss(folder: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "gpt_oss" / "hf", folder / "m"))


def fp8(folder: Path) -> Path:
    copied = permuted(folder)
    quantised(copied, "blocks", ("mlp",))
    return say(copied, quantization_config=BLOCKS)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (mixed, "Tensor"),
        (split, "Tensor"),
        (k_quants, "Rows"),
        (permuted, "Permute"),
        (above_one, "Plus"),
        (experts, "Stack"),
        (gpt_oss, "Mxfp4"),
        (fp8, "Group"),
    ],
)
def test_linked_it_is_what_a_whole_compile_gives(source: Callable[[Path], Path], kind: str, tmp_path: Path) -> None:
    model = source(tmp_path)
    assert imp("compile", model, "-o", tmp_path / "whole.impc", "--target", "sim") == 0
    assert imp("compile", model, "-o", tmp_path / "m.thin.impc", "--target", "sim", "--thin") == 0
    assert imp("link", tmp_path / "m.thin.impc", model, "-o", tmp_path / "linked.impc") == 0
    assert (tmp_path / "linked.impc").read_bytes() == (tmp_path / "whole.impc").read_bytes()
    thin = Artifact.open(tmp_path / "m.thin.impc", thin=True)
    assert [name for name, _ in thin.names() if name.startswith("weights/")] == []
    assert f'{{"{kind}":'.encode() in thin.read(RECIPE)
    files = json.loads(thin.read(RECIPE))["files"]
    stored = (
        [model]
        if source is mixed or source is k_quants
        else sorted(tmp_path.glob("*.gguf") if source is split else model.glob("*.safetensors"))
    )
    assert files == [
        {"name": path.name, "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in stored
    ]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return mixed(tmp_path)


@pytest.fixture
def thin(model: Path) -> Path:
    path = model.with_name("m.thin.impc")
    assert imp("compile", model, "-o", path, "--target", "sim", "--thin") == 0
    return path


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("imp: error: ")
    assert "internal error" not in error
    return error


def changed(model: Path, tensor: gguf.ReaderTensor, at: int) -> None:
    """The model with one bit of a tensor turned."""
    raw = bytearray(model.read_bytes())
    raw[tensor.data_offset + at] ^= 1
    model.write_bytes(raw)


@pytest.mark.parametrize("name", ["token_embd.weight", "blk.1.ffn_down.weight", "output_norm.weight", "output.weight"])
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_bit_of_any_tensor_is_missed(
    name: str, place: str, model: Path, thin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensor = next(each for each in gguf.GGUFReader(model).tensors if each.name == name)
    before = hashlib.sha256(tensor.data.tobytes()).hexdigest()
    changed(model, tensor, 0 if place == "first" else tensor.n_bytes - 1)
    tensor = next(each for each in gguf.GGUFReader(model).tensors if each.name == name)
    after = hashlib.sha256(tensor.data.tobytes()).hexdigest()
    assert imp("link", thin, model, "-o", thin.with_name("linked.impc")) == 2
    error = complaint(capsys)
    assert f"{model}: tensor {name!r} has the SHA-256 {after}, expected {before}" in error
    assert sorted(path.name for path in thin.parent.iterdir()) == ["m.gguf", "m.thin.impc"]


def test_tensors_of_another_model_are_named(thin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(path: Path) -> str:
        assert imp("link", thin, path, "-o", tmp_path / "linked.impc") == 2
        assert not (tmp_path / "linked.impc").exists()
        return complaint(capsys)

    assert "tensor 'token_embd.weight' is F32 [260, 64], expected F16 [260, 64]" in refused(
        write_gguf(tmp_path / "kinds.gguf", quant="Q8_0", kinds={"output.weight": "F32", "token_embd.weight": "F32"})
    )
    narrow = {name: array[:64] for name, array in tensors_of("llama").items() if name == "blk.0.ffn_gate.weight"}
    other = write_gguf(
        tmp_path / "n.gguf", tensors=narrow, quant="Q8_0", kinds={"output.weight": "F32", "token_embd.weight": "F16"}
    )
    assert "tensor 'blk.0.ffn_gate.weight' is Q8_0 [64, 64], expected Q8_0 [128, 64]" in refused(other)
    assert "n.gguf: has no tensor 'blk.1.ffn_up.weight'" in refused(
        write_gguf(
            tmp_path / "n.gguf",
            tensors={"blk.1.ffn_up.weight": None},
            quant="Q8_0",
            kinds={"output.weight": "F32", "token_embd.weight": "F16"},
        )
    )


def test_where_it_lies_in_the_file_does_not_count(model: Path, thin: Path, tmp_path: Path) -> None:
    """The same tensors behind other keys."""
    assert imp("link", thin, model, "-o", tmp_path / "one.impc") == 0
    other = write_gguf(
        tmp_path / "other.gguf",
        keys={"general.name": "another name"},
        quant="Q8_0",
        kinds={"output.weight": "F32", "token_embd.weight": "F16"},
    )
    assert imp("link", thin, other, "-o", tmp_path / "two.impc") == 0
    assert (tmp_path / "one.impc").read_bytes() == (tmp_path / "two.impc").read_bytes()


def test_what_stops_it_leaves_the_old_file(
    model: Path, thin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "linked.impc"
    shutil.copy(thin, output)
    before = output.read_bytes()

    def interrupted(step: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        link.link(thin, model, output, interrupted)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert imp("link", thin, model, "-o", output) == 2
    assert "but the disk has 1,000 left; free some space" in complaint(capsys)
    assert output.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["linked.impc", "m.gguf", "m.thin.impc"]


def test_what_is_not_to_be_linked(
    model: Path, thin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("run", "serve"):
        assert imp(command, thin, *(["hello"] if command == "run" else [])) == 2
        assert complaint(capsys) == (
            f"imp: error: {thin}: is thin, it holds no weights; add those of its model first: "
            f"imp link {thin} MODEL -o m.impc"
        )
    assert imp("link", thin, model, "-o", thin) == 2
    assert "is the thin artifact that is to be linked" in complaint(capsys)
    assert imp("link", thin, model, "-o", model) == 2
    assert "is the model that is to be compiled" in complaint(capsys)
    assert imp("link", thin, model, "-o", tmp_path / "whole.impc") == 0
    assert imp("link", tmp_path / "whole.impc", model, "-o", tmp_path / "again.impc") == 2
    assert "has its weights already" in complaint(capsys)
    assert imp("compile", "--random-weights", model, "--thin", "-o", tmp_path / "r.impc") == 2
    assert "--thin leaves weights to imp link" in complaint(capsys)
    monkeypatch.setattr(link, "packing_key", lambda: "of another version")
    assert imp("link", thin, model, "-o", tmp_path / "other.impc") == 2
    assert "was compiled by imp 0.1.0, which lays weights out in another way than this one" in complaint(capsys)


@pytest.mark.parametrize("kind", get_args(Source), ids=lambda kind: kind.__name__)
def test_a_source_of_any_kind_is_read_as_it_was_written(kind: type[Any]) -> None:
    values = {int: 3, float: 0.5, str: "F32", Source: Rows(Tensor("a"), 0, 2), Tensor: Tensor("b")}
    several = (Tensor("c"), Plus(Tensor("d"), 1.0))
    source = kind(*(several if get_origin(hint) is tuple else values[hint] for hint in get_type_hints(kind).values()))
    given = np.arange(3, dtype=np.uint8)
    read = recipe.Recipe.from_json(recipe.Recipe((), {}, {"x": source, "y": given}, "").to_json())
    assert read.planes["x"] == source
    np.testing.assert_array_equal(read.given["y"], given)


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 2},
        {"files": 3},
        {"more": 1},
        {"planes": {"x": {}}},
        {"planes": {"x": {"bytes": "0g"}}},
        {"planes": {"x": {"bytes": 7}}},
        {"planes": {"x": {"Magic": {}}}},
        {"planes": {"x": {"Tensor": {"name": 1}}}},
        {"planes": {"x": {"Tensor": {"name": "x", "more": 1}}}},
        {"planes": {"x": {"Tensor": 3}}},
        {"planes": {"x": {"Rows": {"source": 3, "begin": 0, "end": 1}}}},
        {"planes": {"x": {"Group": {"format": "F32", "sources": 3}}}},
    ],
)
def test_recipes_that_cannot_be_read(wrong: dict[str, object]) -> None:
    good = {"version": 1, "files": [], "tensors": {}, "planes": {}, "packing": ""}
    assert recipe.Recipe.from_json(json.dumps(good).encode()).planes == {}
    with pytest.raises(recipe.RecipeError, match=r"^weights\.json: .*; compile the model again$"):
        recipe.Recipe.from_json(json.dumps(good | wrong).encode())


@pytest.mark.parametrize("source", [Float32(Tensor("token_embd.weight")), Rows(Tensor("token_embd.weight"), 0, 8)])
def test_a_recipe_for_another_plan_is_refused(
    source: Source, model: Path, thin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = Artifact.open(thin, thin=True)
    made = recipe.Recipe.from_json(artifact.read(RECIPE))
    other = replace(made, planes={**made.planes, "token_embd.weight": source})
    blobs = {name: artifact.read(name) for name, _ in artifact.names() if name not in ("plan.json", "checksums")}
    write_artifact(thin, artifact.plan, {**blobs, RECIPE: other.to_json()}, artifact.metadata, ())
    assert imp("link", thin, model, "-o", thin.with_name("linked.impc")) == 2
    assert "for the plane 'token_embd.weight', which is F16 [260, 64]; compile the model again" in complaint(capsys)
    assert not thin.with_name("linked.impc").exists()


def test_inspect_shows_what_is_to_be_linked(model: Path, thin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert imp("inspect", thin) == 0
    shown = capsys.readouterr().out
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    assert f"m.gguf, {model.stat().st_size:,} bytes, SHA-256 {sha256}" in shown
    assert imp("inspect", thin, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["thin"] is True
    assert document["weights_to_link"][0]["sha256"] == sha256
    assert imp("inspect", thin, "--check") == 0


def test_serve_links_once(
    model: Path, thin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IMP_CACHE_DIR", str(tmp_path / "cache"))
    served: list[Path] = []
    monkeypatch.setattr(serve, "serve", lambda file, config: served.append(file))
    assert imp("link", thin, model, "-o", tmp_path / "whole.impc") == 0
    whole = (tmp_path / "whole.impc").read_bytes()
    assert imp("serve", thin, "--weights-from", model) == 0
    assert served[0].read_bytes() == whole
    before = served[0].stat()
    model.rename(tmp_path / "gone.gguf")
    assert imp("serve", thin, "--weights-from", model) == 0
    assert served[1] == served[0]
    assert served[0].stat() == before
    served[0].write_bytes(whole[:-300])
    assert imp("serve", thin, "--weights-from", model) == 2
    assert "m.gguf: cannot be read: No such file" in complaint(capsys)
    assert imp("serve", thin, "--weights-from", tmp_path / "gone.gguf") == 0
    assert served[2].read_bytes() == whole
    assert imp("serve", tmp_path / "whole.impc", "--weights-from", tmp_path / "gone.gguf") == 2
    assert "has its weights already; leave --weights-from out" in complaint(capsys)
