"""Whoever closes an engine gives the device back, and may load another in the same thread: as `--idle-unload` does."""

from __future__ import annotations

from pathlib import Path

from cuda.bindings import driver

from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from model_checks import compile_fixture

PROMPT = [1, 2, 3, 4, 5]


def answer(path: Path) -> tuple[list[int], int]:
    """Tokens, and the memory that was free while the engine was there."""
    with Engine.load(path, kv_tokens=4096) as engine:
        tokens = list(engine.generate(PROMPT, SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True)))
        return tokens, engine._device.memory_free()


def test_an_engine_after_another(tmp_path: Path, target: str) -> None:
    path = compile_fixture(tmp_path, "qwen3", "Q8_0", target)
    first, free = answer(path)
    for _ in range(3):
        again, left = answer(path)
        assert again == first
        assert abs(left - free) < 64 << 20
    error, _, active = driver.cuDevicePrimaryCtxGetState(driver.CUdevice(0))
    assert (error, active) == (driver.CUresult.CUDA_SUCCESS, 0)  # nothing is left on the device
