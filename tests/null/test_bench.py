"""`imp bench`: known clocks give known numbers, and measuring leaves no trace."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_device import FakeDevice
from tiny_artifact import make_plan, with_kernel, write_tiny

from fake_engine import FakeEngine, write_tiny_artifact
from imp_runtime import bandwidth
from imp_runtime.artifact import Artifact
from imp_runtime.bandwidth import read_bandwidth
from imp_runtime.device import Launch
from imp_runtime.engine import Engine, StepOutput
from imp_runtime.plan import CacheRead
from imp_runtime.sampling import SamplingParams
from imp_server.cli import execute
from imp_server.commands import bench_batch, bench_speed
from imp_server.commands.bench_kernels import launch_bytes, measure_kernels
from imp_server.commands.bench_speed import Result, device_busy, with_bandwidth


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "tiny.impc"
    write_tiny_artifact(path)
    return path


@pytest.fixture
def engine(file: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """An engine without a device: what needs one is not measured."""
    engine = FakeEngine(Artifact.open(file), lambda prompt: [1] * 1000)
    monkeypatch.setattr(Engine, "load", lambda *_, **__: engine)
    monkeypatch.setattr(bench_speed, "read_bandwidth", lambda runner: None)
    monkeypatch.setattr(bench_speed, "device_busy", lambda *_: 0.75)
    return engine


def one_line(captured: str) -> str:
    assert captured.startswith("imp: error: ")
    assert captured.count("\n") == 1
    return captured


def test_rates_are_those_of_the_clock(
    file: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a clock that advances 10 ms a step, 4 ms of them on the CPU."""
    now = 0.0
    step = engine.step

    def slow_step() -> list[StepOutput]:
        nonlocal now
        now += 0.010
        return step()

    monkeypatch.setattr(engine, "step", slow_step)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(time, "process_time", lambda: 5 + 0.4 * now)
    engine.cached_tokens = 4
    assert execute(["bench", str(file), "-p", "32", "-n", "8", "-r", "3", "-d", "4", "-o", "json"]) == 0
    prompt, generation = json.loads(capsys.readouterr().out)
    assert (prompt["test"], generation["test"]) == ("pp32 @ d4", "tg8 @ d4")
    assert prompt["mean"] == pytest.approx(3200)
    assert prompt["host_cores"] is None
    assert generation["mean"] == pytest.approx(100)
    assert generation["deviation"] == pytest.approx(0, abs=1e-6)
    assert (generation["size"], generation["parameters"]) == (256, engine.plan.parameters)
    assert generation["weight_bytes_per_step"] == 2000
    # Of 5 to 12 positions one kernel reads all, the other the last six at most.
    cache = 256 * 8.5 + 256 * (5 + 7 * 6) / 8
    assert generation["kv_bytes_per_step"] == pytest.approx(cache)
    assert generation["bandwidth"] == pytest.approx((2000 + cache) * 100 / 1e9)
    assert generation["host_cores"] == pytest.approx(0.4)
    assert generation["busy"] == 0.75
    assert [len(prompt) for prompt in engine.prompts] == [4, 36] * 4 + [4] * 4
    assert len(set(engine.prompts)) == 12
    assert all(params.ignore_eos and params.temperature == 0 for params in engine.params)


def test_rates_of_several_sequences_are_those_of_all(
    file: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step of the clock's 10 ms gives each of them a token, and computes any prompt."""
    now = 0.0
    step = engine.step

    def slow_step() -> list[StepOutput]:
        nonlocal now
        now += 0.010
        return step()

    monkeypatch.setattr(engine, "step", slow_step)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(time, "process_time", lambda: 0.4 * now)
    monkeypatch.setattr(bench_batch, "with_bandwidth", partial(_with_bandwidth, 4e-3))
    flags = ["-b", "1,3", "-p", "32", "-n", "8", "-r", "2", "--sampling", "-o", "json"]
    assert execute(["bench", str(file), *flags]) == 0
    captured = capsys.readouterr()
    tests = {test["test"]: test for test in json.loads(captured.out)}
    assert tests["pp32 b1"]["mean"] == pytest.approx(3200)
    assert tests["pp32 b3"]["mean"] == pytest.approx(9600)
    assert (tests["tg8 b1 @ d32"]["sequences"], tests["tg8 b1 @ d32"]["each"]) == (1, None)
    several = tests["tg8 b3 @ d32"]
    assert (several["sequences"], several["each"]) == (3, pytest.approx(100))
    assert several["mean"] == tests["tg8 b3 @ d32 top-p"]["mean"] == pytest.approx(300)
    assert several["deviation"] == pytest.approx(0, abs=1e-6)
    # Weights once, the cache of three: of 33 to 40 positions one kernel reads all, the other the last six.
    cache = 3 * (256 * 36.5 + 256 * 6)
    assert (several["weight_bytes_per_step"], several["kv_bytes_per_step"]) == (2000, cache)
    assert several["bandwidth"] == pytest.approx((2000 + cache) * 100 / 1e9)
    assert several["share"] == pytest.approx(several["bandwidth"] / 4e-3)
    # Penalties need what this artifact has of two sequences.
    assert "tg8 b1 @ d32 the same, penalties" in tests
    assert "tg8 b3 @ d32 the same, penalties" not in tests
    assert "imp: the same, penalties: left out for 3 sequences, 2 can have it at once\n" in captured.err
    assert not engine.has_work


def _with_bandwidth(read: float, *arguments: Any) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_speed, "read_bandwidth", lambda runner: read)
        return with_bandwidth(*arguments)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("form", ["table", "md", "csv"])
