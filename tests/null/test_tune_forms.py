"""How `imp tune` decides between the two forms of a decode step; times are invented here, on purpose."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from test_tuning import Truth, artifact, compiled, quiet

from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.compiler import CompileOptions, plan_model
from imp_codegen.targets import find_target
from imp_codegen.tune.measure import tune
from imp_codegen.tune.measure.experiment import PROGRAM, plan_experiment
from imp_codegen.tune.step import Step, StepChoice
from imp_codegen.tune.table import StepEntry
from imp_runtime.device import DeviceError
from imp_runtime.errors import ImpError
from imp_server.commands.tune import _held
from two_forms import CONFIG

H200 = find_target("sm_90a")
FORMULAS = replace(H200.card.formulas, lanes=4, short_tile=4200, in_flight=64 << 10)
SHORT = replace(H200, card=replace(H200.card, formulas=FORMULAS))  # a card for which short tiles have more lanes
GRAPH_US = 10.0 * 32  # of the demo's 32 kernels


def planned(folder, form="graph", **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**CONFIG, **changes}), "utf-8")
    with closing(random_checkpoint(path, "Q8_0")) as checkpoint:
        return plan_model(checkpoint, (H200,), CompileOptions(tuning=(), form=form))


@pytest.fixture(scope="module")
def experiment():
    return plan_experiment(artifact(compiled()), "sm_90a")


def measured(experiment, step_us, noise=0.05, seed=0, graph_us=lambda kernel: 10.0):
    """`step_us`: what the step kernel costs with a choice."""
    costs = {kernels[-1].entry: step_us(choice) for choice, kernels in experiment.persistent.programs.items()}
    assert len(costs) == len(experiment.persistent.programs)

    def cost(kernel):
        return costs[kernel.entry] if kernel.resident else graph_us(kernel)

    return tune(experiment, Truth(experiment, cost, noise, seed).race, quiet)


# what is measured


def test_numbers_worth_measuring():
    step = Step("", tile_bytes=4352, ring_tiles=36)
    assert step.formula(SHORT) == StepChoice(15, 4)
    assert {str(choice) for choice in step.candidates(SHORT)} == {"7 x 4", "15 x 8", "30 x 4", "30 x 8"}
    short = replace(step, tile_bytes=4199)
    assert short.formula(SHORT) == StepChoice(15, 8)
    assert {str(c) for c in replace(short, ring_tiles=18).candidates(SHORT)} == {"7 x 4", "15 x 4", "18 x 4", "18 x 8"}
    assert replace(step, ring_tiles=9).formula(SHORT) == StepChoice(9, 4)
    assert replace(short, ring_tiles=5).formula(SHORT) == StepChoice(5, 5)
    assert [replace(step, ring_tiles=n).possible for n in (3, 4)] == [False, True]
    assert [step.takes(StepChoice(*n)) for n in ((36, 36), (37, 4), (3, 4))] == [True, False, False]


def test_an_experiment_holds_both_forms(experiment):
    persistent = experiment.persistent
    assert (experiment.obstacle, experiment.predicted) == (None, "graph")
    assert persistent.formula == persistent.step.formula(H200)
    assert set(persistent.programs) == {persistent.formula, *persistent.step.candidates(H200)}
    for choice, (embed, kernel) in persistent.programs.items():
        assert embed == experiment.formula[0]
        assert kernel.resident
        body = experiment.unit.source.partition(f"using {kernel.entry}_t =")[2].partition(";")[0]
        assert f".in_flight = {choice.in_flight}, .lanes = {choice.lanes}," in " ".join(body.split())
    (both,) = experiment.plan.targets
    assert both.programs == ()
    for form in ("graph", "persistent"):
        alone = compiled(form=form).plan.targets[0]
        assert set(alone.buffers) <= set(both.buffers)
    used = {binding.buffer for kernels in persistent.programs.values() for k in kernels for binding in k.args}
    assert {name for name in used if name.startswith("step.p")} <= {buffer.name for buffer in both.buffers}


def test_an_artifact_of_either_form_gives_the_same_experiment(experiment):
    other = plan_experiment(artifact(compiled(form="persistent")), "sm_90a")
    assert other.plan.targets[0].buffers == experiment.plan.targets[0].buffers
    assert replace(other, plan=experiment.plan) == experiment


def test_a_persistent_artifact_of_another_version_is_refused():
    plan = compiled(form="persistent").plan
    (target,) = plan.targets
    fewer = replace(target, buffers=tuple(b for b in target.buffers if b.name != "step.partial"))
    program = target.program(PROGRAM)
    kernel = replace(program.kernels[1], args=program.kernels[1].args[::-1])
    turned = replace(program, kernels=(program.kernels[0], kernel))
    others = replace(target, programs=tuple(turned if p is program else p for p in target.programs))
    for old in (fewer, others):
        made = replace(compiled(), plan=replace(plan, targets=(old,)))
        with pytest.raises(ImpError, match=r"demo\.impc: was compiled by another version of imp"):
            plan_experiment(artifact(made), "sm_90a")


def test_an_artifact_without_the_target_is_refused():
    with pytest.raises(
        ImpError, match=r"^demo\.impc: .* no code for sim; it carries sm_90a; compile with --target sim"
    ):
        plan_experiment(artifact(compiled()), "sim")


def test_the_key_of_a_step(tmp_path):
    """What the step kernel's speed depends on, in words."""

    def key(**changes):
        return plan_experiment(artifact(planned(tmp_path, **changes)), "sm_90a").persistent.step.name

    usual = key()
    # k and v; output and down; q, gate and up.
    assert usual == (
        "2 layers, 4/2 heads of 64, 4 of 128x128 Q8_0:4x128, 4 of 128x256 Q8_0:4x256, 6 of 256x128 Q8_0:4x128, "
        "head 301x128 Q8_0:4x128"
    )
    others = [
        key(**changes)
        for changes in (
            {"num_hidden_layers": 3},
            {"num_attention_heads": 8, "head_dim": 32},
            {"num_key_value_heads": 1},
            {"intermediate_size": 512},
            {"vocab_size": 303},
        )
    ]
    assert len({usual, *others}) == 6


