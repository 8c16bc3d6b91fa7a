"""Models in float formats, with and without biases, against a float64 pass over the same file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dense_truth import Truth
from imp_codegen.compiler import CompileOptions, compile_model
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from model_checks import check_kernels, kl_divergence, quiet
from small_gguf import HEAD_DIM, HIDDEN, KV_HEADS, LAYERS, write_gguf

FLOATS = ("BF16", "F16", "F32")
TOKENS = [5, 17, 200, 3, 17, 90, 41, 5, 8, 255]


def biases() -> dict[str, np.ndarray]:
    """In every layer, on queries, keys, values and the projection behind them."""
    rng = np.random.default_rng(5)
    sizes = {"attn_q": HIDDEN, "attn_k": KV_HEADS * HEAD_DIM, "attn_v": KV_HEADS * HEAD_DIM, "attn_output": HIDDEN}
    return {
        f"blk.{layer}.{name}.bias": rng.standard_normal(size).astype(np.float32)
        for layer in range(LAYERS)
        for name, size in sizes.items()
    }


@pytest.mark.parametrize(
    ("arch", "quant"), [*(("llama", quant) for quant in FLOATS if quant != "F16"), ("qwen3", "F16"), ("qwen3", "BF16")]
)
def test_float_model(tmp_path: Path, arch: str, quant: str) -> None:
    source = write_gguf(tmp_path / "m.gguf", arch, tensors=biases() if arch == "llama" else {}, quant=quant)
    truth = Truth(source)
    compile_model(source, tmp_path / "m.impc", ("sim",), CompileOptions(), quiet)
    with Engine.load(tmp_path / "m.impc", target="sim") as engine:
        assert set(engine.plan.quant.split("+")) == {quant}
        found = engine.logits(TOKENS)
        said = list(engine.generate(TOKENS, SamplingParams(max_tokens=8, ignore_eos=True)))
        check_kernels(engine)
    expected = truth.logits(TOKENS)
    # Weights keep every bit; what is left is a cache in float16 and a chunk of pairs of bfloat16.
    assert kl_divergence(expected, found).max() < 1e-5
    # As the truth continues, token by token: each comes out of a decode step.
    for count, token in enumerate(said):
        assert truth.logits([*TOKENS, *said[:count]])[-1].argmax() == token
