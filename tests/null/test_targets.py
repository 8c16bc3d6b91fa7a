"""Targets as they are asked for, and plans that are sized for one card or another."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from imp_codegen import cards as cards_module
from imp_codegen.cards import Card, cards
from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.compiler import CompileOptions, plan_model
from imp_codegen.kernels.form import Wanted
from imp_codegen.targets import TargetError, find_target, find_targets, targets
from imp_codegen.tune.stage import Choice
from imp_codegen.tune.table import Entry, Table, TuningError, read_table, write_table
from imp_runtime.errors import ImpError
from imp_runtime.plan import STEPS, TargetPlan
from imp_server.commands import compile as command

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "models" / "demo.gguf"
BIG = ROOT / "models" / "shapes" / "qwen3-8b.json"


def test_multiprocessors_stand_after_a_colon() -> None:
    target = find_target("sm_120a:84")
    assert (target.name, target.sms, target.attention_ctas) == ("sm_120a", 84, 84)
    assert find_target("sm_120a:170") == find_target("sm_120a")
    assert find_target("sm_120a:78").card.name == "78"
    assert (find_target("sim:3").sms, find_target("sim:3").attention_ctas) == (3, 6)


@pytest.mark.parametrize("count", ["", "0", "x", "-3", "1025", "8:4", "²", "1" * 5000, "h200", "RTX-5080"])
def test_what_is_no_number_of_multiprocessors(count: str) -> None:
    with pytest.raises(
        TargetError,
        match=r"after the colon stands a card \(rtx-5070-ti, rtx-5080, rtx-5090, rtx-pro-6000\) or its number of m",
    ):
        find_target(f"sm_120a:{count}")


def test_predictions_are_for_the_card_of_that_size() -> None:
    names = {
        "sm_120a": "rtx-5090",
        "sm_120a:188": "rtx-pro-6000",
        "sm_120a:84": "rtx-5080",
        "sm_120a:70": "rtx-5070-ti",
        "sm_120a:rtx-5080": "rtx-5080",
        "sm_90a:132": "h200",
        "sm_90a:114": "h100-pcie",
        "sm_90a:h100-sxm": "h100-sxm",
        "sim": "sim",
    }
    assert {text: find_target(text).card.name for text in names} == names
    assert find_target("sim").card.speed is None


@pytest.mark.parametrize("card", cards().values(), ids=cards())
def test_cards_fit_their_targets(card: Card) -> None:
    """A card's file is called as it is; its target finds it by name and by what `str` gives; CTAs have room."""
    assert (Path(cards_module.__file__).parent / f"{card.name.replace('-', '_')}.py").exists()
    target = find_target(f"{card.target}:{card.name}")
    assert target.card is card
    assert find_target(str(target)) == target
    assert find_target(str(target.sized(77))) == target.sized(77)
    assert target.max_shared < card.shared
    assert card.like is None or (card.like.speed and card.like.like is None), "measured itself"


def test_unknown_targets_and_targets_asked_for_twice() -> None:
    with pytest.raises(TargetError, match=r"target 'sm_1' is unknown; known: sim, sm_120a, sm_90a"):
        find_target("sm_1:3")
    with pytest.raises(TargetError, match="target sm_120a is asked for twice"):
        find_targets(("sm_120a:84", "sim", "sm_120a"))


@pytest.mark.parametrize(
    ("here", "gpu", "given", "expected"),
    [
        ("sim", None, None, ("sm_120a", "sim")),
        ("sm_120a", ("NVIDIA GeForce RTX 5080", 84), None, ("sm_120a:rtx-5080",)),
        ("sm_120a", ("NVIDIA GeForce RTX 5080 Laptop GPU", 60), None, ("sm_120a:60",)),
        ("sm_120a", ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 188), None, ("sm_120a:rtx-pro-6000",)),
        ("sm_90a", ("NVIDIA H100 80GB HBM3", 132), None, ("sm_90a:h100-sxm",)),
        ("sm_90a", ("NVIDIA H200", 132), None, ("sm_90a:h200",)),
        ("sm_90a", ("NVIDIA H100 NVL", 132), None, ("sm_90a:132",)),
        ("sm_75", ("NVIDIA T4", 40), None, ("sm_120a", "sim")),
        ("sm_120a", ("x", 84), "sm_120a,sim", ("sm_120a:84", "sim")),
        ("sm_120a", ("x", 84), "sm_120a:70,sm_90a", ("sm_120a:70", "sm_90a")),
        ("sim", None, "sm_120a, sim", ("sm_120a", "sim")),
    ],
)
def test_where_nothing_is_said_it_is_this_machines_card(
    monkeypatch: pytest.MonkeyPatch,
    here: str,
    gpu: tuple[str, int] | None,
    given: str | None,
    expected: tuple[str, ...],
) -> None:
    monkeypatch.setattr(command, "detect_target", lambda: here)
    monkeypatch.setattr(command, "detect_gpu", lambda: gpu)
    assert command._targets(given) == expected


