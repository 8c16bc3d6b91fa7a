"""Tuning tables, the cost model's table, and how `imp tune` decides; times are invented here, on purpose."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.compiler import CompileOptions, plan_model
from imp_codegen.targets import TargetError, find_target, find_targets
from imp_codegen.tune.cost_model import stage_us
from imp_codegen.tune.measure import tune
from imp_codegen.tune.measure.experiment import PROGRAM, plan_experiment
from imp_codegen.tune.stage import Choice, Stage
from imp_codegen.tune.step import StepChoice
from imp_codegen.tune.table import Entry, StepEntry, Table, TuningError, read_table, shipped, user_path, write_table
from imp_runtime.device import Launch
from imp_runtime.errors import ImpError
from imp_runtime.race import race
from imp_server.cli import execute
from imp_server.commands.tune import predicted

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models" / "demo.gguf"
CARDS = ROOT / "imp_codegen" / "cards"


def compiled(target="sm_90a", tuning=(), form="graph"):
    with closing(open_checkpoint(DEMO)) as checkpoint:
        return plan_model(checkpoint, (find_target(target),), CompileOptions(tuning=tuning, form=form))


def table(entries, target="sm_90a", origin="here"):
    return Table(target, "a test", {name: Entry(choice, "because") for name, choice in entries.items()}, origin)


# tables


def test_a_table_is_read_as_it_was_written_one_stage_a_line(tmp_path):
    path = tmp_path / "deep" / "t.json"
    write_table(path, table({"qkv b": Choice(8, 4), "head a": Choice(12, 3)}))
    lines = path.read_text("utf-8").splitlines()
    assert [line.split('"')[1] for line in lines if "warps" in line] == ["head a", "qkv b"]
    assert json.loads(path.read_text("utf-8"))["entries"]["qkv b"] == {"warps": 8, "slots": 4, "why": "because"}
    assert read_table(path) == table({"qkv b": Choice(8, 4), "head a": Choice(12, 3)}, origin=str(path))


def test_steps_stand_beside_the_stages(tmp_path):
    path = tmp_path / "t.json"
    steps = {"s": StepEntry(StepChoice(15, 4), "fast"), "t": StepEntry(None, "slow")}
    both = replace(table({"a": Choice(8, 4)}, origin=str(path)), steps=steps)
    write_table(path, both)
    assert json.loads(path.read_text("utf-8"))["steps"] == {
        "s": {"form": "persistent", "in_flight": 15, "lanes": 4, "why": "fast"},
        "t": {"form": "graph", "why": "slow"},
    }
    assert read_table(path) == both
    write_table(path, replace(table({"b": Choice(2, 1)}), steps={"t": StepEntry(StepChoice(8, 8), "now")}))
    merged = read_table(path)
    assert merged.entries.keys() == {"a", "b"}
    assert merged.steps == {"s": steps["s"], "t": StepEntry(StepChoice(8, 8), "now")}
    path.write_text(table({"a": Choice(8, 4)}).to_json(), "utf-8")
    assert "steps" not in path.read_text("utf-8")
    assert read_table(path).steps == {}


def test_new_entries_replace_old_ones_and_leave_the_others(tmp_path):
    path = tmp_path / "t.json"
    write_table(path, table({"a": Choice(8, 4), "b": Choice(8, 2)}))
    write_table(path, table({"b": Choice(12, 3), "c": Choice(4, 1)}))
    merged = {name: entry.choice for name, entry in read_table(path).entries.items()}
    assert merged == {"a": Choice(8, 4), "b": Choice(12, 3), "c": Choice(4, 1)}
    with pytest.raises(TuningError, match=r"is for sm_90a:h200, the new entries are for sim:sim"):
        write_table(path, table({}, target="sim"))


GOOD = {"warps": 8, "slots": 2, "why": ""}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read as a tuning table"),
        ("[]", "must be an object with target, source and entries"),
        ('{"target": "sm_90a", "source": ""}', "must be an object with target, source and entries"),
        (json.dumps({"target": "sm_1", "source": "", "entries": {}}), "target is 'sm_1'; known: sim, sm_120a, sm_90a"),
        (json.dumps({"target": "sim", "source": 1, "entries": {}}), "target and source must be strings"),
        (
            json.dumps({"target": "sim", "source": "", "entries": {"x": {"warps": 8}}}),
            "x: must be an object with warps",
        ),
        (json.dumps({"target": "sim", "source": "", "entries": {"x": {**GOOD, "warps": 33}}}), "x: warps is 33"),
        (json.dumps({"target": "sim", "source": "", "entries": {"x": {**GOOD, "slots": 0}}}), "x: slots is 0"),
        (json.dumps({"target": "sim", "source": "", "entries": {"x": {**GOOD, "slots": True}}}), "x: slots is True"),
        ('{"target": "sim", "source": "", "entries": {"x": 1, "x": 2}}', "'x' is there twice"),
        ('{"target": "sim", "source": "", "entries": {}, "steps": []}', "entries and steps must be objects"),
        *(
            (json.dumps({"target": "sim", "source": "", "entries": {}, "steps": {"x": step}}), words)
            for step, words in (
                (1, "x: must be an object with form graph and why, or form persistent, in_flight, lanes and why"),
                ({"why": ""}, "x: must be an object with form graph"),
                ({"form": ["graph"], "why": ""}, "x: must be an object with form graph"),
                ({"form": "graph", "why": 1}, "x: must be an object with form graph"),
                ({"form": "graph", "why": "", "lanes": 4}, "x: must be an object with form graph"),
                ({"form": "persistent", "lanes": 4, "why": ""}, "x: must be an object with form graph"),
                ({"form": "persistent", "in_flight": 0, "lanes": 4, "why": ""}, "x: in_flight is 0, expected 1 to 256"),
                ({"form": "persistent", "in_flight": 8, "lanes": 33, "why": ""}, "x: lanes is 33, expected 1 to 32"),
            )
        ),
    ],
)
def test_bad_tables(tmp_path, content, words):
    path = tmp_path / "t.json"
    path.write_text(content, "utf-8")
    with pytest.raises(TuningError) as raised:
        read_table(path)
    assert words in str(raised.value)
    assert str(path) in str(raised.value)


def test_the_first_table_that_knows_a_stage_decides_and_the_choice_is_baked_in():
    usual = compiled()
    (qkv,) = [name for name in usual.streams["sm_90a"] if name.startswith("qkv ")]
    (head,) = [name for name in usual.streams["sm_90a"] if name.startswith("head ")]
    assert {chosen.origin for chosen in usual.streams["sm_90a"].values()} == {"formula"}
    tables = (
        table({qkv: Choice(5, 2)}, origin="first"),
        table({qkv: Choice(7, 1), head: Choice(3, 1)}, origin="second"),
        table({qkv: Choice(9, 9)}, target="sim"),
    )
    tuned = compiled(tuning=tables)
    streams = tuned.streams["sm_90a"]
    assert (streams[qkv].choice, streams[qkv].origin) == (Choice(5, 2), "first")
    assert (streams[head].choice, streams[head].origin) == (Choice(3, 1), "second")
    assert [c.origin for name, c in streams.items() if name not in (qkv, head)] == ["formula"] * 3
    assert "imp::GemvConfig{.warps = 5, .grid = 132, .slots = 2}" in tuned.emitted["sm_90a"].source
    blocks = {k.name: k.block for k in tuned.plan.target("sm_90a").program("step_r1").kernels}
    assert blocks["layers.0.qkv"] == 5 * 32
    assert blocks["head"] == 3 * 32
    assert tuned.emitted["sm_90a"].source == compiled(tuning=tables).emitted["sm_90a"].source
    assert tuned.emitted["sm_90a"].source != usual.emitted["sm_90a"].source


def test_a_choice_that_does_not_fit_names_its_table():
    (head,) = [name for name in compiled().streams["sm_90a"] if name.startswith("head ")]
    with pytest.raises(TargetError, match=r"in 32 warps with 64 tiles each.*measure it again \(bad\.json\)"):
        compiled(tuning=(table({head: Choice(32, 64)}, origin="bad.json"),))


def test_which_tables_compile_reads(tmp_path, monkeypatch, capsys):
    from imp_server.commands.compile import tables_of

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert user_path("sm_90a") == tmp_path / "imp" / "tuning" / "sm_90a.json"
    assert tables_of(None, find_targets(("sm_90a",))) == shipped()
    write_table(user_path("sm_90a"), table({"a": Choice(8, 4)}))
    own, *others = tables_of(None, find_targets(("sm_90a", "sim")))
    assert own.entries["a"].choice == Choice(8, 4)
    assert tuple(others) == shipped()
    assert tables_of("none", find_targets(("sm_90a",))) == ()
    other = tmp_path / "other.json"
    write_table(other, table({"b": Choice(8, 4)}, target="sim"))
    found = tables_of(str(other), find_targets(("sim",)))
    assert [t.origin for t in found] == [str(other), *("shipped" for _ in shipped())]
    arguments = ["compile", str(DEMO), "-o", str(tmp_path / "x.impc"), "--target", "sm_90a", "--tuning", str(other)]
    assert execute(arguments) == 2
    assert "is for sim:sim, not for sm_90a:h200" in capsys.readouterr().err


# what is shipped


def test_shipped_tables_say_where_they_come_from():
    sources = {t.target: t.source for t in shipped()}
    assert sources.keys() == {"sm_90a", "sm_120a"}
    assert sources["sm_120a"].startswith("cost model, not measured")
    assert {t.origin for t in shipped()} == {"shipped"}


def test_the_predicted_table_is_what_the_cost_model_gives():
    """Write it anew with: imp tune models/shapes/*.json --predict sm_120a --output imp_codegen/cards/rtx_5090.json."""
    shapes = sorted((ROOT / "models" / "shapes").glob("*.json"))
    assert (CARDS / "rtx_5090.json").read_text("utf-8") == predicted(shapes, "sm_120a").to_json()


def test_the_cost_model_on_paper():
    """One unit of one 4 KB tile for each of 8 warps of 170 SMs at 1,700 GB/s: 10 KB/us an SM."""
    target = find_target("sm_120a:170")
    assert target.card.speed is not None
    gpu = replace(target.card.speed, bandwidth=1700, launch_us=0.0)
    stage = Stage("qkv", ("",), 170 * 800, 1, 4000, 170 * 800 * 4000, 0)
    # Plenty in flight: 3.2 MB an SM at 10,000 bytes/us times 32,000 / 32,700.
    assert stage_us(stage, Choice(8, 1), target, gpu) == pytest.approx(320 * 32.7 / 32, rel=1e-6)
    # One warp with one tile: Little's law, 4,000 bytes every 0.8 us.
    assert stage_us(stage, Choice(1, 1), target, gpu) == pytest.approx(800 * 0.8, rel=1e-6)
    # 801 units: the last one alone in flight.
    longer = replace(stage, units=170 * 801, plane_bytes=170 * 801 * 4000)
    assert stage_us(longer, Choice(8, 1), target, gpu) == pytest.approx(320 * 32.7 / 32 + 0.8, rel=1e-6)
    # The 2 us between kernels hide the first 20,000 bytes, but no more than the rings hold.
    late = replace(gpu, launch_us=2.0)
    assert stage_us(stage, Choice(8, 1), target, late) == pytest.approx(2 + 318 * 32.7 / 32, rel=1e-6)
    assert stage_us(stage, Choice(1, 1), target, late) == pytest.approx(2 + 799 * 0.8, rel=1e-6)


@pytest.mark.parametrize("measure", [(), ("--predict", "sm_120a")])
def test_nothing_but_a_table_is_written_over(tmp_path, monkeypatch, capsys, measure):
    monkeypatch.setattr("imp_server.commands.tune._measure", lambda *_: pytest.fail("measures first"))
    shape = tmp_path / "shape.json"
    shape.write_bytes((ROOT / "models" / "shapes" / "qwen3-0.6b.json").read_bytes())
    before = shape.read_bytes()
    assert execute(["tune", str(shape), *measure, "-o", str(shape)]) == 2
    assert f"imp: error: {shape}: must be an object with target, source and entries" in capsys.readouterr().err
    assert shape.read_bytes() == before


def test_predict_refuses_what_it_cannot_know(tmp_path, capsys):
    shape = str(ROOT / "models" / "shapes" / "qwen3-0.6b.json")
    assert execute(["tune", shape, "--predict", "sim"]) == 2
    assert "knows no card" in capsys.readouterr().err
    assert execute(["tune", str(tmp_path / "x.impc"), "--predict", "sm_120a"]) == 2
    assert "takes shapes" in capsys.readouterr().err


# deciding


def artifact(made, target="sm_90a"):
    assert made.plan.target(target)
    return SimpleNamespace(plan=made.plan, path="demo.impc", read=lambda name: made.spec.to_json().encode())


@pytest.fixture(scope="module")
def experiment():
    return plan_experiment(artifact(compiled()), "sm_90a")


@dataclass
class Truth:
    """A device as a function: what a kernel costs by its name and warps, and the noise of each timing."""

    experiment: object
    cost: object
    noise: float
    seed: int = 0
    rounds: int = 31

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)

    def race(self, steps):
        exact = np.array([sum(self.cost(kernel) for kernel in step) for step in steps])
        drift = 1 + 0.02 * self.rng.standard_normal((self.rounds, 1))  # a round's clock: common to all variants
        return exact * drift + self.noise * self.rng.standard_normal((self.rounds, len(steps)))


def quiet(step, done, total):
    pass


def choices(report):
    return {
        outcome.stage.kind: outcome.choice for outcome in report.graph.outcomes if outcome.choice != outcome.formula
    }


def test_an_experiment_replaces_a_stage_in_all_layers_and_nothing_else(experiment):
    assert [stage.kind for stage in experiment.stages] == ["head", "gate_up", "project", "qkv", "project"]
    assert [k.name for k in experiment.formula] == [
        k.name for k in compiled().plan.target("sm_90a").program(PROGRAM).kernels
    ]
    stage = experiment.stages[1]
    assert experiment.launches(stage) == tuple(f"layers.{i}.gate_up" for i in range(6))
    choice = next(iter(experiment.others[stage]))
    step = experiment.step({stage: choice})
    changed = [new.name for new, old in zip(step, experiment.formula, strict=True) if new != old]
    assert tuple(changed) == experiment.launches(stage)
    assert {k.block for k in step if k.name in changed} == {choice.warps * 32}
    assert len(experiment.step({}, without=stage)) == len(experiment.formula) - 6
    assert all(k.entry in experiment.unit.source for k in step)
    assert stage.formula(experiment.target) not in experiment.others[stage]


def test_an_artifact_of_another_version_is_refused():
    made = compiled()
    old = replace(made.plan, targets=tuple(replace(t, buffers=t.buffers[1:]) for t in made.plan.targets))
    with pytest.raises(ImpError, match="compile the model again"):
        plan_experiment(artifact(replace(made, plan=old)), "sm_90a")
    renamed = [replace(p, kernels=p.kernels[1:]) for p in made.plan.targets[0].programs]
    old = replace(made.plan, targets=(replace(made.plan.targets[0], programs=tuple(renamed)),))
    with pytest.raises(ImpError, match="compile the model again"):
        plan_experiment(artifact(replace(made, plan=old)), "sm_90a")


def test_the_fastest_choices_are_found(experiment):
    """Gate and up are 5 % faster with 8 warps, the head 3 % with 12; everything else is as it was."""

    def cost(kernel):
        faster = {("gate_up", 8): 0.95, ("head", 12): 0.97}
        return 10.0 * faster.get((kernel.entry.rpartition("_")[0], kernel.block // 32), 1.0)

    report = tune(experiment, Truth(experiment, cost, noise=0.05).race, quiet)
    found = choices(report)
    assert {kind: choice.warps for kind, choice in found.items()} == {"gate_up": 8, "head": 12}
    gate_up = next(o for o in report.graph.outcomes if o.stage.kind == "gate_up")
    assert (gate_up.launches, gate_up.formula_us, gate_up.us) == (
        6,
        pytest.approx(10.0, rel=0.02),
        pytest.approx(9.5, rel=0.02),
    )
    assert report.graph.formula_us - report.graph.us == pytest.approx(6 * 0.5 + 0.3, rel=0.2)
    entry = report.table(find_target("sm_90a"), "a test", "an H200, today").entries[gate_up.stage.name]
    assert entry.choice.warps == 8
    assert entry.why.startswith("an H200, today: 9.")
    assert len(report.table(find_target("sm_90a"), "", "").entries) == 5, "what was measured and stays is an entry too"


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_changes_nothing(experiment, seed):
    report = tune(experiment, Truth(experiment, lambda kernel: 10.0, noise=3.0, seed=seed).race, quiet)
    assert choices(report) == {}


def test_less_than_one_percent_changes_nothing(experiment):
    cost = lambda kernel: 10.0 * (0.995 if kernel.block == 8 * 32 else 1.0)  # noqa: E731
    assert choices(tune(experiment, Truth(experiment, cost, noise=0.0).race, quiet)) == {}


@pytest.mark.parametrize(("together", "kept"), [(80.0, 5), (99.99, 5), (100.01, 0)])
def test_winners_must_win_together(experiment, together, kept):
    """Every stage's candidates look faster; in the end the last race counts, of all winners with the formula."""
    races = []

    def run(steps):
        races.append(len(steps))
        times = np.full((31, len(steps)), 90.0)
        times[:, 0] = 100.0
        if len(steps) > 2:
            times[:, 1] = 50.0  # without the stage
        if len(races) == 2 * len(experiment.stages) + 1:
            times[:, 1] = together
        return times

    report = tune(experiment, run, quiet)
    assert races[-1] == 2
    assert sum(outcome.choice != outcome.formula for outcome in report.graph.outcomes) == kept
    assert (report.graph.formula_us, report.graph.us) == (100.0, min(together, 100.0))


# timing


class Clock:
    """A device on which launch `i` takes i + 1 microseconds times a clock that slows down; it counts replays."""

    def __init__(self):
        self.now = 0.0
        self.ran = []

    def capture(self, launches):
        device = self

        class Replay:
            def launch(self):
                device.ran.append(launches[0].kernel)
                device.now += (launches[0].kernel + 1) * (1 + device.now * 1e-7)

        return Replay()

    def mark(self):
        return self.now

    def elapsed_ms(self, begin, end):
        return (end - begin) * 1e-3


def test_race_times_every_variant_in_every_round():
    device = Clock()
    variants = [[Launch(f"v{i}", i, (1, 1, 1), 32, 0, ())] for i in (99, 119, 499)]
    times = race(device, variants, 4)
    assert times.shape == (4, 3)
    for column, exact in enumerate((100.0, 120.0, 500.0)):
        assert times[:, column] == pytest.approx(exact, rel=0.02)
    timed = device.ran[4:]  # after a warm-up of each and one for the length
    one_round = 1 + 3 * 10  # short work is repeated until it takes a millisecond
    assert timed[:one_round] == [99, *[99] * 10, *[119] * 10, *[499] * 10]
    assert timed[one_round : 2 * one_round] == [499, *[499] * 10, *[119] * 10, *[99] * 10]
    assert len(timed) == 4 * one_round
