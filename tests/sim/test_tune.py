"""`imp tune` on the simulator, and that a tuned program computes the same numbers."""

import json

import numpy as np
import pytest

from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.tuning.stage import Choice
from imp_codegen.tuning.table import Entry, Table, read_table
from imp_runtime.engine import Engine
from imp_runtime.plan import SAMPLING_DTYPE
from imp_server.cli import execute
from model_checks import FIXTURES, check_kernels, quiet

SOURCE = FIXTURES / "qwen3" / "qwen3-Q4_K_M.gguf"


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    output = tmp_path_factory.mktemp("tune") / "usual.impc"
    report = compile_model(SOURCE, output, ("sim",), CompileOptions(tuning=()), quiet)
    return output, tuple(report.targets[0].streams), report.plan.layers


def test_tune_measures_every_stage_and_writes_a_table(usual, tmp_path, capsys):
    artifact, stages, layers = usual
    path = tmp_path / "sim.json"
    assert execute(["tune", str(artifact), "--target", "sim", "--output", str(path), "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert model["device"] == "CPU simulator"
    assert {f"{o['stage']['kind']} {', '.join(o['stage']['matrices'])}" for o in model["outcomes"]} == set(stages)
    assert sum(outcome["launches"] for outcome in model["outcomes"]) == 4 * layers + 1
    assert model["formula_us"] > 0
    assert set(read_table(path).entries) == set(stages)
    assert "CPU simulator" in read_table(path).source


def test_without_output_the_simulators_times_are_kept_nowhere(usual, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert execute(["tune", str(usual[0]), "--target", "sim"]) == 0
    out = capsys.readouterr().out
    assert "say nothing about a GPU" in out
    assert "nothing was written" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("choice", [Choice(1, 1), Choice(6, 2)])
def test_no_number_depends_on_the_choice(usual, tmp_path, choice):
    artifact, stages, _ = usual
    table = Table("sim", "a test", {stage: Entry(choice, "") for stage in stages}, "test")
    tuned = tmp_path / "tuned.impc"
    report = compile_model(SOURCE, tuned, ("sim",), CompileOptions(tuning=(table,)), quiet)
    assert {chosen.choice for chosen in report.targets[0].streams.values()} == {choice}
    logits = []
    for path in (artifact, tuned):
        with Engine.load(path, target="sim") as engine:
            logits.append(decode_logits(engine))
            check_kernels(engine)
    np.testing.assert_array_equal(*logits)


def decode_logits(engine):
    """The logits of a few decode steps: float32 [steps, vocabulary]."""
    rows = []
    engine.runner.write_slot(0, 0, [1], np.zeros((), SAMPLING_DTYPE), None)
    engine.runner.write_step(0, ())
    for token in (1, 7, 42, 99):
        engine.runner.write_token(0, token)
        engine.runner.run("decode_b1")
        rows.append(engine.runner.read("logits", "f32", (engine.plan.vocab,)))
    return np.stack(rows)
