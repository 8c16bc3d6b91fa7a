"""The demo model on the GPU and on the simulator: one source, the same tokens."""

from pathlib import Path

import numpy as np

from imp_codegen.compiler import CompileOptions, compile_model
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from model_checks import check_kernels, quiet

DEMO = Path(__file__).parents[2] / "models" / "demo.gguf"
# Between the two targets logits differ by the order of sums and, through int8 roundings, by a few hundredths.
MARGIN = 0.1
TOKENS = 48


def test_greedy_tokens_equal_the_simulators(tmp_path, target):
    artifact = tmp_path / "demo.impc"
    compile_model(DEMO, artifact, (target, "sim"), CompileOptions(), quiet)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 2000, n).tolist() for n in (1, 7, 64, 129, 300)]
    greedy = SamplingParams(max_tokens=TOKENS, ignore_eos=True)
    compared = 0
    with Engine.load(artifact, target=target) as gpu, Engine.load(artifact, target="sim") as sim:
        for prompt in prompts:
            found, expected = list(gpu.generate(prompt, greedy)), list(sim.generate(prompt, greedy))
            logits = np.sort(sim.logits(prompt + expected[:-1])[-TOKENS:], axis=1)
            sure = logits[:, -1] - logits[:, -2] > MARGIN
            until = TOKENS if sure.all() else int(np.argmin(sure))
            assert found[:until] == expected[:until]
            compared += until
            np.testing.assert_allclose(gpu.logits(prompt), sim.logits(prompt), atol=MARGIN)
        check_kernels(gpu)
    assert compared > len(prompts) * 8, "margins so thin that hardly anything was compared"


def test_sampled_tokens_depend_on_the_seed_only(tmp_path, target):
    artifact = tmp_path / "demo.impc"
    compile_model(DEMO, artifact, (target,), CompileOptions(), quiet)
    params = [
        SamplingParams(max_tokens=40, ignore_eos=True, temperature=0.9, top_k=50, top_p=0.95, seed=s) for s in (1, 2)
    ]
    with Engine.load(artifact, target=target) as engine:
        alone = [list(engine.generate([5, 6, 7], p)) for p in params]
        assert alone == [list(engine.generate([5, 6, 7], p)) for p in params]
        assert alone[0] != alone[1]
        sequences = [engine.add([5, 6, 7], p) for p in params]
        together = [[], []]
        while engine.has_work:
            for output in engine.step():
                together[sequences.index(output.sequence)].append(output.token)
    assert together == alone
