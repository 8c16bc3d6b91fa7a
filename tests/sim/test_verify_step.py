"""`imp verify` of a model that decodes in one kernel: it compares every phase, and finds a fault where it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from imp_codegen import compiler, device_code
from imp_codegen.comparison import NOISE
from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.verify import VerifyReport, verify
from imp_runtime.engine import Engine
from model_checks import FIXTURES, SHORT, quiet
from two_forms import CONFIG

# Found among sixteen shapes: one code of the step differs from the reference's.
SHAPE = {"architectures": ["LlamaForCausalLM"], "hidden_size": 512, "intermediate_size": 1536}
COUNT = "const int count = left < C.block_tokens ? left : C.block_tokens;"
FACTOR = "Encode::dense(scratch), scale};"
GEMMA = {
    "architectures": ["Gemma3ForCausalLM"],
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 64,
    "rope_local_base_freq": 10000.0,
    "sliding_window": 8,
    "sliding_window_pattern": 2,
}
PHASES = ("q", "k", "v", "attention", "attention.cache", "attn_residual", "gated", "residual")


def checked(folder: Path, model: Path | dict[str, Any], fault: tuple[str, str, str] | None = None) -> VerifyReport:
    """The report of a checkpoint, or of a shape; `fault`: a header, a text in it, and what replaces it.

    The phases are kept as in a check build, but nobody watches the threads, which takes its time.
    """
    templates, artifact = folder / "templates", folder / "model.impc"
    shutil.copytree(device_code.templates(), templates)
    if fault is not None:
        header = templates / "include" / "imp" / "stage" / fault[0]
        text = header.read_text("utf-8")
        assert text.count(fault[1]) == 1
        header.write_text(text.replace(*fault[1:]), "utf-8")
    config = folder / "config.json"
    if isinstance(model, dict):
        config.write_text(json.dumps({**CONFIG, **model}), "utf-8")
    source = config if isinstance(model, dict) else model
    options = CompileOptions(random_weights=source is config, form="persistent")
    kept = patch.object(compiler, "Lowering", lambda *args, **named: Lowering(*args, **{**named, "check": True}))
    with patch.object(device_code, "templates", lambda: templates):
        with kept:
            compile_model(source, artifact, ("sim",), options, quiet)
        with Engine.load(artifact, target="sim") as engine:
            return verify(engine.artifact, engine.runner, quiet, SHORT)


def test_every_phase_is_compared_and_a_code_rounded_the_other_way_is_no_fault(tmp_path: Path) -> None:
    report = checked(tmp_path, SHAPE)
    assert report.first_failure is None
    step = {row.op: row for row in report.rows if row.kernel == "step"}
    assert list(step) == [f"layers.{layer}.{phase}" for layer in (0, 1) for phase in PHASES] + ["logits"]
    assert max(row.allowed / row.scale for row in step.values()) > 10 * NOISE  # where a code may round the other way


def test_branches_with_norms(tmp_path: Path) -> None:
    report = checked(tmp_path, GEMMA)
    assert report.first_failure is None
    each = ("q", "k", "v", "attention", "attention.cache", "attn_output", "attn_residual", "gated", "down", "residual")
    compared = [f"layers.{layer}.{phase}" for layer in (0, 1) for phase in each]
    compared[-1] = "logits"  # the head keeps no sum
    assert [row.op for row in report.rows if row.kernel == "step"] == compared


def test_layers_of_several_kinds(tmp_path: Path) -> None:
    """Who reads another's cache appends nothing; an input of the token's own is one more branch."""
    report = checked(tmp_path, FIXTURES / "gemma4_e2b" / "hf")
    assert report.first_failure is None
    compared = {row.op for row in report.rows if row.kernel == "step"}
    each = (*PHASES, "attn_output", "down", "ffn_residual", "inp_gated", "inp_proj", "scaled")
    own, shared = set(each) - {"residual"}, set(each) - {"residual", "k", "v", "attention.cache"}
    assert compared >= {f"layers.1.{phase}" for phase in own}
    assert {name for name in compared if name.startswith("layers.3.")} == {f"layers.3.{phase}" for phase in shared}


@pytest.mark.thorough
@pytest.mark.parametrize("wrong", [COUNT.replace("? left :", "? left - 1 :"), COUNT.replace("left :", "1 :")])
def test_positions_that_attention_leaves_out_are_seen(tmp_path: Path, wrong: str) -> None:
    failure = checked(tmp_path, SHAPE, ("attention_core.h", COUNT, wrong)).first_failure
    assert failure is not None
    assert (failure.kernel, failure.op) == ("step", "layers.0.attention")


@pytest.mark.thorough
@pytest.mark.parametrize(("phase", "layer", "op"), [(4, 1, "layers.1.residual"), (0, 1, "layers.1.q")])
def test_a_wrong_factor_is_named_where_it_is(tmp_path: Path, phase: int, layer: int, op: str) -> None:
    wrong = FACTOR.replace("scale}", f"I == {phase} && l == {layer} ? 1.01f * scale : scale}}")
    failure = checked(tmp_path, SHAPE, ("step.h", FACTOR, wrong)).first_failure
    assert failure is not None
    assert (failure.kernel, failure.op) == ("step", op)