def test_forms(file: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    assert execute(["bench", str(file), "-p", "4", "-n", "2", "-r", "1", "-o", form]) == 0
    out = capsys.readouterr().out
    if form == "csv":
        assert [row["test"] for row in csv.DictReader(io.StringIO(out))] == ["pp4", "tg2"]
    else:
        for words in ("pp4", "tg2", "tok/s", "busy", "75.00%", "host cores", "854 k"):
            assert words in out


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("-p 600", "-p needs 601"),
        ("-p 0 -n 0", "nothing to measure"),
        ("-d 500 -p 20", "-d and -p needs 521 tokens, the context here is 512"),
        ("-b 2 -p 0 -n 0", "nothing to measure"),
        ("-b 0", "-b 0: expected numbers of sequences from 1 on, such as 1,8,32,64"),
        ("-b 1,,2", "-b 1,,2: expected numbers"),
        ("-b -4", "-b -4: expected numbers"),
        ("-b 2,x", "-b 2,x: expected numbers"),
        ("-b 1,5 -p 8 -n 8", "tiny.impc serves 4 sequences at once"),
        ("-b 2 -p 400 -n 100", "-b 2 with 400 tokens before and 100 to generate needs 534 tokens a sequence"),
        ("-b 2 -p 400 -n 10", "2 sequences of 444 tokens need 56 blocks of the cache, 31 are there"),
        ("--plot a.txt", "must end with .png"),
        ("--plot /no/such/a.png", "/no/such does not exist"),
        ("--plot a.png -o csv", "use -o json"),
        ("-p 0 -n 1 -r 1 -d 500 --plot a.png", "--plot at -d 500 needs 598 tokens, the context here is 512"),
    ],
)
def test_what_cannot_be(file: Path, flags: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["bench", str(file), *flags.split()]) == 2
    assert words in one_line(capsys.readouterr().err)


