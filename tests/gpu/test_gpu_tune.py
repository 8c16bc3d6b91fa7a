"""`imp tune` on the GPU: both forms are measured, and the next compilation takes what was found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imp_codegen.tune.table import read_table
from imp_runtime.artifact import Artifact
from imp_server.cli import execute

DEMO = Path(__file__).parents[2] / "models" / "demo.gguf"


@pytest.mark.parametrize("form", ["graph", "persistent"])
def test_the_next_compilation_takes_the_faster_form(tmp_path, target, form, capsys):
    artifact, path = tmp_path / "demo.impc", tmp_path / "table.json"
    compile_demo = ["compile", str(DEMO), "-o", str(artifact), "--target", target, "--tuning"]
    assert execute([*compile_demo, "none", "--exec", form]) == 0
    capsys.readouterr()
    assert execute(["tune", str(artifact), "--target", target, "--output", str(path), "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    forms = model["forms"]
    assert forms["obstacle"] is None
    # A step is no faster than a few launches, and no slower than a thousand of the demo's.
    assert all(10 < us < 20_000 for us in (forms["graph_us"], forms["persistent"]["us"], model["graph"]["us"]))
    ((name, entry),) = read_table(path).steps.items()
    assert (name, entry.form) == (model["step"], forms["form"])
    assert execute([*compile_demo, str(path)]) == 0
    plan = Artifact.open(artifact).plan.target(target)
    assert (plan.form, plan.reason) == (entry.form, f"measured on {entry.why}")
