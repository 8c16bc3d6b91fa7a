"""Perplexity and coherence of the demo model on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from imp_codegen.compiler import CompileOptions, compile_model
from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine
from imp_runtime.perplexity import chunks_of, measure, scored_logits
from imp_server.coherence.gate import checks_of, examine, form_check
from imp_server.generation.tokenizer import Tokenizer
from imp_server.model import Model
from model_checks import quiet

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models" / "demo.gguf"


def test_perplexity_is_the_simulators(tmp_path: Path, target: str) -> None:
    artifact = tmp_path / "demo.impc"
    compile_model(DEMO, artifact, (target, "sim"), CompileOptions(), quiet)
    text = (ROOT / "tools" / "demo_model" / "heldout.txt").read_text("utf-8")
    with Engine.load(artifact, target=target) as gpu, Engine.load(artifact, target="sim") as sim:
        chunks = chunks_of(Tokenizer(gpu.artifact).encode(text, special=True)[:768], 256, None)
        found = measure(scored_logits(gpu, chunks), chunks, quiet, base=scored_logits(sim, chunks))
        itself = measure(scored_logits(gpu, chunks), chunks, quiet, base=scored_logits(gpu, chunks))
    assert found.divergence is not None
    assert itself.divergence is not None
    assert found.divergence.kl.value < 1e-3
    assert found.divergence.ratio.value == pytest.approx(1, abs=0.01)
    assert itself.divergence.kl_max == 0


@pytest.mark.parametrize("form", ["graph", "persistent"])
def test_answers_hang_together(tmp_path: Path, target: str, form: str) -> None:
    """But for what the demo model says by itself."""
    artifact = tmp_path / "demo.impc"
    options = CompileOptions(form="graph" if form == "graph" else "persistent")
    compile_model(DEMO, artifact, (target,), options, quiet)
    with Model.load(artifact) as model:
        found = examine(model, 64, quiet)
        checks = checks_of(found)
    if form == "persistent":
        with Model(Engine.load(Artifact.open(artifact).in_graph_form(target))) as other:
            assert other.engine.runner.target.form == "graph"
            checks.append(form_check(found, other, quiet))
    numbers = [check for check in checks if check.kind == "numbers"]
    assert len(numbers) == (6 if form == "persistent" else 5)
    assert [(check.name, check.faults) for check in numbers if check.verdict != "ok"] == []
