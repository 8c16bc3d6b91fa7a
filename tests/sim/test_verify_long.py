"""`imp verify` of long prompts: a part in every program of prompts, and positions behind the first tiles of keys."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from test_verify import Faulty, Rows

from imp_codegen import compiler, device_code
from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.targets import find_target
from imp_codegen.verify import verify
from imp_runtime.engine import Engine
from imp_runtime.errors import ImpError
from model_checks import quiet
from two_forms import CONFIG

CHUNKS = (64, 192)
LENGTH = 21 + 57 + 177 + 1  # positions of a part in each, and of a step
WINDOW = 24
SHAPE = {
    **CONFIG,
    "architectures": ["Gemma3ForCausalLM"],
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 64,
    "rope_local_base_freq": 10000.0,
    "sliding_window": WINDOW,
    "sliding_window_pattern": 2,
    "max_position_embeddings": 800,
}
SCORED = "Products::scored(scores.values);"
KEYS = SCORED + " if (tile > {}) for (auto& row : scores.values) for (float& score : row) score *= 1.02f;"
ROW = "static_cast<std::size_t>(min(row[half], last))"
FAULTS = {
    "keys behind 64": ("attention_prefill.h", SCORED, KEYS.format(0), "forward_r64"),  # whose part ends at 78
    "keys behind 128": ("attention_prefill.h", SCORED, KEYS.format(1), "forward_r192"),
    "rows behind 128": ("attention_queries.h", ROW, ROW.replace("last)", "last) - (row[half] >= 128)"), "forward_r192"),
}


def compiled(folder: Path) -> Engine:
    """A model whose first layer has a window; the second sees all."""
    (folder / "config.json").write_text(json.dumps(SHAPE), "utf-8")
    target = replace(find_target("sim"), chunks=CHUNKS)
    options = CompileOptions(random_weights=True, form="graph")
    with patch.object(compiler, "find_targets", lambda _: (target,)):
        compile_model(folder / "config.json", folder / "model.impc", ("sim",), options, quiet)
    return Engine.load(folder / "model.impc", target="sim")


def behind_128(rows: Rows) -> None:
    rows[128:] *= 1.02


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with compiled(tmp_path_factory.mktemp("long")) as engine:
        yield engine


def test_every_program_of_prompts_has_a_part(engine: Engine) -> None:
    report = verify(engine.artifact, engine.runner, quiet)
    assert report.first_failure is None
    assert report.positions == LENGTH
    run = {"forward_r64", "logits_r64", "forward_r192", "step_r1"}
    assert {row.program for row in report.rows} == run
    assert {*report.not_compared} == {program.name for program in engine.runner.programs} - run
    assert report.not_reached == ()


def test_rows_behind_a_programs_first_tiles_are_compared(engine: Engine) -> None:
    faulty = Faulty(engine.runner, "forward_r192", "layers.1.gate", behind_128)
    failure = verify(engine.artifact, faulty, quiet).first_failure
    assert failure is not None
    assert (failure.program, failure.op) == ("forward_r192", "layers.1.gate")


def test_what_a_short_sequence_leaves_out_is_named(engine: Engine) -> None:
    report = verify(engine.artifact, engine.runner, quiet, 22)
    assert report.first_failure is None
    assert report.positions == 22
    assert "forward_r192" in report.not_compared
    assert report.not_reached == (WINDOW,)


def test_programs_share_what_the_context_has(engine: Engine) -> None:
    """Each runs 21 rows at least, where there are so many."""
    report = verify(engine.artifact, engine.runner, quiet, 21 + 25 + 21 + 1)
    assert report.first_failure is None
    assert {"forward_r64", "forward_r192"} <= {row.program for row in report.rows}


def test_a_sequence_longer_than_the_context_is_refused(engine: Engine) -> None:
    with pytest.raises(ImpError, match="a sequence of 801 tokens is more than the 800 it has room for"):
        verify(engine.artifact, engine.runner, quiet, 801)


@pytest.mark.thorough
def test_the_largest_program_goes_on_to_the_asked_length(engine: Engine) -> None:
    """Windows' blocks are taken again and again."""
    report = verify(engine.artifact, engine.runner, quiet, 650)
    assert report.first_failure is None
    assert report.positions == 650
    assert sum((row.program, row.op) == ("forward_r192", "layers.1.attention") for row in report.rows) == 4


@pytest.mark.thorough
@pytest.mark.parametrize("fault", FAULTS)
def test_attention_that_is_wrong_behind_its_first_tiles(tmp_path: Path, fault: str) -> None:
    templates = tmp_path / "templates"
    shutil.copytree(device_code.templates(), templates)
    name, right, wrong, program = FAULTS[fault]
    header = templates / "include" / "imp" / "stage" / name
    text = header.read_text("utf-8")
    assert text.count(right) == 1
    header.write_text(text.replace(right, wrong), "utf-8")
    with patch.object(device_code, "templates", lambda: templates), compiled(tmp_path) as engine:
        failure = verify(engine.artifact, engine.runner, quiet).first_failure
    assert failure is not None
    assert (failure.program, failure.op) == (program, "layers.0.attention")
