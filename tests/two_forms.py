"""Models of random weights whose artifact decodes in both forms, and steps of both side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from imp_codegen import compiler
from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.kernels.kernel_spec import ProgramSpec
from imp_codegen.programs import lower
from imp_codegen.targets import Target
from imp_runtime.artifact import Artifact
from imp_runtime.device import Device
from imp_runtime.model_runner import ModelRunner
from imp_runtime.plan import NO_LEDGER, SAMPLING_DTYPE, SIEVE, STEPS
from model_checks import quiet

DECODE = (*STEPS, "sample_r1", SIEVE)
FORMS = ("graph_", "")  # what a form's decode programs are called before DECODE
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 301,
    "max_position_embeddings": 400,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def compile_both(
    source: Path,
    artifact: Path,
    target: Target,
    quant: str | None = None,
    *,
    prefill: bool = False,
    check: bool = False,
) -> Path:
    """An artifact for `target` with the programs of DECODE in both forms; with `prefill` all others too.

    `quant`: of random weights, the source being a config.
    """

    def lower_both(low: Any, graph: Any, wanted: object) -> Any:
        lowered = lower(low, graph, "persistent")
        kept = [p for p in lowered.programs if prefill or p.name in DECODE]
        graph = {p.name: p for p in (*kept, *lowered.fallback) if p.name in DECODE}
        renamed = [ProgramSpec(f"graph_{p.name}", p.rows, p.kernels) for p in graph.values()]
        return replace(lowered, programs=(*kept, *renamed))

    options = CompileOptions(random_weights=quant is not None, quant=quant or "", check=check)
    with patch.object(compiler, "find_targets", lambda _: (target,)), patch.object(compiler, "lower", lower_both):
        compile_model(source, artifact, (target.name,), options, quiet)
    return artifact


def write_config(folder: Path, changes: dict[str, Any]) -> Path:
    """CONFIG and changes to it as a file."""
    path = folder / "config.json"
    path.write_text(json.dumps({**CONFIG, **changes}), "utf-8")
    return path


def compile_config(
    folder: Path,
    target: Target,
    changes: dict[str, Any],
    quant: str = "Q8_0",
    *,
    prefill: bool = False,
    check: bool = False,
) -> Path:
    """The same from CONFIG and changes to it."""
    config = write_config(folder, changes)
    return compile_both(config, folder / "model.impc", target, quant, prefill=prefill, check=check)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step left: logits float32 [vocab], the token chosen."""

    logits: NDArray[np.float32]
    token: int


class BothForms:
    """Sequences that begin empty and are decoded in both forms, each with a cache of its own, step by step in turns."""

    def __init__(self, artifact: Path, device: Device, sequences: int = 1) -> None:
        self.runner = ModelRunner(Artifact.open(artifact), device)
        self.vocab = self.runner.plan.vocab
        self.sequences = sequences
        self.reset()

    def reset(self) -> None:
        """As freshly loaded: all sequences are empty, and so are the buffers between kernels."""
        paging, some = self.runner.paging, (self.runner.blocks - 1) // (2 * self.sequences)
        tokens = 16 * paging.places(some, paging.longest)
        greedy = np.zeros((), SAMPLING_DTYPE)
        greedy["top_p"] = greedy["repetition_penalty"] = 1
        greedy["ledger"] = NO_LEDGER
        for slot in range(2 * self.sequences):
            # In descending order: who ignores the block table reads the wrong ones.
            table = paging.table(tokens, range((slot + 1) * some, slot * some, -1))
            self.runner.write_slot(slot, 0, table, greedy)
        for buffer in self.runner.target.buffers:
            self.runner.write(buffer.name, np.zeros(buffer.nbytes, np.uint8))

    def __enter__(self) -> BothForms:
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.close()

    def step(self, token: int, sequence: int = 0) -> tuple[Outcome, Outcome]:
        """One token in both forms: graph, persistent."""
        graph, persistent = (self._run(form, 2 * sequence + i, token) for i, form in enumerate(FORMS))
        return graph, persistent

    def advance(self, token: int, sequence: int = 0) -> None:
        """The same, unseen."""
        for i, form in enumerate(FORMS):
            self._enqueue(form, 2 * sequence + i, token)

    def _run(self, form: str, slot: int, token: int) -> Outcome:
        self._enqueue(form, slot, token)
        logits = self.runner.read("logits", "f32", (self.vocab,)).astype(np.float32)
        chosen = self.runner.read("seq.token", "i32", (1,), 4 * slot).astype(np.int64)
        return Outcome(logits, int(chosen[0]))

    def _enqueue(self, form: str, slot: int, token: int) -> None:
        self.runner.write_token(slot, token)
        self.runner.write_step(slot)
        self.runner.run(f"{form}step_r1")

    def compare(self, tokens: list[int], sequence: int = 0) -> None:
        """Step by step: logits equal bit for bit, not all the same, and equal tokens."""
        for token in tokens:
            graph, persistent = self.step(token, sequence)
            assert np.isfinite(graph.logits).all()
            assert np.ptp(graph.logits) > 0
            np.testing.assert_array_equal(graph.logits, persistent.logits, err_msg=f"after {token} of {sequence}")
            assert graph.token == persistent.token == graph.logits.argmax()
