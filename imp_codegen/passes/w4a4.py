"""w4a4: where `--prefill w4a4` rounds a prompt's activations to four bits, and where it does not, in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from imp_codegen.kernels.kernel_spec import KernelSpec, ProgramSpec
from imp_codegen.kernels.placed import Placed
from imp_codegen.targets import Target, TargetError, targets
from imp_runtime.errors import ImpError

_PLANES = "weights/"


def refuse_targets(chosen: Sequence[Target]) -> None:
    """TargetError for a target whose tensor cores do not multiply e2m1."""
    have = sorted(name for name, target in targets().items() if target.fp4)
    for target in chosen:
        if not target.fp4:
            raise TargetError(
                f"--prefill w4a4: {target.name} has no FP4 tensor cores; compile for {' or '.join(have)}, or leave "
                "it out"
            )


def left_accurate(programs: Sequence[ProgramSpec], placed: Mapping[str, Placed]) -> tuple[str, ...]:
    """A note that names the matrices of a prompt which are multiplied as ever. ImpError where all of them are."""
    prompt = max((each for each in programs if each.name.startswith("forward_r")), key=lambda program: program.rows)
    products = [(kernel, kernel.tiles.mma) for kernel in prompt.kernels if kernel.tiles is not None]
    taken = {name for kernel, mma in products if mma == "nvfp4" for name in _matrices(kernel, placed)}
    others = {name for kernel, _ in products for name in _matrices(kernel, placed)} - taken
    if not taken:
        formats = sorted({placed[name].format.name for name in others})
        raise ImpError(
            f"--prefill w4a4 is for matrices in NVFP4, and those of this model are {', '.join(formats) or 'none'}; "
            "leave it out, or compile with --weights nvfp4"
        )
    if not others:
        return ()
    kinds = Counter(f"{re.sub(r'[.][0-9]+[.]', '.*.', name)} ({placed[name].format.name})" for name in sorted(others))
    return (
        f"prompts in W4A4: {len(taken)} matrices; {len(others)} are multiplied in f16 as without --prefill, as they, "
        "or others that the same vector meets, are not NVFP4 with rows of whole 64s: "
        + ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
    )


def _matrices(kernel: KernelSpec, placed: Mapping[str, Placed]) -> Iterator[str]:
    for _, param in kernel.params():
        name = param.binding.buffer.removeprefix(_PLANES)
        if name != param.binding.buffer and name in placed and placed[name].tile is not None:
            yield name
