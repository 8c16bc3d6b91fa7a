"""The instruction layer on hardware: the same cases that the simulator must pass, bit for bit where it says so."""

import numpy as np
import pytest

from imp_codegen.build import Unit, build
from imp_codegen.targets import targets
from imp_runtime.device import Launch, open_device
from isa_cases import (
    FP4_SOURCE,
    RESIDENT_SOURCE,
    SOURCE,
    WGMMA_SOURCE,
    cases,
    check,
    fp4_cases,
    resident_cases,
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
            addresses = []
            for buffer in case.buffers:
                address = device.alloc(max(buffer.before.nbytes, 256), case.entry)
                device.upload(address, np.ascontiguousarray(buffer.before))
                addresses.append(address)
            kernel = module.kernel(case.entry, case.shared_bytes)
            shape = (case.grid, case.block, case.shared_bytes)
            device.launch(Launch(case.entry, kernel, *shape, tuple(addresses), resident=case.resident))
            device.synchronize()
            results = [
                device.download(address, buffer.before.nbytes).view(buffer.before.dtype).reshape(buffer.before.shape)
                for address, buffer in zip(addresses, case.buffers, strict=True)
            ]
            check(case, results)
    finally:
        device.close()
