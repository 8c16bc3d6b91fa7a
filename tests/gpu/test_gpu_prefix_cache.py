"""The prefix cache on the GPU: what comes from it is what would have been computed, bit for bit."""

from pathlib import Path

from imp_codegen.compiler import CompileOptions, compile_model
from imp_runtime.engine import Engine
from model_checks import quiet
from prefix_checks import check, prompt_of, run

ROOT = Path(__file__).parents[2]


def test_hits_change_no_bit(tmp_path, target):
    artifact = tmp_path / "demo.impc"
    compile_model(ROOT / "models" / "demo.gguf", artifact, (target,), CompileOptions(), quiet)
    with (
        Engine.load(artifact, target=target, deterministic=True) as engine,
        Engine.load(artifact, target=target, prefix_cache=False, deterministic=True) as plain,
    ):
        for found in run(engine, prompt_of(300)):
            check(found, plain, 0)
        for found in run(engine, prompt_of(300)):
            check(found, plain, 288)
        for same in (16, 50, 130, 200):
            for found in run(engine, prompt_of(300)[:same] + prompt_of(250, same)):
                check(found, plain, same // 16 * 16)
        for found in run(engine, [*prompt_of(300), 1], [*prompt_of(300), 2], [*prompt_of(170), 3]):
            check(found, plain, (len(found[0].prompt) - 1) // 16 * 16)
