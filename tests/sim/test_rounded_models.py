"""A folder of BF16 rounded to NVFP4 when it is compiled: as good as the weights that it then has, kernel by kernel."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import numpy as np

from e4m3 import e4m3
from edited_folder import hold, weights
from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.models import load_architecture, sources_of, weights_of
from imp_codegen.ops import Sample
from imp_codegen.reference import Reference, stored_weights
from imp_codegen.rounding import roundings
from imp_runtime.engine import Engine
from model_checks import FIXTURES, check_kernels, kl_divergence, quiet

QWEN3 = FIXTURES / "qwen3"
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E4M3 = np.array([e4m3(code) for code in range(128)])


def as_rounded(raw: bytes, rows: int, cols: int) -> np.ndarray:
    """What a matrix in BF16 is as NVFP4, float32[rows, cols], by the definitions of its codes."""
    exact = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(rows, cols)
    made = roundings()["nvfp4"].round(exact)
    pairs, scales, factors = np.split(made, [cols // 2, cols // 2 + cols // 16], axis=1)
    codes = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(rows, cols)
    values = E2M1[codes & 7] * np.where(codes & 8, -1, 1)
    wide = np.repeat(E4M3[scales], 16, axis=1) * np.ascontiguousarray(factors).view("<f4")
    return (values * wide).astype(np.float32)


def exact_logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """Of the weights as a folder has them, in numpy, nothing else rounded."""
    with closing(open_checkpoint(folder)) as checkpoint:
        model = load_architecture(checkpoint)
        spec = model.read_spec(checkpoint)
        graph = model.build(spec)
        stored = weights_of(checkpoint, graph, sources_of(model, checkpoint, spec, graph))
        values = Reference(stored_weights(stored), rounded=False).run(graph, tokens)
    sample = graph.ops[-1]
    assert isinstance(sample, Sample)
    return values[sample.logits.name]


def test_a_model_rounded_to_nvfp4(tmp_path: Path) -> None:
    truth = np.load(QWEN3 / "hf-bf16.npz")
    tokens = truth["prompt_ids"].astype(np.int64)
    shutil.copytree(QWEN3 / "hf", tmp_path / "f32")
    plain = weights(tmp_path / "f32")
    for name, (_, shape, raw) in plain.items():
        if len(shape) == 2:
            plain[name] = "F32", shape, as_rounded(raw, *shape).tobytes()
    expected = exact_logits(hold(tmp_path / "f32", plain), tokens)

    report = compile_model(
        QWEN3 / "hf", tmp_path / "m.impc", ("sim",), CompileOptions(weights="nvfp4", compare=True), quiet
    )
    with Engine.load(tmp_path / "m.impc", target="sim") as engine:
        found = engine.logits(tokens.tolist())
        check_kernels(engine)
    # The bar of the published NVFP4 folder of a model of this size: what activations' rounding costs.
    published = np.load(QWEN3 / "nvfp4-modelopt.npz")["peer_kl"].mean()
    assert kl_divergence(expected, found).mean() <= published
    # What the compile says of the text that imp carries is what it costs on another text: half to twice as much.
    assert report.rounding is not None
    assert report.rounding.divergence is not None
    cost = kl_divergence(truth["logits"], found).mean()
    assert 0.5 < report.rounding.divergence.kl / cost < 2
