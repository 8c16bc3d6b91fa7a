"""The instruction layer as ptxas makes it: the same cases that simulator and GPUs must pass, from numpy."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from imp_codegen.build import Unit, build
from imp_runtime.sim import SimDevice
from isa_cases import (
    FP4_SOURCE,
    RESIDENT_SOURCE,
    SOURCE,
    WGMMA_SOURCE,
    Case,
    cases,
    fp4_cases,
    resident_cases,
    run,
    wgmma_cases,
)
from sass.code import by_sass
from sass.translate import Parameters, UnknownSassError, instructions, statements


@pytest.mark.parametrize(
    ("target", "source", "found"),
    [
        pytest.param("sm_90a", SOURCE, cases(), id="sm_90a"),
        pytest.param("sm_120a", SOURCE, cases(), id="sm_120a"),
        pytest.param("sm_90a", WGMMA_SOURCE, wgmma_cases(), id="sm_90a, warpgroups"),
        pytest.param("sm_120a", FP4_SOURCE, fp4_cases(), id="sm_120a, fp4"),
        pytest.param("sm_120a", RESIDENT_SOURCE, resident_cases(), id="sm_120a, resident"),
        pytest.param("sm_90a", RESIDENT_SOURCE, resident_cases(), id="sm_90a, resident", marks=pytest.mark.thorough),
    ],
)
def test_instructions(target: str, source: Path, found: list[Case]) -> None:
    (code,) = build((Unit("sim", "g++", by_sass(source.read_text("utf-8"), target)),))
    with closing(SimDevice()) as device:
        module = device.load_code(code.code)
        for case in found:
            run(device, module, case)


@pytest.mark.parametrize(
    "text",
    [
        "IMAD.HI.S64 R0, R1, R2, R3",
        "HGMMA.64x64x16.F32 R24, gdesc[UR4], R24",
        "FOO R0, R1",
        "LDG.E.SOON R0, desc[UR4][R2.64]",
        "BAR.ARV 0x1, 0x40",
        "MOV R0, c[0x4][0x10]",
    ],
)
def test_what_is_not_known_is_refused(text: str) -> None:
    lines = list(instructions(f"        /*0000*/                   {text} ;\n"))
    with pytest.raises(UnknownSassError, match="at 0x0"):
        statements("f", Parameters(0x210, 8, packed=False), lines)
