"""The step kernel on the simulator: bit for bit what the graph of kernels gives, in every shape and order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imp_codegen.targets import Target, find_target
from imp_runtime.artifact import Artifact
from imp_runtime.constraint import pack_bits
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from imp_runtime.sim import SimDevice
from model_checks import FIXTURES
from two_forms import BothForms, compile_both, compile_config


def sim(sms: int, warps: int, **changes: Any) -> Target:
    """The simulator with that many CTAs; both forms then split attention alike."""
    return replace(find_target("sim").sized(sms), attention_per_sm=1, step_warps=warps, **changes)


def tokens(count: int, vocab: int = 300) -> list[int]:
    return np.random.default_rng(count).integers(0, vocab, count).tolist()


# changes of the config, format, target, tokens
SHAPES: dict[str, tuple[dict[str, Any], str, Target, int]] = {
    "three layers, heads of 128, no groups": (
        {"num_hidden_layers": 3, "head_dim": 128, "num_key_value_heads": 4, "vocab_size": 301},
        "Q8_0",
        sim(4, 3),
        120,
    ),
    "mixed formats, groups of 8": (
        {"hidden_size": 256, "num_attention_heads": 16, "head_dim": 16, "vocab_size": 313},
        "Q4_K_M",
        sim(5, 4),
        300,
    ),
    "groups of 12, two shares of 6": (
        {"num_attention_heads": 12, "num_key_value_heads": 1, "head_dim": 16},
        "Q8_0",
        sim(5, 2),
        150,
    ),
    "rows of 3 tiles, single precision": (
        {"intermediate_size": 3072, "head_dim": 32, "num_hidden_layers": 1},
        "F32",
        sim(3, 4),
        40,
    ),
    "rows of 8 tiles, 2 warps, heads of 16, half precision": (
        {"intermediate_size": 16384, "head_dim": 16, "num_hidden_layers": 1},
        "F16",
        sim(4, 2, max_shared=128 << 10),
        20,
    ),
    "heads of 512, whose cache tiles are four slots": (
        {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 512, "num_hidden_layers": 1},
        "Q8_0",
        sim(3, 2),
        50,
    ),
    "bfloat16, one kv head": (
        {"architectures": ["LlamaForCausalLM"], "num_key_value_heads": 1, "num_hidden_layers": 3},
        "BF16",
        sim(4, 3),
        90,
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_graph(tmp_path: Path, name: str) -> None:
    changes, quant, target, count = SHAPES[name]
    with BothForms(compile_config(tmp_path, target, changes, quant), SimDevice(threads=1)) as forms:
        forms.compare(tokens(count))


@pytest.mark.parametrize("name", ["olmo2", pytest.param("olmo3", marks=pytest.mark.thorough)])
def test_norms_of_all_heads_together(tmp_path: Path, name: str) -> None:
    """Of OLMo 3, whose layers also see and turn otherwise, by angles of another magnitude."""
    artifact = compile_both(FIXTURES / name / "hf", tmp_path / "m.impc", sim(4, 3))
    with BothForms(artifact, SimDevice(threads=1)) as forms:
        forms.compare(tokens(40, forms.vocab))


@pytest.mark.parametrize("name", ["gemma4/gemma4-Q4_K_M.gguf", "gemma4_e2b/hf"])
def test_layers_of_several_kinds(tmp_path: Path, name: str) -> None:
    """Heads of two sizes; caches that later layers read, MLPs of two widths, an input of the token's own."""
    artifact = compile_both(FIXTURES / name, tmp_path / "m.impc", sim(4, 3))
    with BothForms(artifact, SimDevice(threads=1)) as forms:
        forms.compare(tokens(40, forms.vocab))


def test_the_count_of_layers_may_wrap(tmp_path: Path) -> None:
    """After 2^32 layers, in the middle of a step of three: days of decoding."""
    changes, quant, target, _ = SHAPES["three layers, heads of 128, no groups"]
    with BothForms(compile_config(tmp_path, target, changes, quant), SimDevice(threads=1)) as forms:
        turn = 2**32 - 2
        counters = np.zeros((6, 32), np.uint32)
        counters[0, 0] = turn
        counters[1:, 0] = turn * target.sms % 2**32
        forms.runner.write("step.counters", counters)
        forms.compare(tokens(5))
        assert forms.runner.read("step.counters", "u32", (1,))[0] == 13


class Sevenths:
    """Only tokens congruent to the number of those before, modulo 7."""

    def __init__(self, vocab: int) -> None:
        self.vocab, self.count = vocab, 0

    def mask(self) -> Any:
        return pack_bits(np.arange(self.vocab) % 7 == self.count % 7)

    def accept(self, token: int) -> None:
        self.count += 1

    def done(self) -> bool:
        return False


def test_prompts_sequences_in_turns_and_grammars(tmp_path: Path) -> None:
    """As the engine runs them: after prefill, several sequences at once, and in the two halves of a masked step."""
    artifact = Artifact.open(compile_config(tmp_path, sim(3, 3), {}, prefill=True))
    greedy = SamplingParams(max_tokens=6, ignore_eos=True, top_logprobs=3)
    found = []
    for form in ("graph_", ""):
        with Engine(artifact, SimDevice(threads=1)) as engine:
            run = engine.runner.run
            names = {program.name for program in engine.runner.programs}
            engine.runner.run = lambda name, form=form, run=run, names=names: run(  # type: ignore[method-assign]
                form + name if form + name in names else name
            )
            outputs: dict[int, list[Any]] = {}
            for constrained in (False, True):
                sequences = [
                    engine.add(tokens(count), greedy, Sevenths(engine.plan.vocab) if constrained else None)
                    for count in (1, 15, 16, 17, 70, 300)
                ]
                while engine.has_work:
                    for output in engine.step():
                        outputs.setdefault(output.sequence.id, []).append((output.token, output.logprob, output.top))
                assert all(len(outputs[sequence.id]) == 6 for sequence in sequences)
            assert [token % 7 for token, _, _ in outputs[sequences[0].id]] == [0, 1, 2, 3, 4, 5]
            found.append(outputs)
    assert found[0] == found[1]
