"""What families of models have around their products, on a GPU: both forms, prompts, every kernel, against float64."""

from __future__ import annotations

from pathlib import Path

import pytest

from families import FAMILIES, check_both_forms, read_as, source
from imp_codegen.targets import find_target
from imp_runtime.device import open_device
from two_forms import compile_both


@pytest.mark.parametrize("quant", ["F32", "Q8_0"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "gemma 4"])
def test_both_forms_and_prompts(tmp_path: Path, target: str, name: str, quant: str) -> None:
    family = FAMILIES[name]
    with read_as(family):
        path = source(tmp_path / "m.gguf", family, quant, hidden=416)
        artifact = compile_both(path, tmp_path / "m.impc", find_target(target), prefill=True)
        check_both_forms(artifact, lambda: open_device(target), path, family, 2e-3 if quant == "F32" else 4e-2)
