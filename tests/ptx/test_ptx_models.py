"""Models by the PTX that nvcc makes for a GPU, run on the CPU: the same answers as the simulator's own build has.

What a compiler gets wrong is seen here, up to PTX: nvcc 13 loses divisions for sm_90a (layout/tile.h). The GPU's tests,
but for those of its driver, run in this way, too: pytest tests/gpu --ptx sm_120a:16
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from absent_gpu import absent_gpu
from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.targets import find_target
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from model_checks import ROOT, SHORT, check_demo, check_kernels, demo_on, heldout, kl_divergence, quiet
from ptx.code import by_ptx
from ptx.translate import UnknownPtxError, translate

# The card that is at no test's hand is always looked at.
TARGETS = (pytest.param("sm_90a", marks=pytest.mark.thorough), "sm_120a")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The demo model, its source compiled by g++."""
    with demo_on("sim", tmp_path_factory.mktemp("sim")) as engine:
        yield engine


@pytest.fixture(scope="module", params=TARGETS)
def translated(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """The demo model as it is for a GPU, by way of PTX."""
    target = request.param
    with absent_gpu(target, by_ptx), demo_on(target, tmp_path_factory.mktemp(target)) as engine:
        yield engine


def test_a_prompt(translated: Engine, simulated: Engine) -> None:
    """Behind the first tile of keys, too."""
    prompt = heldout(simulated)[:111]
    assert kl_divergence(simulated.logits(prompt), translated.logits(prompt)).mean() < 1e-5


@pytest.mark.thorough
def test_prompts_and_tokens(translated: Engine, simulated: Engine) -> None:
    check_demo(translated, simulated, heldout(simulated))


@pytest.mark.thorough
def test_kernels(translated: Engine) -> None:
    check_kernels(translated)


def test_sequences_together(translated: Engine, simulated: Engine) -> None:
    """Five sequences in a step: what is drawn depends on the seed, as on the simulator."""
    prompts = [heldout(simulated)[start : start + 20] for start in range(0, 500, 100)]
    params = [
        SamplingParams(max_tokens=12, ignore_eos=True, temperature=0.8, top_k=40, top_p=0.9, min_p=p, seed=seed)
        for seed, p in enumerate((0, 0, 0.05, 0.1, 0.2))
    ]
    assert _together(translated, prompts, params) == _together(simulated, prompts, params)


def _together(engine: Engine, prompts: list[list[int]], params: list[SamplingParams]) -> list[list[int]]:
    sequences = [engine.add(*each) for each in zip(prompts, params, strict=True)]
    tokens: list[list[int]] = [[] for _ in sequences]
    while engine.has_work:
        for output in engine.step():
            tokens[sequences.index(output.sequence)].append(output.token)
    return tokens


FP8 = {"num_hidden_layers": 1, "hidden_size": 1024, "intermediate_size": 512, "num_attention_heads": 4}


@pytest.mark.parametrize("target", ["sm_90a", pytest.param("sm_120a", marks=pytest.mark.thorough)])
def test_prompts_of_fp8(tmp_path: Path, target: str) -> None:
    """Warpgroups took the scales of other weights for a while."""
    config = json.loads((ROOT / "models" / "shapes" / "qwen3-8b.json").read_text("utf-8"))
    source, artifact = tmp_path / "config.json", tmp_path / "model.impc"
    source.write_text(json.dumps({**config, **FP8, "num_key_value_heads": 2, "vocab_size": 320}), "utf-8")
    options = CompileOptions(random_weights=True, quant="FP8", context=256, form="graph")
    with absent_gpu(replace(find_target(f"{target}:16"), chunks=(64,), batches=()), by_ptx):
        compile_model(source, artifact, (target,), options, quiet)
        with Engine.load(artifact) as engine:
            check_kernels(engine, SHORT)


@pytest.mark.parametrize(
    ("instruction", "unknown"),
    [
        ("wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f1}, {%r1}, %rd1, 1, -1, 1, 0;", "wgmma"),
        ("cp.async.cg.shared.global [%r1], [%rd1], 8;", "cp"),
        ("mbarrier.init.shared::cta.b64 [%r1], 2;", "mbarrier"),
    ],
)
def test_what_is_not_known_is_refused(instruction: str, unknown: str) -> None:
    ptx = f".visible .entry f(\n\t.param .u64 f_param_0\n)\n{{\n\t{instruction}\n\tret;\n}}\n"
    with pytest.raises(UnknownPtxError, match=unknown):
        translate(ptx)
