"""`imp tune` on the simulator, and that a tuned program computes the same numbers."""

import json
import re
from dataclasses import asdict

import numpy as np
import pytest

from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.targets import find_target
from imp_codegen.tune.measure.experiment import plan_experiment
from imp_codegen.tune.stage import Choice
from imp_codegen.tune.step import StepChoice
from imp_codegen.tune.table import Entry, StepEntry, Table, read_table
from imp_runtime.artifact import Artifact
from imp_runtime.device import DeviceError
from imp_runtime.engine import Engine
from imp_runtime.plan import SAMPLING_DTYPE
from imp_runtime.sim import SimDevice
from imp_server.cli import execute
from model_checks import FIXTURES, check_kernels, quiet

SOURCE = FIXTURES / "qwen3" / "qwen3-Q4_K_M.gguf"
OTHER = StepChoice(4, 4)  # of the step kernel, where the formula says 9 and 8


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    output = tmp_path_factory.mktemp("tune") / "usual.impc"
    report = compile_model(SOURCE, output, ("sim",), CompileOptions(tuning=()), quiet)
    return output, tuple(report.targets[0].streams), report.plan.layers


@pytest.fixture(scope="module")
def step(usual):
    """The step kernel as tables know it."""
    return plan_experiment(Artifact.open(usual[0]), "sim").persistent.step


def compile_step(step, choice, output):
    """The model as one kernel, as a table says."""
    table = Table("sim", "a test", {}, "test", {step.name: StepEntry(choice, "a simulator")})
    plan = compile_model(SOURCE, output, ("sim",), CompileOptions(tuning=(table,)), quiet).plan
    assert (plan.targets[0].form, plan.targets[0].reason) == ("persistent", "measured on a simulator")
    return output


def measure(artifact, output, capsys):
    assert execute(["tune", str(artifact), "--target", "sim", "--output", str(output), "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert model["device"] == "CPU simulator"
    return model


def test_tune_measures_every_stage_and_both_forms_and_writes_a_table(usual, step, tmp_path, capsys):
    artifact, stages, layers = usual
    path = tmp_path / "sim.json"
    model = measure(artifact, path, capsys)
    outcomes = model["graph"]["outcomes"]
    assert {f"{o['stage']['kind']} {', '.join(o['stage']['matrices'])}" for o in outcomes} == set(stages)
    assert sum(outcome["launches"] for outcome in outcomes) == 4 * layers + 1
    assert model["graph"]["formula_us"] > 0
    forms = model["forms"]
    assert forms["graph_us"] > 0
    assert forms["persistent"]["us"] > 0
    assert forms["persistent"]["formula"] == asdict(step.formula(find_target("sim")))
    assert set(read_table(path).entries) == set(stages)
    (entry,) = read_table(path).steps.items()
    assert (entry[0], entry[1].form) == (step.name, forms["form"])
    assert "CPU simulator" in entry[1].why
    assert "CPU simulator" in read_table(path).source


@pytest.mark.thorough
def test_an_artifact_that_decodes_in_one_kernel_is_measured_alike(usual, step, tmp_path, capsys):
    artifact = compile_step(step, OTHER, tmp_path / "persistent.impc")
    path = tmp_path / "sim.json"
    model = measure(artifact, path, capsys)
    assert len(model["graph"]["outcomes"]) == len(usual[1])
    assert model["forms"]["persistent"]["us"] > 0
    assert read_table(path).steps.keys() == {step.name}


def test_a_device_that_cannot_hold_the_step_kernel(usual, step, tmp_path, monkeypatch, capsys):
    capture = SimDevice.capture

    def refuse(device, launches):
        if any(launch.resident for launch in launches):
            raise DeviceError("kernel step has 2 CTAs that must run at once, and there is room for 1")
        return capture(device, launches)

    monkeypatch.setattr(SimDevice, "capture", refuse)
    path = tmp_path / "sim.json"
    assert execute(["tune", str(usual[0]), "--target", "sim", "--output", str(path)]) == 0
    assert "persistent: not possible, kernel step has 2 CTAs" in capsys.readouterr().out
    assert read_table(path).steps[step.name].form == "graph"


@pytest.mark.thorough
def test_without_output_the_simulators_times_are_kept_nowhere(usual, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert execute(["tune", str(usual[0]), "--target", "sim"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^ persistent +9 x 8 +\d+\.\d +\d+ x \d +\d+\.\d$", out, re.MULTILINE)
    assert re.search(r"^chosen: (graph|persistent)$", out, re.MULTILINE)
    assert "say nothing about a GPU" in out
    assert "nothing was written" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("choice", [pytest.param(Choice(1, 1), marks=pytest.mark.thorough), Choice(6, 2)])
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


def test_no_number_depends_on_the_form(usual, step, tmp_path):
    assert OTHER in step.candidates(find_target("sim"))
    logits = []
    for path in (usual[0], compile_step(step, OTHER, tmp_path / "persistent.impc")):
        with Engine.load(path, target="sim") as engine:
            logits.append(decode_logits(engine))
    np.testing.assert_array_equal(*logits)


def decode_logits(engine):
    """The logits of a few decode steps: float32 [steps, vocabulary]."""
    rows = []
    engine.runner.write_slot(0, 0, [1], np.zeros((), SAMPLING_DTYPE))
    engine.runner.write_step(0)
    for token in (1, 7, 42, 99):
        engine.runner.write_token(0, token)
        engine.runner.run("step_r1")
        rows.append(engine.runner.read("logits", "f32", (engine.plan.vocab,)))
    return np.stack(rows)