# deciding


def test_the_faster_form_is_found(experiment):
    for predicted in ("graph", "persistent"):
        report = measured(replace(experiment, predicted=predicted), lambda _: GRAPH_US - 20)
        forms = report.forms
        assert forms.form == "persistent"
        assert forms.persistent.choice == forms.persistent.formula == experiment.persistent.formula
        assert forms.persistent.us == forms.persistent.formula_us == pytest.approx(GRAPH_US - 10, rel=0.02)
        assert forms.graph_us == pytest.approx(GRAPH_US, rel=0.02)
        entry = report.table(find_target("sm_90a"), "", "a card, today").steps[experiment.persistent.step.name]
        assert entry.choice == experiment.persistent.formula
        assert entry.why == f"a card, today: persistent {forms.persistent.us:.0f} us, graph {forms.graph_us:.0f} us"
        report = measured(replace(experiment, predicted=predicted), lambda _: GRAPH_US)
        assert report.forms.form == "graph"
        entry = report.table(find_target("sm_90a"), "", "").steps[experiment.persistent.step.name]
        assert (entry.form, entry.choice) == ("graph", None)


def test_the_best_numbers_are_found(experiment):
    best = experiment.persistent.step.candidates(H200)[2]
    report = measured(experiment, lambda choice: (GRAPH_US - 20) * (0.97 if choice == best else 1.0))
    found = report.forms.persistent
    assert (found.formula, found.choice) == (experiment.persistent.formula, best)
    assert found.us == pytest.approx(10 + (GRAPH_US - 20) * 0.97, rel=0.02)
    assert found.formula_us - found.us == pytest.approx((GRAPH_US - 20) * 0.03, rel=0.1)
    assert report.table(find_target("sm_90a"), "", "").steps[experiment.persistent.step.name].choice == best


@pytest.mark.parametrize("predicted", ["graph", "persistent"])
def test_noise_alone_changes_little(experiment, predicted):
    """A gain must have three standard errors, which one of five numbers reaches by noise once in some twenty times."""
    # The step kernel and the embedding take as long as the graph.
    alike = replace(experiment, predicted=predicted)
    changed = 0
    for seed in range(20):
        forms = measured(alike, lambda _: GRAPH_US - 10, noise=3.0, seed=seed).forms
        changed += forms.form != predicted or forms.persistent.choice != forms.persistent.formula
    assert changed <= 2


def test_the_graph_competes_in_its_best_configuration(experiment):
    """The step kernel would beat the formula's graph, but not the tuned one."""
    faster = lambda kernel: 8.0 if kernel.block == 8 * 32 else 10.0  # noqa: E731
    report = measured(experiment, lambda _: GRAPH_US - 20, graph_us=faster)
    assert report.graph.us < GRAPH_US - 40
    assert report.forms.form == "graph"
    assert report.forms.graph_us == pytest.approx(report.graph.us, rel=0.02)


# where there is no choice


def test_a_model_that_one_kernel_cannot_decode(tmp_path):
    made = planned(tmp_path, architectures=["Gemma2ForCausalLM"], rms_norm_eps=0.0)
    experiment = plan_experiment(artifact(made), "sm_90a")
    assert experiment.persistent is None
    report = tune(experiment, Truth(experiment, lambda kernel: 10.0, 0.0).race, quiet)
    assert (report.forms.form, report.forms.persistent) == ("graph", None)
    assert report.forms.obstacle == "RmsNorm layers.0.post_ffw_norm has an eps of 0"
    assert report.table(find_target("sm_90a"), "", "").steps == {}


def test_a_device_that_cannot_hold_the_step_kernel(experiment):
    def refuse(kernels):
        assert kernels == experiment.persistent.programs[experiment.persistent.formula]
        raise DeviceError("kernel step has 132 CTAs, and the card holds 84")

    held = _held(experiment, refuse)
    report = tune(held, Truth(held, lambda kernel: np.nan if kernel.resident else 10.0, 0.0).race, quiet)
    assert (report.forms.form, report.forms.persistent) == ("graph", None)
    words = "a card, today: persistent is not possible, kernel step has 132 CTAs, and the card holds 84"
    assert report.table(find_target("sm_90a"), "", "a card, today").steps == {
        experiment.persistent.step.name: StepEntry(None, words)
    }
    assert _held(experiment, lambda kernels: None) == experiment
