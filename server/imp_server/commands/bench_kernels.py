"""How fast each kernel of a decode step is: launched again and again, alone, between two marks of the device."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from imp_runtime.bandwidth import read_bandwidth
from imp_runtime.errors import ImpError
from imp_runtime.plan import BLOCK_TOKENS, Kernel
from imp_runtime.plan_check import state_sizes
from imp_runtime.sampling import SamplingParams
from imp_server.commands.bench_speed import DECODE, random_prompt
from imp_server.commands.inspect import kinds

if TYPE_CHECKING:
    from imp_runtime.engine import Engine
    from imp_runtime.sequence import Sequence

_LAUNCHES = 24  # at least so many in a batch, so that the batch outlasts the host's enqueueing of the next
_BATCHES = 3  # between two marks
_RUNS = 5
# A kernel that ends a step moves the sequence on by a token each time. It stands once in a step, so its batches have
# _LAUNCHES launches, and one batch runs before the first mark.
_ROOM = _LAUNCHES * (_BATCHES + 1)


@dataclass(frozen=True, slots=True)
class KernelSpeed:
    """One entry of the step. `nbytes` and `flops` are of one launch, the mean of its `launches` in a step.

    `us`: microseconds of one launch. `share`: of the time of all kernels measured so, 0 to 1.
    """

    entry: str
    ops: str
    launches: int
    nbytes: int
    flops: int
    us: float
    share: float

    @property
    def bandwidth(self) -> float:
        """GB/s."""
        return self.nbytes / self.us / 1e3


@dataclass(frozen=True, slots=True)
class StepSpeed:
    """A decode step at `position` tokens. `us`: microseconds of a whole step; `read_bandwidth`: GB/s or None."""

    position: int
    kernels: tuple[KernelSpeed, ...]
    us: float
    read_bandwidth: float | None


def measure_kernels(engine: Engine, position: int) -> StepSpeed:
    """Time every entry of the decode step after `position` tokens (at least 1).

    Kernels change what they are given (a residual is added again, a position moves on), so everything that they can
    write is saved, put back before each measurement and at the end: the engine goes on as if nothing had been.
    """
    need = position + _ROOM + 2
    if need > engine.context:
        raise ImpError(f"--plot at -d {position} needs {need} tokens, the context here is {engine.context}; use less")
    program = engine.runner.target.program(DECODE)
    groups: dict[str, list[int]] = {}
    for i, kernel in enumerate(program.kernels):
        groups.setdefault(kernel.entry, []).append(i)
    sequence = _sequence(engine, position + _ROOM)
    saved = _Saved(engine, sequence, position)
    try:
        each = {entry: _launch_us(saved, group, position) for entry, group in groups.items()}
        whole = _run_us(saved, lambda: engine.runner.run(DECODE), position)
    finally:
        saved.restore()
        engine.abort(sequence)
    total = sum(us * len(groups[entry]) for entry, us in each.items())
    kernels = []
    for entry, group in groups.items():
        launched = [program.kernels[i] for i in group]
        kernels.append(
            KernelSpeed(
                entry=entry,
                ops=kinds(launched[0]),
                launches=len(group),
                nbytes=sum(launch_bytes(kernel, position + 1) for kernel in launched) // len(group),
                flops=sum(kernel.flops for kernel in launched) // len(group),
                us=each[entry],
                share=each[entry] * len(group) / total,
            )
        )
    return StepSpeed(position, tuple(kernels), whole, read_bandwidth(engine.runner))


def launch_bytes(kernel: Kernel, positions: int) -> int:
    """Bytes that a launch of a decode kernel must move: as planned, and the cache of `positions` tokens it attends."""
    return kernel.weight_bytes + kernel.other_bytes + sum(read.nbytes(positions) for read in kernel.cache_reads)


def _sequence(engine: Engine, tokens: int) -> Sequence:
    """A running sequence whose cache holds `tokens` tokens."""
    sequence = engine.add(random_prompt(engine, tokens), SamplingParams(max_tokens=2, ignore_eos=True))
    while not sequence.generated:
        engine.step()
    return sequence


class _Saved:
    """What kernels of the step may write: the buffers they are given, and the cache from the block of `position` on."""

    def __init__(self, engine: Engine, sequence: Sequence, position: int) -> None:
        runner, plan = engine.runner, engine.plan
        runner.device.synchronize()
        self.runner = runner
        self._slot = sequence.slot
        self._ring = runner.ring.copy()
        self._parts: dict[tuple[str, int], npt.NDArray[np.generic]] = {}
        sizes = state_sizes(plan) | {buffer.name: buffer.nbytes for buffer in runner.target.buffers}
        bound = {arg.buffer for kernel in runner.target.program(DECODE).kernels for arg in kernel.args}
        for name in sorted(bound & sizes.keys() - {"out.ring"}):
            self._parts[name, 0] = runner.read(name, "u8", (sizes[name],))
        nbytes = plan.block_bytes
        # As the device has them: those that a window has given back are written, too.
        table = runner.read_table(sequence.slot, max(map(len, sequence.blocks)))
        for block in sorted({*table[position // BLOCK_TOKENS :].flat} - {0}):
            at = int(block) * nbytes
            self._parts["kv", at] = runner.read("kv", "u8", (nbytes,), at)

    def restore(self, position: int | None = None) -> None:
        """Put it back; the sequence then has `position` tokens in the cache, or as many as it had."""
        for (name, offset), data in self._parts.items():
            self.runner.write(name, data, offset)
        if position is not None:
            self.runner.write("seq.position", np.array([position], "<i4"), 4 * self._slot)
        self.runner.device.synchronize()
        self.runner.ring[:] = self._ring


def _launch_us(saved: _Saved, group: list[int], position: int) -> float:
    """Microseconds of one launch among those of `group`, indices into the step, taken in turn.

    All layers in turn, not one again and again: its weights would come from the cache.
    """
    launches = [saved.runner.launches(DECODE)[i] for i in group]
    batch = launches * -(-_LAUNCHES // len(launches))
    return _run_us(saved, saved.runner.device.capture(batch).launch, position) / len(batch)


def _run_us(saved: _Saved, run: Callable[[], None], position: int) -> float:
    """Microseconds of one `run`, back to back with others: the median of a few measurements."""
    device = saved.runner.device
    times = []
    for _ in range(_RUNS):
        saved.restore(position)
        run()  # the device works on this one while the others are enqueued
        begin = device.mark()
        for _ in range(_BATCHES):
            run()
        end = device.mark()
        device.wait(end)
        times.append(device.elapsed_ms(begin, end) * 1e3 / _BATCHES)
    return statistics.median(times)
