"""The demo model that the repository ships, as a user's machine without a GPU runs it."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from imp_codegen.compiler import CompileOptions, compile_model
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from imp_server.coherence.gate import checks_of, examine
from imp_server.coherence.prompts import PROMPTS
from imp_server.generation.tokenizer import Tokenizer
from imp_server.model import Model
from model_checks import check_kernels, kl_divergence, quiet

ROOT = Path(__file__).parents[2]
RESULTS = json.loads((ROOT / "tools" / "demo_model" / "results.json").read_text("utf-8"))
WINDOW = 512


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    output = tmp_path_factory.mktemp("demo") / "demo.impc"
    compile_model(ROOT / "models" / "demo.gguf", output, ("sim",), CompileOptions(), quiet)
    return output


def test_golden_logits_and_greedy_tokens(demo):
    """Hugging Face's fp32 logits of the dequantised weights; the bar is that of int8 activations on other models."""
    truth = np.load(ROOT / "tests" / "fixtures" / "demo" / "logits.npz")
    prompt = truth["prompt_ids"].tolist()
    with Engine.load(demo, target="sim") as engine:
        assert kl_divergence(truth["logits"], engine.logits(prompt)).mean() < 2e-3
        greedy = list(engine.generate(prompt, SamplingParams(max_tokens=16, ignore_eos=True)))
        assert greedy == truth["greedy_ids"].tolist()
        check_kernels(engine)


@pytest.mark.thorough
def test_perplexity_is_the_originals(demo):
    """Over the first windows of the held-out text, against the same windows of Hugging Face's run."""
    with Engine.load(demo, target="sim") as engine:
        ids = Tokenizer(engine.artifact).encode(
            (ROOT / "tools" / "demo_model" / "heldout.txt").read_text("utf-8"), special=False
        )
        assert len(ids) == RESULTS["heldout_tokens"]
        losses = []
        for start in range(0, RESULTS["prefix_windows"] * WINDOW, WINDOW):
            window = ids[start : start + WINDOW]
            logits = engine.logits(window)[:-1].astype(np.float64)
            peak = logits.max(axis=1, keepdims=True)
            total = np.log(np.exp(logits - peak).sum(axis=1)) + peak[:, 0]
            losses.append(total - logits[np.arange(len(logits)), window[1:]])
    perplexity = np.exp(np.concatenate(losses).mean())
    assert perplexity == pytest.approx(RESULTS["prefix_perplexity_q8_0"], rel=0.005)


def test_speed_is_usable(demo):
    """At least 3 tokens a second on two cores that do nothing else."""
    with Engine.load(demo, target="sim") as engine:
        start = time.process_time()
        count = len(list(engine.generate([1, 2, 3], SamplingParams(max_tokens=12, ignore_eos=True))))
        assert count / (time.process_time() - start) > 3 / 2


def test_several_sequences_at_once_give_what_each_gives_alone(demo):
    prompts = [[5, 6, 7], list(range(100, 240)), [9], [300, 301]]
    params = [
        SamplingParams(max_tokens=10, ignore_eos=True),
        SamplingParams(max_tokens=8, ignore_eos=True, temperature=0.8, top_k=40, seed=3),
        SamplingParams(max_tokens=12, ignore_eos=True, temperature=1.0, top_p=0.9, seed=4),
        SamplingParams(max_tokens=6, ignore_eos=True, repetition_penalty=1.3, presence_penalty=0.5),
    ]
    with Engine.load(demo, target="sim") as engine:
        alone = [list(engine.generate(prompt, p)) for prompt, p in zip(prompts, params, strict=True)]
        sequences = [engine.add(prompt, p) for prompt, p in zip(prompts, params, strict=True)]
        together: dict[int, list[int]] = {id(s): [] for s in sequences}
        while engine.has_work:
            for output in engine.step():
                together[id(output.sequence)].append(output.token)
    assert [together[id(s)] for s in sequences] == alone


def test_its_answers_hang_together(demo):
    """A chat and a text that goes on; imp verify --text asks more, and for longer answers."""
    with Model.load(demo, target="sim") as model:
        checks = checks_of(examine(model, 6, quiet, [p for p in PROMPTS if p.name in ("chat", "code")]))
    assert [(check.name, check.faults) for check in checks if check.verdict != "ok"] == []
    assert len(checks) == 10
