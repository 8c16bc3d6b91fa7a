"""Split GGUF files, which gguf-py has split: whichever part is named, all of the model is read."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.compiler import CompileOptions, plan_model
from imp_codegen.targets import find_target
from imp_runtime.errors import ImpError
from imp_server.cli import execute
from small_gguf import write_gguf


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    (tmp_path / "parts").mkdir()
    write_gguf(tmp_path / "parts" / "m.gguf", split=5)
    found = sorted((tmp_path / "parts").iterdir())
    assert [path.name for path in found] == [f"m-0000{n}-of-00006.gguf" for n in range(1, 7)]
    return found


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "m.gguf")


def test_any_part_is_the_whole_model(parts: list[Path], whole: Path) -> None:
    with closing(open_checkpoint(whole)) as truth:
        planned = plan_model(truth, (find_target("sim"),), CompileOptions()).plan
        for path in parts:
            with closing(open_checkpoint(path)) as checkpoint:
                assert {*checkpoint.tensors} == {*truth.tensors}
                for name, tensor in truth.tensors.items():
                    assert checkpoint.tensors[name].shape == tensor.shape
                    rows = checkpoint.rows(name, 0, tensor.rows)
                    assert np.array_equal(rows, truth.rows(name, 0, tensor.rows)), name
                assert plan_model(checkpoint, (find_target("sim"),), CompileOptions()).plan == planned


def test_a_model_without_a_name_is_called_as_all_its_parts(tmp_path: Path) -> None:
    write_gguf(tmp_path / "Some-1B.gguf", keys={"general.name": None}, split=10)
    for path in tmp_path.iterdir():
        with closing(open_checkpoint(path)) as checkpoint:
            assert checkpoint.name == "Some-1B"


@pytest.mark.parametrize("named", [0, 1, 5])
@pytest.mark.parametrize("missing", [0, 3, 5])
def test_a_part_that_is_missing_is_named(parts: list[Path], named: int, missing: int) -> None:
    if named == missing:
        return
    parts[missing].unlink()
    assert refusal(parts[named]) == (
        f"{parts[missing]}: does not exist, but {parts[named].name} is one of 6 parts; download it"
    )


def test_parts_that_are_not_of_one_model(parts: list[Path], whole: Path, tmp_path: Path) -> None:
    second = parts[1].read_bytes()
    parts[1].write_bytes(parts[2].read_bytes())
    assert refusal(parts[0]) == (
        f"{parts[1]}: split.no is 2, expected 1, by its name and {parts[0].name}; download all parts again"
    )
    parts[1].write_bytes(whole.read_bytes())
    assert f"{parts[1]}: has no key split.no" in refusal(parts[0])
    assert f"{parts[1]}: has no key split.no" in refusal(parts[4])
    parts[1].write_bytes(second[:-200])
    assert f"{parts[1]}: tensor" in refusal(parts[0])
    parts[1].write_bytes(second)
    other = tmp_path / "other"
    other.mkdir()
    write_gguf(other / "m.gguf", tensors={"output.weight": None}, split=5)
    shutil.copy(other / parts[4].name.replace("6", "5"), tmp_path / "x.gguf")
    assert "x.gguf: is part 5 of 5 of a split model, but not called so" in refusal(tmp_path / "x.gguf")
    parts[1].write_bytes(parts[2].read_bytes().replace(NUMBER + b"\2\0", NUMBER + b"\1\0"))
    assert "is in another part, too" in refusal(parts[0])


NUMBER = b"split.no" + (2).to_bytes(4, "little")


def test_a_key_outside_of_the_first_part_is_named(parts: list[Path]) -> None:
    raw = parts[1].read_bytes()
    assert raw.count(b"split.tensors.count") == 1
    parts[1].write_bytes(raw.replace(b"split.tensors.count", b"llama.rope.freq_bas"))
    assert f"{parts[1]}: has no key split.tensors.count" in refusal(parts[0])


def test_no_part_is_overwritten(parts: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = [path.read_bytes() for path in parts]
    for source in (parts[0], parts[3]):
        for output in parts:
            assert execute(["compile", str(source), "-o", str(output), "--target", "sim", "--force"]) == 2
            assert "is the model that is to be compiled" in capsys.readouterr().err
    assert [path.read_bytes() for path in parts] == before


def refusal(path: Path) -> str:
    with pytest.raises(ImpError) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)
