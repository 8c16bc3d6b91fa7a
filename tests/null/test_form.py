"""Which form a decode step takes, why, and what the plan then says of the step kernel."""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from tiny_artifact import in_one_kernel, make_plan, write_tiny

from imp_codegen import compiler
from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.compiler import CompileOptions, plan_model
from imp_codegen.graph import Graph
from imp_codegen.kernels.family import Body
from imp_codegen.kernels.form import choose, obstacle
from imp_codegen.kernels.gate_up import GateUp
from imp_codegen.kernels.norm_linear import NormLinear
from imp_codegen.kernels.step.kernel import tuned
from imp_codegen.kernels.step.model import step_model
from imp_codegen.models import llama
from imp_codegen.programs import body, lower
from imp_codegen.targets import Target, TargetError, find_target
from imp_codegen.tune.step import StepChoice
from imp_codegen.tune.table import StepEntry, Table
from imp_server.cli import execute
from model_checks import FIXTURES
from two_forms import CONFIG

ROOT = Path(__file__).resolve().parents[2]
H200 = find_target("sm_90a")
BIG = ROOT / "models" / "shapes" / "qwen3-8b.json"


def with_overheads(**changed: float) -> Target:
    """An H200's target with other overheads."""
    assert H200.card.speed is not None
    return replace(H200, card=replace(H200.card, speed=replace(H200.card.speed, **changed)))


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three of the big one's layers and a small vocabulary, for what does not depend on them."""
    path = tmp_path_factory.mktemp("short") / "config.json"
    path.write_text(
        json.dumps(json.loads(BIG.read_text("utf-8")) | {"num_hidden_layers": 3, "vocab_size": 1000}), "utf-8"
    )
    return path


def config(folder: Path, **changes: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**CONFIG, **changes}), "utf-8")
    return path


def made(source: Path, quant="Q8_0", target=H200, form="auto", tables=()):
    with closing(random_checkpoint(source, quant)) as checkpoint:
        return plan_model(checkpoint, (target,), CompileOptions(form=form, tuning=tables))


def plan(*args, **more):
    return made(*args, **more).plan.targets[0]


def lowered(source: Path, quant="Q8_0", target=H200) -> Body:
    """A model as the kernels of one row take it."""
    found = []

    def catch(low, graph, *more):
        found.append((low, graph))
        return lower(low, graph, *more)

    with patch.object(compiler, "lower", catch):
        plan(source, quant, target)
    return body(*found[0], 1)


def key_of(source: Path, quant="Q8_0") -> str:
    """What tables call a model's step."""
    return tuned(step_model(lowered(source, quant))).name


# obstacles


@pytest.fixture
def uneven(tmp_path):
    """A model of whose norms one has another eps."""
    build = llama.build

    def changed(spec):
        ops = build(spec).ops
        return Graph(tuple(replace(op, eps=0.5) if op.out.name == "layers.1.attn_norm" else op for op in ops))

    with patch.object(llama, "build", changed):
        yield config(tmp_path, architectures=["LlamaForCausalLM"])


UNEVEN = "RmsNorm layers.1.attn_norm: its eps (0.5) is not that of RmsNorm layers.0.attn_norm (1e-05)"


def test_a_model_that_the_step_kernel_does_not_take(uneven):
    chosen = plan(uneven)
    assert (chosen.form, chosen.reason) == ("graph", UNEVEN)
    assert not any(kernel.resident for kernel in chosen.program("step_r1").kernels)
    words = f"--exec persistent: {UNEVEN}; compile with --exec graph"
    with pytest.raises(TargetError, match=f"^{re.escape(words)}$"):
        plan(uneven, form="persistent")


@pytest.mark.parametrize("name", ["gemma4/gemma4-Q4_K_M.gguf", "gemma4_e2b/hf"])
def test_layers_of_several_kinds_are_taken(name):
    with closing(open_checkpoint(FIXTURES / name)) as checkpoint:
        found = plan_model(checkpoint, (H200,), CompileOptions(form="persistent")).plan.targets[0]
    assert found.form == "persistent"


def test_too_little_shared_memory(tmp_path):
    chosen = plan(BIG, target=replace(H200, max_shared=48 << 10, gemv_shared=44 << 10, batches=()))
    words = (
        "sm_90a has 49,152 bytes of shared memory, its phases take 15,888, and 7 tiles of 4,352 fit beside them; "
        "8 are needed"
    )
    assert (chosen.form, chosen.reason) == ("graph", words)


def test_too_little_shared_memory_for_several_sequences():
    with pytest.raises(
        TargetError, match=r"^sm_90a has 49,152 bytes of shared memory, products of 8 sequences take \d"
    ):
        plan(BIG, target=replace(H200, max_shared=48 << 10, gemv_shared=44 << 10))


