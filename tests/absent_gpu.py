"""A GPU that this machine does not have: what compilers make for it is translated to C++, which the simulator runs.

Plans, kernels, grids and forms are its own. With fewer multiprocessors ("sm_120a:16") it is faster, and where all of a
kernel's threads run at once the simulator has no stacks for those of a whole card.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from imp_codegen import build as building
from imp_codegen import compiler
from imp_codegen.build import CodeObject, Unit, build
from imp_codegen.compiler import CompileOptions
from imp_codegen.emit import Emitted
from imp_codegen.targets import Target, find_target, targets
from imp_runtime import cuda
from imp_runtime.sim import SimDevice

_UNIT = compiler._unit
Progress = Callable[[int, int], None]
Translated = Callable[[str, str], str]  # an emitted source and a target's name to C++


@contextmanager
def absent_gpu(wanted: str | Target, translated: Translated) -> Iterator[None]:
    """Until it ends the machine seems to have one GPU of this target, and code for it is such that it runs there."""
    gpu = find_target(wanted) if isinstance(wanted, str) else wanted

    def unit(target: Target, emitted: Emitted, options: CompileOptions) -> Unit:
        """A model's code in two pieces, the second of which other models have, too; the simulator's own as it is."""
        if target.compiler == "g++":
            return _UNIT(target, emitted, options)
        with ThreadPoolExecutor(2) as pool:
            own, shared = pool.map(translated, (emitted.own, emitted.shared), (target.name, target.name))
        return Unit(target.name, "g++", own, "check" if options.check else "plain", shared)

    def build_any(units: Sequence[Unit], progress: Progress = lambda done, total: None) -> tuple[CodeObject, ...]:
        """What a test itself has nvcc compile."""
        told = (
            Unit(unit.target, "g++", translated(unit.source, unit.target)) if unit.compiler == "nvcc" else unit
            for unit in units
        )
        return build(tuple(told), progress)

    with ExitStack() as stack:
        stack.enter_context(patch.dict(targets(), {gpu.name: gpu}))
        for module, name, value in (
            (compiler, "_unit", unit),
            (compiler, "build", build_any),
            (building, "build", build_any),
            (cuda, "target_of_gpu", lambda: gpu.name),
            (cuda, "gpu", lambda: ("no GPU, but its code on the CPU", gpu.sms)),
            (cuda, "CudaDevice", functools.partial(SimDevice, target=gpu.name)),
        ):
            stack.enter_context(patch.object(module, name, value))
        yield
