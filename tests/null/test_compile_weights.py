"""`imp compile --weights`: which matrices are rounded, what is said of it and where, and what is refused."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imp_codegen import compiler
from imp_codegen.build import CodeObject, Unit
from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.graph import Floats, Op
from imp_codegen.reference import Reference
from imp_codegen.sources import Rounded, Tensor
from imp_codegen.stored import open_source
from imp_runtime.artifact import Artifact
from imp_runtime.plan import Plan
from imp_server.cli import execute
from model_checks import FIXTURES
from small_gguf import tensors_of, write_gguf

QWEN3, LLAMA, MOE = (FIXTURES / name / "hf" for name in ("qwen3", "llama", "qwen3_moe"))
ROW = re.compile(r"^ (\S+) +([\d,]+) +([\d,]+) +(\S+) nats +([\d.]+)%", re.MULTILINE)


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(units: tuple[Unit, ...], progress: object) -> tuple[CodeObject, ...]:
        return tuple(CodeObject(b"code", "", True) for _ in units)

    monkeypatch.setattr(compiler, "build", build)
    monkeypatch.setenv("COLUMNS", "200")


def imp(*arguments: str | Path) -> int:
    return execute([*map(str, arguments)])


def compiled(model: Path, folder: Path, to: str, *more: str) -> Plan:
    assert imp("compile", model, "-o", folder / "m.impc", "--target", "sim", "--weights", to, *more) == 0
    return Artifact.open(folder / "m.impc", thin=True).plan


def formats(plan: Plan) -> Mapping[str, str]:
    return {plane.name: plane.format for plane in plan.planes}


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("imp: error: ")
    assert "internal error" not in error
    return error


def test_what_is_multiplied_is_rounded(tmp_path: Path) -> None:
    found = formats(compiled(MOE, tmp_path, "nvfp4", "--no-kl"))
    kept = {name for name, fmt in found.items() if fmt == "BF16" and not name.endswith("norm.weight")}
    routers = {name for name in found if "ffn_gate_inp" in name}
    tied = "output.weight" not in found
    assert routers
    assert kept == (routers if tied else routers | {"token_embd.weight"})
    assert found["blk.0.ffn_down_exps.weight"] == found["blk.0.attn_q.weight"] == "NVFP4_TENSORS"
    assert found["blk.0.attn_norm.weight"] == "BF16"


def test_a_table_that_is_no_head_stays(tmp_path: Path) -> None:
    plan = compiled(write_gguf(tmp_path / "m.gguf", quant="F16"), tmp_path, "q8_0", "--no-kl")
    found = formats(plan)
    assert found["token_embd.weight"] == "F16"
    assert found["output.weight"] == found["blk.1.ffn_down.weight"] == "Q8_0"
    assert formats(compiled(QWEN3, tmp_path, "fp8", "--no-kl"))["token_embd.weight"] == "FP8_BLOCKS"


def test_fewer_bits_diverge_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kl, same = {}, {}
    for to, fmt in (("q8_0", "Q8_0"), ("fp8", "FP8_BLOCKS"), ("nvfp4", "NVFP4_TENSORS")):
        plan = compiled(LLAMA, tmp_path, to)
        (row,) = ROW.findall(capsys.readouterr().out)
        rounded = [plane for plane in plan.planes if plane.format == fmt]
        assert row[0] == fmt
        assert int(row[1].replace(",", "")) == sum(2 * plane.rows * plane.cols for plane in rounded)
        assert int(row[2].replace(",", "")) == sum(plane.nbytes for plane in rounded)
        kl[to], same[to] = float(row[3]), float(row[4])
    assert 0 < kl["q8_0"] < 0.01 < kl["fp8"] < 0.2 < kl["nvfp4"] < 2
    assert 100 > same["q8_0"] > same["fp8"] > same["nvfp4"] > 20


@pytest.mark.parametrize(("model", "to", "more"), [(LLAMA, "nvfp4", []), (MOE, "fp8", ["--no-kl"])])
def test_thin_it_says_the_same_and_is_linked_to_the_same(
    model: Path, to: str, more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for name in ("whole", "thin"):
        thin = ["--thin"] if name == "thin" else []
        assert imp("compile", model, "-o", tmp_path / name, "--target", "sim", "--weights", to, *more, *thin) == 0
        told.append(ROW.findall(capsys.readouterr().out))
    assert imp("link", tmp_path / "thin", model, "-o", tmp_path / "linked") == 0
    assert (tmp_path / "linked").read_bytes() == (tmp_path / "whole").read_bytes()
    assert told[0] == told[1]
    assert len(told[0]) == (not more)


@pytest.mark.parametrize(("quant", "name"), [("Q8_0", "small-NVFP4-from-Q8_0"), ("F16", "small-NVFP4")])
def test_a_second_lossy_step_is_said_everywhere(
    quant: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = ", a second lossy step" if quant == "Q8_0" else ""
    plan = compiled(write_gguf(tmp_path / "m.gguf", quant=quant), tmp_path, "nvfp4")
    words = f"rounded by imp from {quant}{twice}"
    assert words in " ".join(capsys.readouterr().out.split())
    assert (plan.model, plan.rounding, plan.weights) == (name, words, f"{plan.quant}, {words}")
    assert set(plan.quant.split("+")) == {"NVFP4_TENSORS", quant}  # the table is no head
    assert imp("inspect", tmp_path / "m.impc") == 0
    shown = capsys.readouterr().out
    assert words in shown
    assert name in shown
    assert imp("inspect", tmp_path / "m.impc", "--json") == 0
    assert json.loads(capsys.readouterr().out)["rounding"] == words


def test_a_long_name_keeps_what_is_said(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "m.gguf", keys={"general.name": "n" * 80}, quant="Q8_0")
    assert compiled(model, tmp_path, "nvfp4", "--no-kl").model == f"{'n' * 64}-NVFP4-from-Q8_0"


def test_not_measured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compiled(QWEN3, tmp_path, "q8_0", "--no-kl")
    assert re.search(r"Q8_0 +[\d,]+ +[\d,]+ +not measured +not measured", capsys.readouterr().out)


def test_without_it_nothing_is_rounded_or_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert imp("compile", QWEN3, "-o", tmp_path / "m.impc", "--target", "sim") == 0
    assert "rounded" not in capsys.readouterr().out
    plan = Artifact.open(tmp_path / "m.impc").plan
    assert (plan.model, plan.rounding, plan.weights) == ("hf", "", "BF16")


@pytest.mark.parametrize(
    ("model", "to", "said"),
    [
        (
            FIXTURES / "llama" / "llama-Q4_K_M.gguf",
            "nvfp4",
            r"is Q4_K, so it is quantised already; --weights nvfp4 take",
        ),
        (FIXTURES / "llama" / "llama-Q4_K_M.gguf", "q8_0", r"is Q4_K, so .* takes BF16, F16 and F32: leave it out, or"),
        (FIXTURES / "llama" / "llama-Q8_0.gguf", "q8_0", r"tensor '\S+' is Q8_0, so it is quantised already"),
        (FIXTURES / "llama" / "llama-Q8_0.gguf", "fp8", r"is Q8_0, so it is quantised already"),
        (FIXTURES / "qwen3" / "nvfp4-modelopt", "nvfp4", r"is NVFP4_TENSORS, so it is quantised .* Q8_0 and Q6_K as a"),
        (FIXTURES / "gpt_oss" / "hf", "q8_0", r"is MXFP4, so it is quantised already"),
        (QWEN3, "int4", r"--weights 'int4' is unknown; known: fp8, nvfp4, q8_0"),
    ],
)
def test_refusals(model: Path, to: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert imp("compile", model, "-o", tmp_path / "m.impc", "--target", "sim", "--weights", to) == 2
    assert re.search(said, complaint(capsys))
    assert not (tmp_path / "m.impc").exists()


def test_rows_that_are_no_whole_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    narrow = {
        name: x[:72] if x.shape[0] == 128 else x[:, :72] for name, x in tensors_of("llama").items() if 128 in x.shape
    }
    model = write_gguf(tmp_path / "m.gguf", keys={"feed_forward_length": 72}, tensors=narrow)
    assert imp("compile", model, "-o", tmp_path / "m.impc", "--target", "sim", "--weights", "nvfp4") == 2
    assert "rows of 72 weights, which is no multiple of 16 as --weights nvfp4 needs it" in complaint(capsys)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e7])
def test_weights_that_cannot_be_rounded(value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    matrix = tensors_of("llama")["blk.0.ffn_down.weight"]
    matrix[9, 3] = value
    model = write_gguf(tmp_path / "m.gguf", tensors={"blk.0.ffn_down.weight": matrix})
    assert imp("compile", model, "-o", tmp_path / "m.impc", "--target", "sim", "--weights", "q8_0") == 2
    said = complaint(capsys)
    assert "'blk.0.ffn_down.weight' has a weight that is no number, or too large for Q8_0, in rows 0 to 63" in said
    assert not (tmp_path / "m.impc").exists()


def test_options_that_contradict_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape, out = FIXTURES.parents[1] / "models" / "shapes" / "qwen3-0.6b.json", tmp_path / "m.impc"
    assert imp("compile", shape, "--random-weights", "--weights", "fp8", "-o", out, "--target", "sim") == 2
    assert "invented ones have what --quant says" in complaint(capsys)
    assert imp("compile", QWEN3, "--no-kl", "-o", out, "--target", "sim") == 2
    assert "--no-kl leaves out what --weights FORMAT measures" in complaint(capsys)


def test_a_list_of_models_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, entry = tmp_path / "m.toml", f'[[model]]\nname = "m"\nsource = "{QWEN3}"\ntargets = ["sim"]\n'
    outcomes = []
    for more in ("", 'weights = "nvfp4"\n', 'weights = "nvfp4"\n', 'weights = "int4"\n'):
        path.write_text(entry + more)
        capsys.readouterr()
        code = imp("build", path, "-o", tmp_path / "dist", "--json")
        outcomes.append(json.loads(capsys.readouterr().out)["outcomes"]["m"] if code == 0 else complaint(capsys))
        if code == 0:
            (model,) = json.loads((tmp_path / "dist" / "index.json").read_text())["models"]
            wanted = "NVFP4_TENSORS, rounded by imp from BF16" if more else "BF16"
            assert (model["quant"], model["weights"]) == (wanted, "nvfp4" if more else None)
    assert [each.partition(",")[0] for each in outcomes[:3]] == ["built", "built", "unchanged"]


def test_values_are_dropped_once_they_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, evaluate = [], Reference.evaluate

    def counted(self: Reference, op: Op, values: Mapping[str, Floats], *more: Any) -> Floats:
        held.append(len(values))
        return evaluate(self, op, values, *more)

    monkeypatch.setattr(Reference, "evaluate", counted)
    compiled(QWEN3, tmp_path, "q8_0")
    assert len(held) > 60  # operations
    assert max(held) == 4  # the residual stream, and q, k and v


def test_a_matrix_is_rounded_a_little_at_a_time(tmp_path: Path) -> None:
    rows, cols = 2048, 4096
    matrix = np.random.default_rng(1).standard_normal((rows, cols)).astype(np.float32)
    path = write_gguf(tmp_path / "m.gguf", tensors={"output.weight": matrix}, quant="F32")
    stored = open_source(Rounded(Tensor("output.weight"), "q8_0"), open_checkpoint(path))
    del matrix
    tracemalloc.start()
    result = stored.rows(0, rows)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most - result.nbytes < 16 << 20  # of 32 MB that the matrix has
