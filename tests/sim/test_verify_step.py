"""`imp verify` of a model that decodes in one kernel: a code rounded the other way passes, a fault does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest

from imp_codegen import emit
from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.verify import NOISE, VerifyRow, verify
from imp_runtime.engine import Engine
from model_checks import quiet
from two_forms import CONFIG

# Found among sixteen shapes: one code of the step differs from the reference's.
SHAPE = {"architectures": ["LlamaForCausalLM"], "hidden_size": 512, "intermediate_size": 1536}
COUNT = "const int count = left < C.block_tokens ? left : C.block_tokens;"


def logits_of(folder: Path, fault: tuple[str, str] | None = None) -> tuple[VerifyRow, VerifyRow | None]:
    """The row of the step kernel, and the first failure. `fault`: a text of attention_core.h, and what replaces it."""
    templates, artifact = folder / "templates", folder / "model.impc"
    shutil.copytree(emit.templates(), templates)
    if fault is not None:
        header = templates / "include" / "imp" / "stage" / "attention_core.h"
        text = header.read_text("utf-8")
        assert text.count(fault[0]) == 1
        header.write_text(text.replace(*fault), "utf-8")
    (folder / "config.json").write_text(json.dumps({**CONFIG, **SHAPE}), "utf-8")
    options = CompileOptions(random_weights=True, form="persistent")
    with patch.object(emit, "templates", lambda: templates):
        compile_model(folder / "config.json", artifact, ("sim",), options, quiet)
        with Engine.load(artifact, target="sim") as engine:
            report = verify(engine.artifact, engine.runner, quiet)
    (row,) = (row for row in report.rows if row.kernel == "step")
    return row, report.first_failure


def test_a_code_rounded_the_other_way_is_no_fault(tmp_path: Path) -> None:
    row, failure = logits_of(tmp_path)
    assert row.allowed > 10 * NOISE * row.scale  # what a code that rounds the other way does in the reference
    assert failure is None


@pytest.mark.parametrize("wrong", [COUNT.replace("? left :", "? left - 1 :"), COUNT.replace("left :", "1 :")])
def test_positions_that_attention_leaves_out_are_seen(tmp_path: Path, wrong: str) -> None:
    row, failure = logits_of(tmp_path, (COUNT, wrong))
    assert failure == row
