"""The floats of 31 bits that phases hand on, against numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sim_library import SimLibrary, aligned, compile_sim

SOURCE = """
#include "imp/stage/exchange.h"
extern "C" __global__ void hand_on(const float* x, float* y, std::uint32_t* words) {
  const int i = imp::thread_index();
  y[i] = imp::untagged(x[i]);
  imp::publish(words + i, x[i], i & 1);
}
"""


def test_all_kinds_of_floats(tmp_path: Path) -> None:
    special = [
        0x7FFFFFFF,
        0x7F800001,
        0xFFFFFFFF,
        0xFF800001,
        0x7FC00000,
        0x7F800000,
        0xFF800000,
        0,
        1,
        2,
        3,
        0x80000001,
    ]
    bits = np.random.default_rng(0).integers(0, 2**32, 128, np.uint32)
    bits[: len(special)] = special
    (tmp_path / "exchange.cu").write_text(SOURCE, "utf-8")
    library = SimLibrary(compile_sim(tmp_path / "exchange.cu", tmp_path, "check"))
    x = aligned(bits.view(np.float32))
    y, words = aligned(np.zeros(128, np.float32)), aligned(np.zeros(128, np.uint32))
    assert library.launch("hand_on", [x, y, words], block=128) == ""
    # Of the two neighbours with a last bit of zero the one whose own last digit is even, where there is a choice.
    low = (bits & ~np.uint32(1)).astype(np.uint64)
    odd = (bits & 1).astype(bool)
    expected = np.where(odd & (low % 4 == 2), low + 2, low).astype(np.uint32)
    number = ~np.isnan(x)
    np.testing.assert_array_equal(y.view(np.uint32)[number], expected[number])
    assert np.isnan(y[~number]).all()
    np.testing.assert_array_equal(words & 1, np.arange(128) % 2)
    np.testing.assert_array_equal((words & ~np.uint32(1))[number], expected[number])
    assert np.isnan((words & ~np.uint32(1)).view(np.float32)[~number]).all()
