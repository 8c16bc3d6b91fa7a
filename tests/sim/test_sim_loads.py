"""Simulator code that is loaded and closed, many times in one process, leaves nothing mapped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imp_codegen.build import Unit, build
from imp_runtime.device import DeviceError, Launch, Replay
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from imp_runtime.sim import SimDevice
from model_checks import compile_fixture

SOURCE = Path(__file__).parent / "kernels" / "isa.cu"
THREADS = 512
MANY = 70  # of which the 64th found no memory for another stack, when none gave its stacks back


def maps() -> tuple[int, int]:
    """Lines in the process's maps, and open files."""
    return len(Path("/proc/self/maps").read_text("utf-8").splitlines()), len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(scope="module", params=["plain", "check"])
def code(request: pytest.FixtureRequest) -> bytes:
    (built,) = build((Unit("sim", "g++", SOURCE.read_text("utf-8"), request.param),))
    return built.code


def reduced(code: bytes, device: SimDevice) -> Replay:
    """A launch of a block of 512 threads, which all need a stack at once; done once, its result checked."""
    x = np.arange(THREADS, dtype=np.float32)
    addresses = (device.alloc(x.nbytes, "x"), device.alloc(4, "out"))
    for address, nbytes in zip(addresses, (x.nbytes, 4), strict=True):
        device.declare(address, nbytes, "argument")
    device.upload(addresses[0], x)
    kernel = device.load_code(code).kernel("block_reduce", 64)
    replay = device.capture([Launch("block_reduce", kernel, (1, 1, 1), THREADS, 64, addresses)])
    replay.launch()
    assert device.download(addresses[1], 4).view(np.float32)[0] == x.sum()
    return replay


def closed(code: bytes) -> None:
    device = SimDevice()
    reduced(code, device)
    device.close()


def forgotten(code: bytes) -> None:
    reduced(code, SimDevice())


@pytest.mark.parametrize("use", [closed, forgotten])
def test_many_loads_leave_nothing(code: bytes, use: Callable[[bytes], None]) -> None:
    use(code)
    mapped, files = maps()
    for _ in range(MANY):
        use(code)
    after, files_after = maps()
    assert files_after == files
    assert after < mapped + 50  # one load maps more than a thousand


def test_code_that_is_unloaded_is_not_run(code: bytes) -> None:
    device = SimDevice()
    replay = reduced(code, device)
    device.close()
    device.close()
    with pytest.raises(DeviceError, match="block_reduce was launched after its code had been unloaded"):
        replay.launch()


def test_two_devices_at_once(code: bytes) -> None:
    """The library of each has its own engine, and closing one leaves the other's alone."""
    first, second = SimDevice(), SimDevice()
    replays = [reduced(code, device) for device in (first, second)]
    first.close()
    replays[1].launch()
    second.close()


def test_many_engines_leave_nothing(tmp_path: Path) -> None:
    artifact = compile_fixture(tmp_path, "llama", "Q8_0", "sim")

    def use() -> list[int]:
        with Engine.load(artifact, target="sim") as engine:
            return list(engine.generate([1, 2, 3], SamplingParams(max_tokens=2, ignore_eos=True)))

    first = use()
    mapped, files = maps()
    for _ in range(5):
        assert use() == first
    after, files_after = maps()
    assert (files_after, after < mapped + 50) == (files, True)
