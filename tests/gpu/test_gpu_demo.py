"""The demo model on the GPU and on the simulator: one source, the same tokens."""

from imp_codegen.compiler import CompileOptions, compile_model
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from model_checks import DEMO, check_demo, check_kernels, heldout, quiet


def test_greedy_tokens_equal_the_simulators(tmp_path, target):
    artifact = tmp_path / "demo.impc"
    compile_model(DEMO, artifact, (target, "sim"), CompileOptions(), quiet)
    with Engine.load(artifact, target=target) as gpu, Engine.load(artifact, target="sim") as sim:
        check_demo(gpu, sim, heldout(sim))
        check_kernels(gpu)


def test_sampled_tokens_depend_on_the_seed_only(tmp_path, target):
    artifact = tmp_path / "demo.impc"
    compile_model(DEMO, artifact, (target,), CompileOptions(), quiet)
    params = [
        SamplingParams(max_tokens=40, ignore_eos=True, temperature=0.9, top_k=50, top_p=0.95, seed=seed)
        for seed in (1, 2)
    ]
    with Engine.load(artifact, target=target) as engine:
        alone = [list(engine.generate([5, 6, 7], p)) for p in params]
        assert alone == [list(engine.generate([5, 6, 7], p)) for p in params]
        assert alone[0] != alone[1]
        sequences = [engine.add([5, 6, 7], p) for p in params]
        together: list[list[int]] = [[], []]
        while engine.has_work:
            for output in engine.step():
                together[sequences.index(output.sequence)].append(output.token)
    assert together == alone
