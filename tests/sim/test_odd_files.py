"""What few files say, and all of it at once: the kernels against a float64 pass over the same file."""

from pathlib import Path

import numpy as np
import pytest

from dense_truth import Truth
from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.formats import format_named
from imp_runtime.engine import Engine
from imp_runtime.errors import ImpError
from model_checks import check_kernels, quiet
from random_rows import random_rows
from small_gguf import HEAD_DIM, HIDDEN, KV_HEADS, tensors_of, write_gguf


def test_factors_of_nvfp4(tmp_path: Path) -> None:
    """A factor a matrix, as llama.cpp's converter writes them; what is for activations of four bits changes nothing."""
    rng = np.random.default_rng(6)
    matrices = [name for name, tensor in tensors_of("qwen3").items() if tensor.ndim == 2]
    shapes = {name: tensors_of("qwen3")[name].shape for name in matrices}
    codes = {name: random_rows(format_named("NVFP4"), *shape, rng) for name, shape in shapes.items()}
    factors = {name.replace("weight", "scale"): rng.uniform(0.2, 0.6, 1).astype(np.float32) for name in matrices[1:]}
    inputs = {name.replace("weight", "input_scale"): np.ones(1, np.float32) for name in matrices[2:]}
    source = write_gguf(tmp_path / "m.gguf", "qwen3", tensors=codes | factors | inputs, quant="NVFP4")
    tokens = [5, 17, 200, 3, 17, 90, 41, 5, 8, 255]
    truth = Truth(source).logits(tokens)
    compile_model(source, tmp_path / "m.impc", ("sim",), CompileOptions(), quiet)
    with Engine.load(tmp_path / "m.impc", target="sim") as engine:
        assert set(engine.plan.quant.split("+")) == {"NVFP4", "NVFP4_SCALED"}
        found = engine.logits(tokens)
        check_kernels(engine)
    assert np.abs(found - truth).max() < 4e-3 * np.abs(truth).max()  # scores are large: queries are halfs
    stray = {"blk.0.attn_norm.input_scale": np.ones(1, np.float32)}
    with pytest.raises(ImpError, match=r"tensor 'blk\.0\.attn_norm\.input_scale' is none that imp knows"):
        compile_model(
            write_gguf(tmp_path / "s.gguf", tensors=stray), tmp_path / "s.impc", ("sim",), CompileOptions(), quiet
        )


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
