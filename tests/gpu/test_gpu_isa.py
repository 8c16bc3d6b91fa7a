"""The instruction layer on hardware: the same cases that the simulator must pass, bit for bit where it says so."""

from pathlib import Path

import numpy as np

from imp_codegen.build import Unit, build
from imp_runtime.device import Launch, open_device
from isa_cases import SOURCE, cases, check


def test_instructions_on_the_gpu(target):
    (code,) = build((Unit(target, "nvcc", Path(SOURCE).read_text()),))
    device = open_device(target)
    try:
        module = device.load_code(code.code)
        found = cases()
        assert len(found) > 5
        for case in found:
            addresses = []
            for buffer in case.buffers:
                address = device.alloc(max(buffer.before.nbytes, 256), case.entry)
                device.upload(address, np.ascontiguousarray(buffer.before))
                addresses.append(address)
            kernel = module.kernel(case.entry, case.shared_bytes)
            device.launch(Launch(case.entry, kernel, case.grid, case.block, case.shared_bytes, tuple(addresses)))
            device.synchronize()
            results = [
                device.download(address, buffer.before.nbytes).view(buffer.before.dtype).reshape(buffer.before.shape)
                for address, buffer in zip(addresses, case.buffers, strict=True)
            ]
            check(case, results)
    finally:
        device.close()