@pytest.mark.usefixtures("engine")
def test_plot_without_matplotlib(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("imp_server.commands.bench_plot.find_spec", lambda name: None)
    assert execute(["bench", str(file), "--plot", "a.png"]) == 2
    assert "pip install matplotlib" in one_line(capsys.readouterr().err)


# the device's own clock


class ClockedDevice(FakeDevice):
    """Kernels take the milliseconds that `takes` says; every mark costs 0.05."""

    takes: dict[str, float]  # set by the test

    def __init__(self) -> None:
        super().__init__(table_blocks=256)
        self.takes = {"step": 0.9, "rows": 7.0, "head": 2.0, "sample": 1.0}
        self.now = 0.0

    def run(self, entry: str, args: tuple[int, ...], ends: int) -> None:
        self.now += self.takes[entry]
        super().run(entry, args, ends)

    def mark(self) -> list[float]:  # type: ignore[override]
        passed: list[float] = []

        def pass_it() -> None:
            passed.append(self.now)
            self.now += 0.05

        self.push(pass_it)
        return passed

    def elapsed_ms(self, begin: object, end: object) -> float:
        assert isinstance(begin, list)
        assert isinstance(end, list)
        self.synchronize()
        return end[0] - begin[0]


@pytest.fixture
def clocked(tmp_path: Path) -> Iterator[Engine]:
    plan = with_kernel(make_plan(slots=2), ops=("Attention x",))
    artifact = Artifact.open(write_tiny(tmp_path / "tiny.impc", plan))
    with Engine(artifact, ClockedDevice()) as engine:
        yield engine


def test_busy_is_the_share_of_the_steps_by_the_devices_clock(clocked: Engine) -> None:
    """Each of the 20 steps takes 0.9 and the mark before it 0.05; the mark between it and the next is idle."""
    before = clocked.runner.run
    assert device_busy(clocked, 30, 20) == pytest.approx(20 * 0.95 / (20 * 0.95 + 19 * 0.05))
    assert clocked.runner.run == before


def test_each_kernel_gets_its_own_time(clocked: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imp_server.commands.bench_kernels.read_bandwidth", lambda runner: 2e-4)
    step = measure_kernels(clocked, 100)
    (kernel,) = step.kernels
    # Three batches of 24 launches, or three steps, and the mark before them.
    assert kernel.us == pytest.approx((3 * 24 * 900 + 50) / (3 * 24))
    assert step.us == pytest.approx((3 * 900 + 50) / 3)
    assert (kernel.entry, kernel.launches, kernel.share) == ("step", 1, 1.0)
    assert kernel.nbytes == 310 + 101 * 4  # a key and a value of one f16 for each position, its own included
    assert kernel.bandwidth == pytest.approx(714 / kernel.us / 1e3)
    assert (step.position, step.read_bandwidth) == (100, 2e-4)


@pytest.mark.parametrize("small", [False, True])
def test_the_yardstick_is_the_best_read_of_what_steps_read(
    tmp_path: Path, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third read is quick, those of the cache are slow. Memory is borrowed where both fit a card's L2."""
    monkeypatch.setattr(bandwidth, "_LEAST_BYTES", 1 << 40 if small else 1)
    monkeypatch.setattr(bandwidth, "_MOST_BYTES", 1 << 20)
    artifact = Artifact.open(write_tiny(tmp_path / "tiny.impc"))
    with Engine(artifact, ClockedDevice()) as engine:
        runner, device = engine.runner, engine.runner.device
        assert isinstance(device, ClockedDevice)
        weights, cache = runner.arenas
        assert weights[1] >= sum(plane.nbytes for plane in engine.plan.planes)
        assert cache[1] >= runner.blocks * engine.plan.block_bytes
        read: list[tuple[int, ...]] = []

        def launch(work: Launch) -> None:
            read.append(work.args[:2])
            slow = 1.0 if len(read) % 3 else 0.5
            device.push(lambda: setattr(device, "now", device.now + slow * (2 if work.args[0] == cache[0] else 1)))

        device.launch = launch  # type: ignore[method-assign]
        device.target = "fake"
        runner._launches["bandwidth"] = (Launch("read", 0, (1, 1, 1), 32, 0, (0, 0, 7)),)
        free = device.memory_free()
        found = read_bandwidth(runner)
        lengths = [(end - begin, begin) for begin, end in read]
        begins = {begin for _, begin in lengths}
        assert not begins & {weights[0], cache[0]} if small else begins == {weights[0], cache[0]}
        assert device.memory_free() == free
        # A mark takes 0.05 ms of the time between two.
        best = max(n / (1.05 if begin == cache[0] else 0.55) / 1e6 for n, begin in lengths)
        assert found == pytest.approx(best)


def test_measuring_kernels_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake step moves its sequence on and writes cache, counts and ring; others must not notice."""
    monkeypatch.setattr("imp_server.commands.bench_kernels.read_bandwidth", lambda runner: None)
    params = SamplingParams(max_tokens=60, ignore_eos=True, temperature=1.0, repetition_penalty=1.5, seed=3)
    path = write_tiny(tmp_path / "tiny.impc")

    with Engine(Artifact.open(path), FakeDevice(seed=1)) as engine:
        prompt = list(range(1, 40))
        expected = list(engine.generate(prompt, params))
        runner = engine.runner
        sampled = int(runner.read("out.count", "u32", (1,))[0])
        assert sampled == 60
        ring = runner.ring.copy()
        measure_kernels(engine, 50)
        assert not engine.has_work
        # The sequence it ran on had two tokens: one from its prompt, and one launched ahead.
        assert runner.read("out.count", "u32", (1,))[0] - sampled in (1, 2)
        changed = runner.ring != ring
        assert changed[:sampled].sum() == 0
        assert changed.sum() <= 2
        assert list(engine.generate(prompt, params)) == expected


def test_bytes_of_attention_grow_with_the_position() -> None:
    reads = (CacheRead(0, 512), CacheRead(64, 100))
    (kernel,) = with_kernel(make_plan(), cache_reads=reads).targets[0].programs[0].kernels
    assert launch_bytes(kernel, 50) == 310 + 50 * 612
    assert launch_bytes(kernel, 1000) == 310 + 1000 * 512 + 64 * 100
    assert launch_bytes(dataclasses.replace(kernel, cache_reads=()), 1000) == 310


def test_plot_draws_kernels_that_move_nothing(tmp_path: Path) -> None:
    from imp_server.commands.bench_kernels import KernelSpeed, StepSpeed
    from imp_server.commands.bench_plot import draw

    kernels = (KernelSpeed("a", "", 1, 0, 0, 2.0, 0.1), KernelSpeed("b", "", 2, 10**7, 10**7, 9.0, 0.9))
    for roof in (None, 4300.0):
        draw(StepSpeed(1, kernels, 20.0, roof), "title", tmp_path / "a.png")
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
