"""What families of models have around their products, in every program and both forms, against float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from families import FAMILIES, TOKENS, Family, check_both_forms, read_as, source
from imp_codegen.targets import find_target
from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine
from imp_runtime.sim import SimDevice
from two_forms import BothForms, compile_both


@pytest.fixture
def family(request: pytest.FixtureRequest) -> Iterator[Family]:
    found = FAMILIES[request.param]
    with read_as(found):
        yield found


# In turn: what stands around the products is the same for both, and tests/gpu has each family in both.
ONE_OF_BOTH = [(name, ("F32", "Q8_0")[i % 2]) for i, name in enumerate(FAMILIES)]


@pytest.mark.parametrize(("family", "quant"), ONE_OF_BOTH, indirect=["family"])
def test_both_forms_and_prompts(tmp_path: Path, family: Family, quant: str) -> None:
    path = source(tmp_path / "m.gguf", family, quant)
    target = replace(find_target("sim").sized(3), attention_per_sm=1, step_warps=3)
    artifact = compile_both(path, tmp_path / "m.impc", target, prefill=True)
    check_both_forms(artifact, lambda: SimDevice(threads=1), path, family, 2e-3 if quant == "F32" else 4e-2)


@pytest.mark.parametrize("family", ["gemma 4", pytest.param("olmo", marks=pytest.mark.thorough)], indirect=True)
def test_no_race_for_the_residual_stream(tmp_path: Path, family: Family) -> None:
    """The CTAs store the sum with a branch together, 128 columns each, while the others read what it is made of."""
    target = replace(find_target("sim").sized(5), attention_per_sm=1, step_warps=2)
    path = source(tmp_path / "m.gguf", family, "Q8_0", hidden=416)
    artifact = compile_both(path, tmp_path / "m.impc", target, prefill=True, check=True)
    device = SimDevice(threads=1)
    try:
        forms = BothForms(artifact, device)
        for order, seed in ((0, 1), (1, 1), (2, 1), (2, 2)):
            forms.reset()
            device._loaded().configure(1, order, seed)
            forms.compare(TOKENS[:4])
        with Engine(Artifact.open(artifact), device) as engine:
            for program in ("logits", "hidden"):
                assert np.isfinite(getattr(engine, program)(TOKENS)).all()
    finally:
        device.close()
