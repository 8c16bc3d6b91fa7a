"""`imp diff`, against what was changed by hand."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from fake_engine import tiny_plan, write_tiny_artifact
from imp_runtime.plan import Program
from imp_server.cli import execute

SOURCE = """// qwen3
#include "imp/x.h"

// RmsNorm
using {n}_t = imp::Norm<{width}>;
extern "C" __global__ void __launch_bounds__(64, 1) {n}(
    const float* x) {{
  {n}_t::run(x);
}}
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    source = SOURCE.format(n="imp_norm", width=256).encode()
    return write_tiny_artifact(tmp_path / "old.impc", blobs={"source/sim.cu": source}).path


def compared(a: Path, b: Path, code: int, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert execute(["diff", str(a), str(b)]) == code
    text = capsys.readouterr().out
    assert (text == "") == (code == 0)
    assert execute(["diff", str(a), str(b), "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["equal"] == (code == 0)
    return document | {"text": text}


def test_the_same_content_is_no_difference(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(old, tmp_path / "new.impc")
    found = compared(old, tmp_path / "new.impc", 0, capsys)
    assert (found["facts"], found["kernels"], found["contents"]) == ({}, [], {})


def test_kernels_that_came_went_and_changed(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (target,) = tiny_plan().targets
    step, forward = target.programs
    first, second = step.kernels
    renumbered = dataclasses.replace(first, entry="imp_norm_7")
    bigger = dataclasses.replace(second, name="layer2.attention_norm", entry="imp_norm_7")
    programs = (
        Program("step_r1", 1, (renumbered, bigger)),
        Program("forward_r16", 16, (dataclasses.replace(forward.kernels[0], grid=(9, 1, 1), entry="imp_norm_7"),)),
    )
    targets = (dataclasses.replace(target, programs=programs),)
    source = SOURCE.format(n="imp_norm_7", width=256).encode()
    path = write_tiny_artifact(
        tmp_path / "new.impc", blobs={"source/sim.cu": source}, targets=targets, context=256
    ).path
    found = compared(old, path, 1, capsys)
    said = [(c["program"], c["kernel"], c["what"], c["fields"]) for c in found["kernels"]]  # type: ignore[attr-defined]
    assert said == [
        ("step_r1", "layer1.attention_norm", "removed", []),
        ("step_r1", "layer2.attention_norm", "added", []),
        ("forward_r16", "layer0.attention_norm", "changed", ["grid"]),
    ]
    assert found["facts"]["context"] == {"a": tiny_plan().context, "b": 256}  # type: ignore[index]
    for words in ("layer2.attention_norm", "added", "context", "256", "plan.json"):
        assert words in str(found["text"])


def test_code_and_contents_that_differ(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of an entry that both have the emitted source counts."""
    source = SOURCE.format(n="imp_norm", width=512).encode()
    blobs = {"source/sim.cu": source, "code/sim": b"other code!", "extra.json": b"{}"}
    path = write_tiny_artifact(tmp_path / "new.impc", blobs=blobs).path
    found = compared(old, path, 1, capsys)
    assert {(c["what"], *c["fields"]) for c in found["kernels"]} == {("changed", "code")}  # type: ignore[attr-defined]
    contents = found["contents"]
    assert contents == {
        "code/sim": {"a": len(b"not code"), "b": 11},
        "source/sim.cu": {"a": len(source), "b": len(source)},
        "extra.json": {"a": None, "b": 2},
    }


def test_predicted_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (target,) = tiny_plan().targets
    files = []
    for name, flops in (("a", 1), ("b", 10**12)):
        programs = tuple(
            dataclasses.replace(p, kernels=tuple(dataclasses.replace(k, other_bytes=flops) for k in p.kernels))
            for p in target.programs
        )
        on_gpu = dataclasses.replace(target, target="sm_90a", simulated=False, card="h200", sms=132, programs=programs)
        files.append(write_tiny_artifact(tmp_path / f"{name}.impc", targets=(on_gpu,)).path)
    times = compared(*files, 1, capsys)["predicted"]
    assert times["sm_90a step_r1, us"]["b"] > 1000 * times["sm_90a step_r1, us"]["a"] > 0  # type: ignore[index]
    rate, us = times["sm_90a decode, tok/s"], times["sm_90a step_r1, us"]  # type: ignore[index]
    assert rate["a"] == pytest.approx(1e6 / us["a"])


def test_a_file_that_is_none(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["diff", str(old), str(tmp_path / "none.impc")]) == 2
    assert "none.impc: cannot be read" in capsys.readouterr().err
