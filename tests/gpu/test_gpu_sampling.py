"""Masks, host sampling, logprobs, injection and hidden states on the GPU, where work is asynchronous."""

from pathlib import Path

import numpy as np
import pytest

from imp_codegen.compiler import CompileOptions, compile_model
from imp_runtime.constraint import pack_bits
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from model_checks import quiet

DEMO = Path(__file__).parents[2] / "models" / "demo.gguf"
TOKENS = 40
KINDS = (
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 1.0, "logit_bias": ((7, 5.0),), "min_tokens": 20},
    {"temperature": 1.0, "typical_p": 0.9, "dry_multiplier": 1.0},
    {"temperature": 0.8, "top_k": 50, "top_logprobs": 3},
    {"temperature": 1.0, "xtc_probability": 0.7, "xtc_threshold": 0.05},
    {"temperature": 1.0, "mirostat": 2, "mirostat_tau": 3.0},
    {"temperature": 0.9, "repetition_penalty": 1.5, "repeat_last_n": 8, "dry_multiplier": 1.0, "dry_allowed_length": 1},
    {"temperature": 1.1, "top_k": 200, "typical_p": 0.9, "top_p": 0.9, "min_p": 0.01, "xtc_probability": 0.5},
)


class Sevenths:
    """Only tokens congruent to the number of those before, modulo 7."""

    def __init__(self, vocab):
        self.vocab, self.count = vocab, 0

    def mask(self):
        return pack_bits(np.arange(self.vocab) % 7 == self.count % 7)

    def accept(self, token):
        self.count += 1

    def done(self):
        return False


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, target):
    path = tmp_path_factory.mktemp("sampling") / "demo.impc"
    compile_model(DEMO, path, (target, "sim"), CompileOptions(), quiet)
    return path


def run(engine, jobs):
    outputs = {}
    sequences = [
        engine.add([5, 6, 7], SamplingParams(max_tokens=TOKENS, ignore_eos=True, seed=1, **knobs), rule)
        for knobs, rule in jobs
    ]
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.sequence.id, []).append(output)
    return [[(o.token, o.logprob, o.top) for o in outputs[s.id]] for s in sequences]


def test_all_kinds_together_give_what_each_gives_alone(artifact, target):
    with Engine.load(artifact, target=target, deterministic=True) as engine:
        vocab = engine.plan.vocab
        alone = [run(engine, [(k, Sevenths(vocab) if r else None)])[0] for k in KINDS for r in (False, True)]
        together = run(engine, [(k, Sevenths(vocab) if r else None) for k in KINDS for r in (False, True)])
        assert together == alone
        for constrained in together[1::2]:
            assert [token % 7 for token, _, _ in constrained] == [i % 7 for i in range(TOKENS)]
        tokens = [token for token, _, _ in together[6]]
        logits = engine.logits([5, 6, 7, *tokens]).astype(np.float64)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        for i, (token, logprob, top) in enumerate(together[6]):
            assert logprob == pytest.approx(logits[2 + i][token], abs=0.15)
            assert top[0][1] == pytest.approx(logits[2 + i].max(), abs=0.15)


@pytest.mark.parametrize("knobs", KINDS, ids=lambda knobs: "+".join(knobs))
@pytest.mark.parametrize("constrained", [False, True])
def test_whoever_asks_for_probabilities_gets_the_same_tokens(artifact, target, knobs, constrained):
    """The host then chooses, from the same logits and with the same random numbers."""
    with Engine.load(artifact, target=target) as engine:
        vocab = engine.plan.vocab
        ways = ({}, {"sampled_logprobs": True, "top_logprobs": 1})
        found = [run(engine, [(knobs | way, Sevenths(vocab) if constrained else None)])[0] for way in ways]
    assert [token for token, _, _ in found[0]] == [token for token, _, _ in found[1]]


def test_hidden_states_are_the_simulators(artifact, target):
    tokens = np.random.default_rng(0).integers(0, 2000, 200).tolist()
    with Engine.load(artifact, target=target) as gpu, Engine.load(artifact, target="sim") as sim:
        found, expected = gpu.hidden(tokens), sim.hidden(tokens)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(axis=1) / norms).min() > 0.999


def test_injected_tokens_stay_and_the_rest_follows(artifact, target):
    with Engine.load(artifact, target=target) as engine:
        sequence = engine.add([5, 6, 7], SamplingParams(max_tokens=60, ignore_eos=True))
        while len(sequence.generated) < 9:
            engine.step()
        at = len(sequence.generated)
        engine.inject(sequence, list(range(100, 130)))
        while engine.has_work:
            engine.step()
        assert sequence.generated[at : at + 30] == list(range(100, 130))
        row = engine.logits([5, 6, 7, *sequence.generated])
        for i in range(at + 30, 60):
            assert row[2 + i][sequence.generated[i]] >= row[2 + i].max() - 0.3
