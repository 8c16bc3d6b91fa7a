"""The float64 pass that tests call the truth agrees with Hugging Face's float32 logits of the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converted import convert
from dense_truth import Truth
from model_checks import FIXTURES, MODELS, kl_divergence, source_of

OF_TRUTH = ("llama", "mistral", "phi3", "qwen2", "qwen3")  # what dense_truth.py knows
# The converter takes no folders in NVFP4.
DENSE = [(name, quant) for name, quant in MODELS if name in OF_TRUTH and not quant.startswith("nvfp4")]


@pytest.mark.parametrize(("architecture", "quant"), DENSE)
def test_logits(architecture: str, quant: str, tmp_path: Path) -> None:
    theirs = np.load(FIXTURES / architecture / f"{quant}.npz")
    path = source_of(architecture, quant)
    if path.is_dir():
        path = convert(path, next(path.parent.glob("*.gguf")), tmp_path / "converted.gguf")
    ours = Truth(path).logits(theirs["prompt_ids"].tolist())
    assert kl_divergence(theirs["logits"], ours).max() < 1e-8
    np.testing.assert_allclose(ours, theirs["logits"], atol=1e-4)
