"""A model whose matrices are all of other formats: a kernel multiplies several, in both forms and in prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

import small_gguf
from families import Family, check_both_forms
from imp_codegen.checkpoint.random_blocks import random_blocks
from imp_codegen.formats import format_named, formats
from imp_codegen.targets import find_target
from imp_runtime.sim import SimDevice
from small_gguf import tensors_of, write_gguf
from two_forms import compile_both

WIDE = 256  # of the residual stream; attention and MLP are narrower, so that their rows are no superblocks


def mixed(shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """A format for each matrix, no two alike as long as there are others that rows of its length can have."""
    left, kinds = [], {}
    for name in sorted(shapes, key=lambda name: (shapes[name][1], name)):
        left = left or [name for name, fmt in formats().items() if fmt.ggml_type is not None]
        fits = [kind for kind in left if shapes[name][1] % format_named(kind).block == 0]
        kinds[name] = min(fits, key=lambda kind: (format_named(kind).block < 32, kind))
        left.remove(kinds[name])
    return kinds


@pytest.mark.thorough
def test_all_formats_in_one_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    with patch.object(small_gguf, "HIDDEN", WIDE):
        shapes = {name: tensor.shape for name, tensor in tensors_of("llama").items() if tensor.ndim == 2}
        kinds, tensors = mixed(shapes), {}
        for name, (rows, cols) in shapes.items():
            fmt = format_named(kinds[name])
            pool = random_blocks(fmt, rng, 1 / cols**0.5)
            tensors[name] = pool[: rows * fmt.row_bytes(cols)].reshape(rows, -1)
        source = write_gguf(tmp_path / "m.gguf", tensors=tensors, kinds=kinds)
    assert len(set(kinds.values())) >= 16
    target = replace(find_target("sim").sized(3), attention_per_sm=1, step_warps=3)
    artifact = compile_both(source, tmp_path / "m.impc", target, prefill=True)
    check_both_forms(artifact, lambda: SimDevice(threads=1), source, Family(), 4e-2)
