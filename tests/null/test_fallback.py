"""One artifact on cards of several sizes: decode is a graph where the step kernel's CTAs do not all run at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_device import FakeDevice, Grammar, expected
from tiny_artifact import STOP, in_one_kernel, make_plan, write_tiny

from imp_codegen.targets import find_target
from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from imp_server.cli import execute

PROMPT = [5, 9, 2, 40]
PARAMS = SamplingParams(max_tokens=20, ignore_eos=True)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A step in one kernel of six CTAs."""
    return write_tiny(tmp_path / "tiny.impc", in_one_kernel(make_plan()))


@pytest.mark.parametrize("room", [6, 7, 5, 1])
@pytest.mark.parametrize("constrained", [False, True])
def test_the_same_tokens_in_either_form(
    artifact: Path, caplog: pytest.LogCaptureFixture, room: int, constrained: bool
) -> None:
    device = FakeDevice()
    device.blocks = room
    with Engine(Artifact.open(artifact), device) as engine:
        engine.add(PROMPT, PARAMS, Grammar() if constrained else None)
        found = []
        while engine.has_work:
            found += [output.token for output in engine.step()]
        target = engine.runner.target
    tokens, _ = expected(PROMPT, PARAMS, 0, PARAMS.max_tokens, (STOP,), Grammar() if constrained else None)
    assert found == tokens
    step = "forward" if constrained else "step"
    held = room >= 6
    ran, other = (f"resident_{step}", step) if held else (step, f"resident_{step}")
    assert device.ran.count(ran) >= PARAMS.max_tokens - 1
    assert other not in device.ran
    assert target.form == ("persistent" if held else "graph")
    reason = f"fake runs {room} of the 6 CTAs at once that one kernel would need"
    assert (target.reason == reason) == (not held)
    said = [record.getMessage() for record in caplog.records]
    assert said == ([] if held else [f"tiny decodes as a graph of kernels: {reason}"])


def test_the_graph_can_be_asked_for(artifact: Path) -> None:
    device = FakeDevice()
    device.blocks = 6
    with Engine(Artifact.open(artifact).in_graph_form(device.target), device) as engine:
        assert list(engine.generate(PROMPT, PARAMS)) == expected(PROMPT, PARAMS, 0, PARAMS.max_tokens, (STOP,), None)[0]
        assert (engine.runner.target.form, engine.runner.target.reason) == ("graph", "as asked for")
    assert "resident_step" not in device.ran


@pytest.mark.parametrize(("made_for", "runs_on"), [("sm_120a", "rtx-5080"), ("sm_90a", "h100-pcie")])
def test_an_artifact_for_the_usual_card_on_a_smaller_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, made_for: str, runs_on: str
) -> None:
    """A CTA a multiprocessor: one kernel for 170 on a card with 84, for 132 on one with 114."""
    ctas, room = find_target(made_for).sms, find_target(f"{made_for}:{runs_on}").sms
    device = FakeDevice()
    device.blocks = room
    with Engine(Artifact.open(write_tiny(tmp_path / "t.impc", in_one_kernel(make_plan(), ctas))), device) as engine:
        sequence = engine.add(PROMPT, PARAMS)
        while engine.has_work:
            engine.step()
        assert len(sequence.generated) == PARAMS.max_tokens
    assert "resident_step" not in device.ran
    reason = f"fake runs {room} of the {ctas} CTAs at once that one kernel would need"
    assert [record.getMessage() for record in caplog.records] == [f"tiny decodes as a graph of kernels: {reason}"]


def test_inspect_says_what_other_cards_do(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["inspect", str(artifact)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "persistent (as asked for), sized for 6 multiprocessors; a graph on a card without room for all" in said
    assert execute(["inspect", str(write_tiny(tmp_path / "graph.impc"))]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "graph (as asked for), sized for 6 multiprocessors" in said
    assert "a graph on a card" not in said
    assert execute(["inspect", str(artifact), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["targets"]["fake"] == {
        "card": "6",
        "multiprocessors": 6,
        "form": "persistent",
        "reason": "as asked for",
        "graph_where_no_room": True,
    }
