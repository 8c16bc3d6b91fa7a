"""gpt-oss in odd sizes: every kernel against its twin, in check mode, and faults of what is its own found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from imp_codegen import compiler, device_code
from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.verify import VerifyReport, verify
from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine
from imp_runtime.sim import SimDevice
from model_checks import SHORT, quiet

CONFIG: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "hidden_size": 160,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 21,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_local_experts": 7,
    "num_experts_per_tok": 3,
    "vocab_size": 301,
    "max_position_embeddings": 400,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 5000.0,
        "factor": 8.0,
        "original_max_position_embeddings": 50,
        "truncate": False,
    },
}


def with_large_numbers(source: Path, quant: str) -> Any:
    """Sinks above and below the scores, and biases with which gates reach the clamp."""
    checkpoint, rng = random_checkpoint(source, quant), np.random.default_rng(5)
    for layer in range(2):
        checkpoint.fixed[f"blk.{layer}.attn_sinks.weight"] = np.array([0, 3, -50, 1, 15, -1], "<f4")
        for part in ("gate", "up"):
            biases = rng.standard_normal(7 * 96) * 5
            checkpoint.fixed[f"blk.{layer}.ffn_{part}_exps.bias"] = biases.astype("<f4")
    return checkpoint


def verified(folder: Path, *, check: bool = False, fault: tuple[str, str, str] | None = None) -> VerifyReport:
    """`fault`: a header, a text in it, and what replaces it."""
    templates = folder / "templates"
    shutil.copytree(device_code.templates(), templates)
    if fault:
        header = templates / "include" / "imp" / "stage" / fault[0]
        text = header.read_text("utf-8")
        assert text.count(fault[1]) == 1
        header.write_text(text.replace(*fault[1:]), "utf-8")
    (folder / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    options = CompileOptions(random_weights=True, quant="MXFP4_MOE", check=check)
    with (
        patch.object(device_code, "templates", lambda: templates),
        patch.object(compiler, "random_checkpoint", with_large_numbers),
    ):
        compile_model(folder / "config.json", folder / "model.impc", ("sim",), options, quiet)
    device = SimDevice(threads=1, order=2, seed=3) if check else SimDevice()
    with Engine(Artifact.open(folder / "model.impc"), device) as engine:
        return verify(engine.artifact, engine.runner, quiet, SHORT)


@pytest.mark.thorough
def test_every_kernel_is_its_twin_and_without_a_race(tmp_path: Path) -> None:
    report = verified(tmp_path, check=True)
    assert len(report.rows) > 10
    assert report.first_failure is None


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("fault", "op"),
    [
        (("attention_tile.h", "return fma(keys, rest, own);", "return keys * rest;"), "layers.0.attention"),
        (("elementwise.h", "gate = gate > 7.0f ? 7.0f : gate;", ""), "layers.0.gated"),
        (("elementwise.h", "* (up + 1.0f)", "* up"), "layers.0.gated"),
    ],
)
def test_a_fault_is_found_where_it_is(tmp_path: Path, fault: tuple[str, str, str], op: str) -> None:
    failure = verified(tmp_path, fault=fault).first_failure
    assert failure is not None
    assert failure.op == op
