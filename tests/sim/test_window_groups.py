"""Layers with windows in groups of blocks of their own: the same bits as with one block for all layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

from imp_codegen.cache import CacheFormat
from imp_codegen.graph import Graph
from imp_codegen.kernels.state import CacheLayer
from imp_codegen.passes import plan_state
from imp_codegen.targets import find_target
from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine
from imp_runtime.plan import NO_LEDGER, TOP_LOGPROBS
from imp_runtime.sampling import SamplingParams
from imp_runtime.sequence import Sequence
from imp_runtime.sim import SimDevice
from mixed_attention import MIXED
from two_forms import compile_both, write_config

CASE = MIXED["near and far, turning otherwise"]  # windows of 17, none, 17
CONFIG = {**CASE.config, "hidden_size": 64, "intermediate_size": 96}
ANSWER = SamplingParams(max_tokens=36, ignore_eos=True, top_logprobs=TOP_LOGPROBS + 1)  # which brings all logits
MOST = (17 - 1 + 128 + 14) // 16 + 1  # blocks of a window


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The truth: a graph, the cache of whose layers is one group, which keeps everything, and no prefix cache."""
    layers = plan_state._layers

    def unlimited(graph: Graph, rows: CacheFormat) -> tuple[list[CacheLayer], list[int]]:
        found, windows = layers(graph, rows)
        return found, [0] * len(windows)

    with patch.object(plan_state, "_layers", unlimited):
        artifact = in_graph_form(compiled(tmp_path_factory))
    with Engine(artifact, SimDevice(threads=1), prefix_cache=False) as engine:
        assert [group.window for group in engine.plan.state] == [0]
        yield engine


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return compiled(tmp_path_factory)


def compiled(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A step in one kernel, and as a graph to fall back to."""
    folder = tmp_path_factory.mktemp("windows")
    target = replace(find_target("sim").sized(5), attention_per_sm=1, step_warps=2, max_shared=128 << 10)
    with CASE.built():
        made = compile_both(write_config(folder, CONFIG), folder / "model.impc", target, "Q8_0", prefill=True)
    return Artifact.open(made)


def in_graph_form(artifact: Artifact) -> Artifact:
    target = artifact.plan.targets[0].in_graph_form("")
    return replace(artifact, plan=replace(artifact.plan, targets=(target,)))


def prompt_of(length: int, seed: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, 300, length)]


def run(engine: Engine, prompts: list[list[int]]) -> list[tuple[Sequence, NDArray[np.float32]]]:
    """All at once: each one's sequence with the logits of its tokens."""
    sequences = [engine.add(prompt, ANSWER) for prompt in prompts]
    rows: dict[int, list[NDArray[np.float32]]] = {s.id: [] for s in sequences}
    while engine.has_work:
        before = {s.id: s.ledger for s in sequences}
        for output in engine.step():
            s = output.sequence
            ledger = before[s.id] if s.ledger == NO_LEDGER else s.ledger  # it has just lost or got its own
            rows[s.id].append(engine.runner.logits[ledger].copy())
        for s in sequences:
            for blocks, group in zip(s.blocks, engine.plan.state, strict=False):
                assert not group.window or sum(map(bool, blocks)) <= MOST
    return [(s, np.array(rows[s.id])) for s in sequences]


@pytest.mark.parametrize("form", ["persistent", "graph"])
def test_the_same_bits_as_with_blocks_of_all_layers(plain: Engine, artifact: Artifact, form: str) -> None:
    """Several sequences, long enough that what they give back serves them again; then the same once more."""
    if form == "graph":
        artifact = in_graph_form(artifact)
    prompts = [prompt_of(300, 1), prompt_of(170, 2), prompt_of(170, 2)[:140] + prompt_of(90, 3)]
    truth = [run(plain, [prompt])[0] for prompt in prompts]
    with Engine(artifact, SimDevice(threads=1), kv_tokens=800) as engine:
        assert sorted(group.window for group in engine.plan.state) == [0, 17, 17]
        assert engine.runner.blocks == 1 + 2 * (25 + 2 * MOST)
        for cached in ((0, 0, 128), (288, 160, 224)):  # the third waits for blocks
            for (sequence, logits), (alone, expected), count in zip(run(engine, prompts), truth, cached, strict=True):
                assert sequence.prompt_cached == count
                assert sequence.generated == alone.generated
                np.testing.assert_array_equal(logits, expected)
            assert engine._scheduler._manager.free_blocks == engine.runner.blocks - 1


def test_logits_of_a_long_text(plain: Engine, artifact: Artifact) -> None:
    """They go round in the blocks that a window needs, fewer than the text has."""
    tokens = prompt_of(390, 5)
    with Engine(artifact, SimDevice(threads=1), kv_tokens=400) as engine:
        assert engine.runner.blocks == 1 + 25 + 2 * MOST
        np.testing.assert_array_equal(engine.logits(tokens), plain.logits(tokens))