def test_obstacles_in_the_graph(tmp_path):
    whole = lowered(config(tmp_path))
    low, groups = whole.low, whole.matches
    assert obstacle(whole) is None
    mlp = next(at for at, group in enumerate(groups) if isinstance(group, GateUp))
    words = "its layers are not all attention and a gated MLP"
    assert (
        obstacle(Body(low, groups[:mlp] + groups[mlp + 1 :]))
        == f"{words} (Linear layers.0.down to Add layers.0.residual)"
    )
    assert obstacle(Body(low, groups[:mlp] + groups[-1:])) == f"{words} (RmsNorm output_norm to Sample token)"
    assert obstacle(Body(low, groups[1:])) == f"{words} (RmsNorm layers.0.attn_norm to Linear layers.0.v)"
    qkv = groups[1]
    assert isinstance(qkv, NormLinear)
    two = (groups[0], replace(qkv, writes=(qkv.writes[0][:-1],)), *groups[2:])
    assert obstacle(Body(low, two)) == f"{words} (HeadNorm layers.0.q_norm to Attention layers.0.attention)"
    key = low.placed["blk.1.attn_k.weight"]
    cut = replace(key, tile=replace(key.tile, cols=key.tile.cols // 2))
    placed = {**low.placed, "blk.1.attn_k.weight": cut}
    words = "blk.1.attn_q.weight: q, k and v are cut into different numbers of tiles"
    assert obstacle(Body(replace(low, placed=placed), groups)) == words


# the choice


def test_as_asked_for():
    for form in ("graph", "persistent"):
        chosen = plan(BIG, form=form)
        assert (chosen.form, chosen.reason) == (form, "as asked for")
        residents = [kernel.resident for kernel in chosen.program("step_r1").kernels].count(True)
        assert residents == (form == "persistent")


def test_the_simulator_takes_the_graph():
    chosen = plan(ROOT / "models" / "shapes" / "qwen3-0.6b.json", target=find_target("sim"))
    assert (chosen.form, chosen.reason) == ("graph", "the simulator has no launches to save")


def test_small_models_stay_graphs_and_tiles_are_counted(tmp_path):
    """Tiles of Q4_K have two rows here, of Q6_K one."""
    chosen = plan(config(tmp_path))
    assert (chosen.form, chosen.reason) == ("graph", "its layers are too small for all 132 multiprocessors")
    layers, head = 36 * (2 * 12288 + 3 * 4096 + 2 * 4096 + 2 * 1024), 151936
    us = H200.card.formulas.step_tile_us * (layers + head) / 132
    chosen = plan(BIG, "Q6_K")
    assert chosen.form == "persistent"
    assert chosen.reason.startswith(f"predicted for NVIDIA H200: persistent {us:,.0f} us, graph ")
    assert plan(BIG, "Q4_K_M").form == "persistent"


def test_a_card_whose_memory_is_slower_than_tiles():
    """An RTX 5090 gives each of its 170 multiprocessors 10 GB/s."""
    chosen = plan(BIG, "Q4_K_M", find_target("sm_120a"))
    assert chosen.form == "persistent"
    assert chosen.reason.startswith("predicted for NVIDIA GeForce RTX 5090, from NVIDIA H200: ")


@pytest.mark.parametrize(("phase_us", "form"), [(0.1, "persistent"), (50.0, "graph")])
def test_the_faster_form_by_the_cost_model(phase_us, form):
    assert plan(BIG, target=with_overheads(phase_us=phase_us, launch_us=2.0)).form == form


# What `imp tune` measured on an H200 on 2026-11-21: microseconds as one kernel, and as a graph.
MEASURED = {
    ("qwen3-8b", "Q8_0"): (2004, 2313),
    ("llama-3.2-1b", "BF16"): (621, 716),
    ("qwen3-1.7b", "Q8_0"): (600, 755),
    ("qwen3-0.6b", "Q8_0"): (381, 418),
}


@pytest.mark.parametrize(("shape", "quant"), MEASURED)
def test_the_cost_model_against_measurements(shape, quant):
    """Without a table the form is chosen that was faster, and both are predicted within a fifth."""
    measured = MEASURED[shape, quant]
    chosen = plan(ROOT / "models" / "shapes" / f"{shape}.json", quant)
    assert chosen.form == ("persistent" if measured[0] < measured[1] else "graph")
    said = re.fullmatch(r"predicted for NVIDIA H200: persistent ([\d,]+) us, graph ([\d,]+) us", chosen.reason)
    assert said
    assert [float(number.replace(",", "")) for number in said.groups()] == pytest.approx(measured, rel=0.2)


# tuning tables


def entries(*steps: tuple[str, StepEntry], origin="here", target="sm_90a") -> Table:
    return Table(target, "a test", {}, origin, dict(steps))


def test_a_measurement_counts_more_than_the_cost_model(short, tmp_path):
    """Whatever it says: each of these models would be decoded in the other form."""
    for source, quant, name in (
        (short, "Q8_0", "graph"),
        (config(tmp_path), "Q8_0", ""),
    ):
        key = key_of(source, quant)
        choice = None if name == "graph" else StepChoice(9, 5)
        table = entries((key, StepEntry(choice, "a card, today: persistent 2 us, graph 1 us")))
        chosen = plan(source, quant, tables=(table,))
        assert chosen.reason == "measured on a card, today: persistent 2 us, graph 1 us"
        assert chosen.form == (name or "persistent")
        assert plan(source, quant).form != chosen.form
        other = entries(("another model", StepEntry(choice, "")))
        assert plan(source, quant, tables=(other,)) == plan(source, quant)


def test_the_first_table_that_knows_the_step_decides(short):
    key = key_of(short)
    mine = entries((key, StepEntry(None, "mine")))
    shipped = entries((key, StepEntry(StepChoice(9, 5), "shipped")))
    other = entries((key, StepEntry(StepChoice(9, 5), "another card")), target="sm_120a")
    for tables, reason in (
        ((mine, shipped), "mine"),
        ((shipped, mine), "shipped"),
        ((entries(), mine), "mine"),
        ((other, mine), "mine"),
    ):
        assert plan(short, tables=tables).reason == f"measured on {reason}"


def test_what_is_asked_for_counts_more_than_a_measurement(short):
    key = key_of(short)
    for form, choice in (("graph", StepChoice(9, 5)), ("persistent", None)):
        chosen = plan(short, form=form, tables=(entries((key, StepEntry(choice, ""))),))
        assert (chosen.form, chosen.reason) == (form, "as asked for")


@pytest.mark.parametrize("form", ["auto", "persistent"])
def test_the_measured_numbers_are_baked_in(short, form):
    key = key_of(short)
    table = entries((key, StepEntry(StepChoice(9, 5), "")))

    def numbers(*tables):
        return re.findall(
            r"in_flight = (\d+), \.lanes = (\d+)", made(short, form=form, tables=tables).emitted["sm_90a"].source
        )

    assert numbers() == [("15", "8")]
    assert numbers(table) == [("9", "5")]
    assert made(short, form=form, tables=(table,)).plan.targets[0].buffers == plan(short, form=form).buffers


def test_numbers_that_do_not_fit_name_their_table(short):
    key = key_of(short)
    for choice in (StepChoice(37, 4), StepChoice(4, 5)):
        with pytest.raises(TargetError, match=r"its ring takes 36; measure it again \(bad\.json\)"):
            plan(short, tables=(entries((key, StepEntry(choice, "")), origin="bad.json"),))


def test_an_obstacle_counts_more_than_a_measurement(uneven):
    table = entries((key_of(uneven), StepEntry(StepChoice(9, 5), "")))
    assert plan(uneven, tables=(table,)).reason == UNEVEN


def test_a_choice_leaves_no_buffers_behind():
    """The cost model looks at a step kernel that is then not taken."""
    slow = with_overheads(phase_us=50.0)
    chosen = plan(BIG, target=slow)
    assert chosen.form == "graph"
    assert not [buffer.name for buffer in chosen.buffers if buffer.name.startswith("step.p")]
    whole = lowered(BIG, target=slow)
    before = dict(whole.low.buffers)
    choose(whole, (), "auto")
    assert whole.low.buffers == before


# the plan


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_K_M"])
def test_the_step_kernel_in_the_plan(quant):
    graph, persistent = (plan(BIG, quant, form=form).program("step_r1").kernels for form in ("graph", "persistent"))
    embed, kernel, *rest = persistent
    assert [k.entry for k in (embed, *rest)] == [k.entry for k in (graph[0], *graph[-len(rest) :])]
    assert (kernel.name, kernel.resident, kernel.overlap) == ("step", True, True)
    assert kernel.phases == 36 * 5 + 1
    assert kernel.grid == (132, 1, 1)
    assert kernel.block % 32 == 0
    assert kernel.weight_bytes == sum(k.weight_bytes for k in graph[1 : -len(rest)])
    assert sum(k.weight_bytes for k in persistent) == sum(k.weight_bytes for k in graph)
    assert kernel.flops == sum(k.flops for k in graph[1 : -len(rest)])
    # Sixteen of the step; of each layer two norms, two of the heads, and seven matrices.
    assert len(kernel.args) == 16 + 36 * 11
    planes = [binding.buffer for binding in kernel.args if binding.buffer.startswith("weights/")]
    of_graph = {binding.buffer for k in graph[1 : -len(rest)] for binding in k.args if "weights/" in binding.buffer}
    assert len(planes) == len(set(planes))
    assert set(planes) == of_graph
    assert {output.value for output in kernel.outputs} == {"logits"}
    assert len(kernel.ops) == sum(len(k.ops) for k in graph[1 : -len(rest)])


# the command line


def test_exec_of_another_form(tmp_path, capsys):
    out = str(tmp_path / "x.impc")
    assert execute(["compile", str(ROOT / "models" / "demo.gguf"), "-o", out, "--exec", "eager"]) == 2
    assert "--exec eager is unknown; known: auto, graph, persistent" in capsys.readouterr().err


def test_inspect_shows_the_form_and_why(tmp_path, capsys):
    tiny = in_one_kernel(make_plan())
    target = replace(tiny.targets[0], reason="predicted on a card: persistent 1 us, graph 2 us")
    path = write_tiny(tmp_path / "tiny.impc", replace(tiny, targets=(target,)))
    assert execute(["inspect", str(path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "decode on fake persistent (predicted on a card: persistent 1 us, graph 2 us)" in said
