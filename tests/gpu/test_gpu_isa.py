"""The instruction layer on hardware: the same cases that the simulator must pass, bit for bit where it says so."""

import pytest

from imp_codegen.build import Unit, build
from imp_codegen.targets import targets
from imp_runtime.device import open_device
from isa_cases import (
    FP4_SOURCE,
    RESIDENT_SOURCE,
    SOURCE,
    WGMMA_SOURCE,
    cases,
    fp4_cases,
    resident_cases,
    run,
    wgmma_cases,
)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (SOURCE, cases()),
        (RESIDENT_SOURCE, resident_cases()),
        (WGMMA_SOURCE, wgmma_cases()),
        (FP4_SOURCE, fp4_cases()),
    ],
    ids=["one warp", "resident", "warpgroups", "fp4"],
)
def test_instructions_on_the_gpu(target, source, found):
    if source == WGMMA_SOURCE and not targets()[target].wgmma:
        pytest.skip(f"{target} has no products of warpgroups")
    (code,) = build((Unit(target, "nvcc", source.read_text("utf-8")),))
    device = open_device(target)
    try:
        module = device.load_code(code.code)
        assert len(found) > 2
        for case in found:
            run(device, module, case)
    finally:
        device.close()
