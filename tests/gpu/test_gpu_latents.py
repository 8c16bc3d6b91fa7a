"""Latent attention on the GPU: every kernel against numpy, and steps behind long prompts against prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imp_codegen.compiler import CompileOptions, compile_model
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from latent_models import LITE, V3
from model_checks import NARROW, check_kernels, quiet
from two_forms import CONFIG


def compiled(folder: Path, config: dict[str, Any], quant: str, target: str) -> Path:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}), "utf-8")
    options = CompileOptions(random_weights=True, quant=quant)
    compile_model(folder / "config.json", folder / "model.impc", (target,), options, quiet)
    return folder / "model.impc"


@pytest.mark.parametrize("quant", ["BF16", "Q4_K_M"])
@pytest.mark.parametrize("config", [LITE, V3], ids=["heads_of_576", "heads_of_112"])
def test_kernels_agree_with_numpy(tmp_path: Path, target: str, config: dict[str, Any], quant: str) -> None:
    with Engine.load(compiled(tmp_path, config, quant, target), target=target) as engine:
        check_kernels(engine)


# Few splits, as many as there are multiprocessors, and several blocks of each.
@pytest.mark.parametrize("length", [17, 1000, 5000])
def test_steps_choose_what_prompts_do(tmp_path: Path, target: str, length: int) -> None:
    """Where their best logits are not nearly alike; and a prompt's rows have the same bits in chunks of other sizes."""
    config = LITE | {"max_position_embeddings": 6000}
    with Engine.load(compiled(tmp_path, config, "BF16", target), target=target) as engine:
        tokens = [int(token) for token in np.random.default_rng(length).integers(0, 300, length)]
        answer = list(engine.generate(tokens, SamplingParams(max_tokens=20, ignore_eos=True)))
        logits = engine.logits(tokens + answer)
        for at, token in enumerate(answer, length - 1):
            assert logits[at].max() - logits[at, token] < NARROW
        np.testing.assert_array_equal(engine.logits(tokens[: length - 5]), logits[: length - 5])
