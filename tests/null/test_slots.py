"""What a slot costs, and how many of them a plan has."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_artifact import make_plan, write_tiny

from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.compiler import CompileOptions, plan_model
from imp_codegen.targets import find_target
from imp_runtime.plan import Plan
from imp_runtime.plan_check import check_plan, state_sizes
from imp_server.cli import execute

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Of the shape of Qwen3-8B, with 151,936 tokens and a context of 40,960."""
    with closing(random_checkpoint(ROOT / "models" / "shapes" / "qwen3-8b.json", "Q8_0")) as checkpoint:
        return plan_model(checkpoint, (find_target("sim"),), CompileOptions()).plan


def test_256_slots_have_no_row_of_the_vocabulary_each(plan: Plan) -> None:
    """All that belongs to sequences but the cache, memory of the host included."""
    many = replace(plan, slots=256)
    check_plan(many)
    sizes = state_sizes(many)
    assert sum(sizes.values()) < 48e6
    assert sum(nbytes for name, nbytes in sizes.items() if not name.startswith("out.")) < 38e6
    more = sum(state_sizes(replace(plan, slots=257)).values()) - sum(sizes.values())
    assert more < 40_960 // 16 * 4 + 256, "the block table, and a few numbers"


def test_as_many_as_people_expect(plan: Plan) -> None:
    assert (plan.slots, plan.ledgers) == (64, 16)


def test_inspect_says_how_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = write_tiny(tmp_path / "tiny.impc", make_plan(slots=7, ledgers=3))
    assert execute(["inspect", str(artifact)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "sequences at once" in line)
    assert line.split(maxsplit=3)[3] == "7, 3 of them with masks, biases, penalties or all logits"
