"""What families of models have around their products compiles for both GPUs, without spills but in the step kernel.

And but for what products of prompts may keep.
"""

import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from test_prefill_compile import PRODUCT_BYTES
from test_step_compile import FRAME, MOST_SPILLED, TARGETS

from families import FAMILIES, read_as, source
from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.compiler import CompileOptions, plan_model
from pieces import build_pieces, with_one_chunk

SHAPE = Path(__file__).parents[2] / "models" / "shapes" / "llama-3.2-1b.json"


@pytest.mark.thorough
@pytest.mark.parametrize("name", FAMILIES)
def test_graphs_compile_without_spills(tmp_path, name):
    family = FAMILIES[name]
    with read_as(family), closing(open_checkpoint(source(tmp_path / "m.gguf", family, "Q8_0"))) as checkpoint:
        check(checkpoint, "graph")


@pytest.mark.parametrize(("norms", "form"), [("both", "graph"), ("post", "persistent")])
def test_norms_behind_branches_of_a_real_width(norms, form):
    family = replace(FAMILIES["gemma"], norms=norms)
    with read_as(family), closing(random_checkpoint(SHAPE, "Q8_0")) as checkpoint:
        check(checkpoint, form)


def check(checkpoint, form):
    targets = tuple(with_one_chunk(name, -1) for name in TARGETS)
    emitted = plan_model(checkpoint, targets, CompileOptions(form=form)).emitted
    for target, (_, log) in build_pieces({name: emitted[name] for name in TARGETS}).items():
        frames = {entry: int(stores) for entry, _, stores, _ in re.findall(FRAME, log)}
        step = frames.pop("step_0", 0)
        products = [frames.pop(entry) for entry in tuple(frames) if entry.startswith("gemm_")]
        assert max(products, default=0) <= PRODUCT_BYTES, f"{target}: {products}"
        assert set(frames.values()) == {0}, f"{target}: {frames}"
        assert step <= MOST_SPILLED, target
