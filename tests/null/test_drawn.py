"""Weights of fixtures that are drawn again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from drawn import DRAWN, FIXTURES, WEIGHTS, draw, normal, uniform

KEPT = FIXTURES / "glm4_moe_lite" / "hf"


def test_the_numbers_are_torchs() -> None:
    """torch.manual_seed(7); torch.rand(3) and torch.randn(16), whose eights are sizes times cosines, then sines."""
    stream = uniform(7, 16)
    assert stream[:3] == pytest.approx([0.5349, 0.1988, 0.6592], abs=1e-4)
    drawn = normal(stream)
    assert drawn[:8] ** 2 + drawn[8:] ** 2 == pytest.approx(-2 * np.log(1 - stream[:8]))
    assert np.arctan2(drawn[8:], drawn[:8]) % (2 * np.pi) == pytest.approx(2 * np.pi * stream[8:])


def test_what_comes_out_otherwise_is_noticed(tmp_path: Path) -> None:
    shutil.copy(KEPT / DRAWN, tmp_path)
    draw(tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == (KEPT / WEIGHTS).read_bytes()
    with np.load(tmp_path / DRAWN) as kept:
        arrays = dict(kept)
    arrays["right"] = arrays["right"] ^ np.uint16(1)
    np.savez_compressed(tmp_path / DRAWN, **arrays)
    with pytest.raises(AssertionError, match="what is drawn is not what was kept"):
        draw(tmp_path)
