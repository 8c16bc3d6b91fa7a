"""A folder of FP8 weights on the simulator beside one of the same weights in F32, and each kernel beside numpy."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edited_folder import hold, say, weights
from fp8_folder import BLOCKS, COMPRESSED, LLAMA, narrowed, quantised
from imp_codegen.compiler import CompileOptions, compile_model
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from model_checks import check_kernels, kl_divergence, quiet

TOKENS = [5, 17, 200, 3, 17, 90, 41, 5, 8, 255]


@pytest.mark.parametrize(("kind", "config", "form"), [("blocks", BLOCKS, "graph"), ("rows", COMPRESSED, "persistent")])
def test_fp8_model(kind: str, config: dict[str, object], form: str, tmp_path: Path) -> None:
    for name in ("fp8", "f32"):
        shutil.copytree(LLAMA, tmp_path / name)
        narrowed(tmp_path / name, 224)  # so that blocks of 128 x 128 are cut by the edges
    folder, meant = quantised(say(tmp_path / "fp8", quantization_config=config), kind, ("_proj",))
    plain = weights(tmp_path / "f32")
    hold(tmp_path / "f32", plain | {name: ("F32", list(x.shape), x.tobytes()) for name, x in meant.items()})
    logits = []
    for path in (folder, tmp_path / "f32"):
        artifact = path.with_suffix(".impc")
        compile_model(path, artifact, ("sim",), CompileOptions(form=form), quiet)  # type: ignore[arg-type]
        with Engine.load(artifact, target="sim") as engine:
            logits.append(engine.logits(TOKENS))
            said = list(engine.generate(TOKENS, SamplingParams(max_tokens=4, ignore_eos=True)))
            logits.append(engine.logits([*TOKENS, *said])[len(TOKENS) - 1 :])
            check_kernels(engine)
    assert not np.allclose(logits[0][0], logits[0][-1])
    # Prompts round weights and sums of 64 products to halfs; F32's are multiplied in three terms.
    assert kl_divergence(logits[2], logits[0]).max() < 1e-4
