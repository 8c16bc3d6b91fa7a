"""The float64 pass that tests call the truth agrees with Hugging Face's float32 logits of the same weights."""

from __future__ import annotations

import numpy as np
import pytest

from dense_truth import Truth
from model_checks import FIXTURES, MODELS, kl_divergence


@pytest.mark.parametrize(("architecture", "quant"), MODELS)
def test_logits(architecture: str, quant: str) -> None:
    theirs = np.load(FIXTURES / architecture / f"{quant}.npz")
    ours = Truth(FIXTURES / architecture / f"{architecture}-{quant}.gguf").logits(theirs["prompt_ids"].tolist())
    assert kl_divergence(theirs["logits"], ours).max() < 1e-8
    np.testing.assert_allclose(ours, theirs["logits"], atol=1e-4)
