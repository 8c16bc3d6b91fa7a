"""The numbers that the compiler checks before it drafts a step kernel."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from unittest.mock import patch

from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.compiler import Compiled, CompileOptions, plan_model
from imp_codegen.kernels.step import kernel
from imp_codegen.kernels.step.schedule import Schedule
from imp_codegen.targets import Target

ROOT = Path(__file__).resolve().parents[1]
# Those that the step kernel takes: no mixtures of experts.
SHAPES = sorted(p for p in (ROOT / "models" / "shapes").glob("*.json") if "experts" not in p.read_text("utf-8"))
DEMO = ROOT / "models" / "demo.gguf"


def schedule_of(source: Path, quant: str, target: Target) -> tuple[Compiled, Schedule]:
    """The persistent form of a checkpoint, or of random weights where the source is a config, and its numbers."""
    found: list[Schedule] = []
    checkpoint = random_checkpoint(source, quant) if source.suffix == ".json" else open_checkpoint(source)
    with closing(checkpoint), patch.object(kernel, "check", found.append):
        compiled = plan_model(checkpoint, (target,), CompileOptions(form="persistent"))
    (schedule,) = found
    return compiled, schedule
