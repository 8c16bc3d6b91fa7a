"""What few files say, and all of it at once: the kernels against a float64 pass over the same file."""

from pathlib import Path

import numpy as np

from dense_truth import Truth
from imp_codegen.compiler import CompileOptions, compile_model
from imp_runtime.engine import Engine
from model_checks import check_kernels, quiet
from small_gguf import HEAD_DIM, HIDDEN, KV_HEADS, write_gguf


def test_biases_of_some_layers_and_scales(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)

    def bias(size: int) -> np.ndarray:
        return rng.standard_normal(size).astype(np.float32)

    source = write_gguf(
        tmp_path / "m.gguf",
        "llama",
        {"attention.scale": 0.1, "rope.scaling.factor": 3.0, "attention.layer_norm_rms_epsilon": 0.1},
        {
            "blk.1.attn_q.bias": bias(HIDDEN),
            "blk.1.attn_k.bias": bias(KV_HEADS * HEAD_DIM),
            "blk.1.attn_v.bias": bias(KV_HEADS * HEAD_DIM),
            "blk.0.attn_output.bias": bias(HIDDEN),
            "rope_freqs.weight": np.linspace(1, 4, HEAD_DIM // 2).astype(np.float32),
        },
    )
    tokens = [5, 17, 200, 3, 17, 90, 41, 5, 8, 255]
    truth = Truth(source).logits(tokens)
    compile_model(source, tmp_path / "m.impc", ("sim",), CompileOptions(), quiet)
    with Engine.load(tmp_path / "m.impc", target="sim") as engine:
        found = engine.logits(tokens)
        check_kernels(engine)
    assert np.abs(found - truth).max() < 2e-3 * np.abs(truth).max()
