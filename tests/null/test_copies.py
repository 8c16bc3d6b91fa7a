"""What several cores copy is what was there, whatever its length."""

from __future__ import annotations

import numpy as np
import pytest

from imp_runtime.copies import Copier


@pytest.mark.parametrize("nbytes", [0, 1, 4095, (4 << 20) - 1, 4 << 20, (16 << 20) + 7])
def test_copies(nbytes: int) -> None:
    source = np.random.default_rng(nbytes).integers(0, 256, nbytes + 128, np.uint8)
    into = np.zeros(nbytes + 128, np.uint8)
    copier = Copier()
    for _ in range(2):
        into[:] = 0
        copier.copy(into[64 : 64 + nbytes], source[64 : 64 + nbytes])
        np.testing.assert_array_equal(into[64 : 64 + nbytes], source[64 : 64 + nbytes])
        assert not into[:64].any()
        assert not into[64 + nbytes :].any()
    copier.close()