def planned(target: str, form: Wanted) -> tuple[TargetPlan, str]:
    with closing(random_checkpoint(BIG, "Q8_0")) as checkpoint:
        compiled = plan_model(checkpoint, (find_target(target),), CompileOptions(form=form))
    (plan,) = compiled.plan.targets
    return plan, compiled.emitted[plan.target].source


@pytest.mark.parametrize("target", ["sm_120a:84", "sm_120a:70", "sm_90a:114", "sm_90a:78", "sim:1"])
def test_grids_are_of_the_cards_size(target: str) -> None:
    sms = find_target(target).sms
    plan, source = planned(target, "graph")
    assert plan.sms == sms
    streamed = [k for k in plan.program("forward_r1").kernels if k.entry.startswith(("qkv", "project", "head"))]
    assert {kernel.grid for kernel in streamed} == {(sms, 1, 1)}
    assert f".grid = {targets()[plan.target].sms}," not in source


@pytest.mark.parametrize("target", ["sm_120a", "sm_120a:rtx-5080", "sm_90a:h100-pcie", "sm_90a"])
def test_a_plan_with_the_step_kernel_carries_the_graph(target: str) -> None:
    plan, source = planned(target, "persistent")
    graph, _ = planned(target, "graph")
    assert [program.name for program in plan.fallback] == [*STEPS]
    (step,) = (kernel for kernel in plan.program("forward_r1").kernels if kernel.resident)
    assert step.grid == (plan.sms, 1, 1)
    for program in plan.fallback:
        assert [k.name for k in program.kernels] == [k.name for k in graph.program(program.name).kernels]
        assert [k.args for k in program.kernels] == [k.args for k in graph.program(program.name).kernels]
        assert all(f" {kernel.entry}(" in source for kernel in program.kernels)
    assert {buffer.name for buffer in graph.buffers} <= {buffer.name for buffer in plan.buffers}
    assert graph.fallback == ()
    turned = plan.in_graph_form("no room")
    assert (turned.form, turned.reason, turned.fallback) == ("graph", "no room", ())
    # What is left of those that wait for one another fits the smallest cards, two a multiprocessor.
    waiting = [k for program in turned.programs for k in program.kernels if k.resident]
    assert {(k.name, k.grid) for k in waiting} == {("sieve", (40, 1, 1))}
    assert "__launch_bounds__(256, 2) sieve_0(" in source
    assert [program.name for program in turned.programs] == [program.name for program in plan.programs]


def test_a_table_counts_for_cards_of_its_size() -> None:
    stage = next(iter(planned_streams("sm_90a")))
    entries = {stage: Entry(Choice(5, 1), "a test")}
    usual, other = Table("sm_90a", "", entries, "here"), Table("sm_90a", "", entries, "here", sms=114)
    assert planned_streams("sm_90a", usual, other)[stage] == planned_streams("sm_90a:114", other)[stage]
    assert planned_streams("sm_90a", usual)[stage].origin == "here"
    for target, table in (("sm_90a:114", usual), ("sm_90a", other), ("sm_120a", usual)):
        assert planned_streams(target, table)[stage].origin == "formula"


def planned_streams(target: str, *tables: Table) -> dict[str, object]:
    with closing(open_checkpoint(DEMO)) as checkpoint:
        made = plan_model(checkpoint, (find_target(target),), CompileOptions(tuning=tables))
    (streams,) = made.streams.values()
    return dict(streams)


def test_a_tables_size_is_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    table = Table("sm_120a", "a test", {"a": Entry(Choice(2, 1), "")}, str(path), sms=84)
    write_table(path, table)
    assert read_table(path) == table
    with pytest.raises(
        TuningError, match=r"is for sm_120a:rtx-5080, the new entries are for sm_120a:rtx-5090; name another"
    ):
        write_table(path, Table("sm_120a", "", {}, ""))
    usual = Table("sm_120a", "a test", {}, "", sms=170)
    assert '"sms"' not in usual.to_json(), "as many as the target has by default"
    path.write_text(path.read_text().replace('"sms": 84', '"sms": 0'))
    with pytest.raises(TuningError, match="sms is 0, expected 1 to 1024"):
        read_table(path)


def test_a_table_for_other_cards_is_refused_where_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    write_table(path, Table("sm_120a", "a test", {}, "", sms=84))
    assert command.tables_of(str(path), find_targets(("sm_120a:84",)))[0].sms == 84
    with pytest.raises(ImpError, match=r"is for sm_120a:rtx-5080, not for sm_120a:rtx-5090, sim:sim"):
        command.tables_of(str(path), find_targets(("sm_120a", "sim")))
