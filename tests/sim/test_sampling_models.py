"""Every way to a token on the simulator, with a small model: kernels, engine and host sampler together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from imp_codegen.models import load_named
from imp_codegen.ops import RmsNorm
from imp_codegen.reference import Reference, artifact_weights
from imp_codegen.spec import ModelSpec
from imp_runtime.artifact import Artifact
from imp_runtime.constraint import pack_bits
from imp_runtime.engine import Engine, StepOutput
from imp_runtime.sampling import SamplingParams
from imp_runtime.sim import SimDevice
from model_checks import FIXTURES, compile_fixture

ROUNDING = 0.4  # at most, of log-probabilities: prefill and decode add in different orders and round to int8


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    output = compile_fixture(tmp_path_factory.mktemp("sampling"), "llama", "Q8_0", "sim")
    with closing(Engine.load(output, target="sim")) as loaded:
        yield loaded


class Rule:
    """Tokens congruent to the sum of all before, modulo 7: hardly any that the model would choose."""

    def __init__(self, vocab: int, free: int = 0) -> None:
        self.vocab, self.free = vocab, free
        self.accepted: list[int] = []

    def allowed(self, before: list[int]) -> np.ndarray:
        return np.arange(self.vocab) % 7 == sum(before) % 7

    def mask(self) -> np.ndarray | None:
        return None if len(self.accepted) < self.free else pack_bits(self.allowed(self.accepted))

    def accept(self, token: int) -> None:
        self.accepted.append(token)

    def done(self) -> bool:
        return False


def finish(engine: Engine) -> dict[int, list[StepOutput]]:
    outputs: dict[int, list[StepOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.sequence.id, []).append(output)
    return outputs


KINDS: dict[str, dict[str, object]] = {
    "greedy": {},
    "drawn": {"temperature": 1.0},
    "filtered": {"temperature": 1.2, "top_k": 30, "top_p": 0.95, "min_p": 0.01},
    "penalised": {"temperature": 0.8, "repetition_penalty": 1.3, "frequency_penalty": 0.4},
    "biased": {"temperature": 1.0, "logit_bias": ((17, 9.0), (18, -1000.0))},
    "typical": {"temperature": 1.0, "typical_p": 0.8},
    "window": {"repetition_penalty": 1.5, "repeat_last_n": 4},
    "dry": {"dry_multiplier": 2.0},
    "mirostat": {"temperature": 1.0, "mirostat": 2, "mirostat_tau": 3.0},
    "probabilities": {"temperature": 1.0, "typical_p": 0.9, "sampled_logprobs": True, "top_logprobs": 1},
    "xtc": {"temperature": 1.0, "xtc_probability": 0.7, "xtc_threshold": 0.05},
    "logprobs": {"temperature": 0.9, "top_k": 50, "top_logprobs": 2},
}


def params(kind: str, **more: object) -> SamplingParams:
    values = {"max_tokens": 12, "ignore_eos": True, "seed": 11, **KINDS[kind], **more}
    return SamplingParams(**values)  # type: ignore[arg-type]  # each has its own type


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_is_never_violated(engine: Engine, kind: str) -> None:
    vocab = engine.plan.vocab
    for seed in range(3):
        rule = Rule(vocab, free=2)
        sequence = engine.add([5, 6, 7], params(kind, seed=seed, max_tokens=25), rule)
        finish(engine)
        assert len(sequence.generated) == 25
        for i in range(2, 25):
            assert rule.allowed(sequence.generated[:i])[sequence.generated[i]]


def test_all_kinds_together_give_what_each_gives_alone(engine: Engine) -> None:
    kinds = [*((kind, False) for kind in KINDS), *((kind, True) for kind in ("drawn", "biased", "dry", "logprobs"))]
    jobs = [
        ([9, 8, *range(40, 40 + 7 * n)], params(kind, max_tokens=6), constrained)
        for n, (kind, constrained) in enumerate(kinds)
    ]

    def add(job: tuple[list[int], SamplingParams, bool]) -> int:
        prompt, given, constrained = job
        return engine.add(prompt, given, Rule(engine.plan.vocab, free=1) if constrained else None).id

    alone = []
    for job in jobs:
        sequence = add(job)
        alone.append([(o.token, o.logprob, o.top) for o in finish(engine)[sequence]])
    ids = [add(job) for job in jobs]
    together = finish(engine)
    assert [[(o.token, o.logprob, o.top) for o in together[i]] for i in ids] == alone


@pytest.mark.parametrize("kind", ["drawn", "filtered", "penalised", "typical", "window", "dry", "mirostat", "xtc"])
@pytest.mark.parametrize("constrained", [False, True])
def test_whoever_asks_for_probabilities_gets_the_same_tokens(engine: Engine, kind: str, constrained: bool) -> None:
    """The host then chooses, from the same logits and with the same random numbers."""
    found = []
    for more in ({}, {"sampled_logprobs": True, "top_logprobs": 1}):
        rule = Rule(engine.plan.vocab, free=3) if constrained else None
        sequence = engine.add([5, 6, 7, 5, 6], params(kind, max_tokens=25, **more), rule)
        finish(engine)
        found.append(sequence.generated)
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", ["greedy", "biased", "dry", "penalised"])
@pytest.mark.parametrize("constrained", [False, True])
def test_logprobs_are_of_the_models_own_distribution(engine: Engine, kind: str, constrained: bool) -> None:
    rule = Rule(engine.plan.vocab) if constrained else None
    prompt = list(range(30, 60))
    sequence = engine.add(prompt, params(kind, top_logprobs=5), rule)
    outputs = finish(engine)[sequence.id]
    logits = engine.logits([*prompt, *sequence.generated]).astype(np.float64)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    differences = []
    for i, output in enumerate(outputs):
        row = logits[len(prompt) - 1 + i]
        differences += [abs(value - row[token]) for token, value in output.top]
        assert output.logprob == pytest.approx(row[output.token], abs=ROUNDING)
        assert [value for _, value in output.top] == pytest.approx(np.sort(row)[::-1][:5].tolist(), abs=ROUNDING)
        assert [value for _, value in output.top] == sorted((value for _, value in output.top), reverse=True)
        for token, value in output.top:
            assert value == pytest.approx(row[token], abs=ROUNDING)
    assert np.median(differences) < 0.05


def test_bias_and_min_tokens(engine: Engine) -> None:
    prompt = [3, 4, 5]
    always = params("greedy", logit_bias=((123, 1000.0),))
    assert list(engine.generate(prompt, always)) == [123] * 12
    first = next(engine.generate(prompt, params("greedy")))
    never = next(engine.generate(prompt, params("greedy", logit_bias=((first, -1000.0),))))
    assert never == engine.logits(prompt)[-1].argsort()[-2]
    stop = engine.plan.stop_tokens[0]
    eager = {"logit_bias": ((stop, 1000.0),), "ignore_eos": False}
    for more in ({}, {"dry_multiplier": 0.1}, {"temperature": 1.0}, {"temperature": 1.0, "typical_p": 0.9}):
        for least in (0, 1, 5):
            sequence = engine.add(prompt, params("greedy", min_tokens=least, **eager, **more))
            finish(engine)
            assert (len(sequence.generated), sequence.finish) == (least + 1, "stop")
            assert stop not in sequence.generated[:-1]


def test_a_stop_token_of_the_request(engine: Engine) -> None:
    free = list(engine.generate([3, 4, 5], params("drawn")))
    sequence = engine.add([3, 4, 5], params("drawn", stop_tokens=(free[4],)))
    finish(engine)
    assert (sequence.generated, sequence.finish) == (free[: free.index(free[4]) + 1], "stop")


@pytest.mark.parametrize("kind", ["greedy", "dry", "logprobs"])
@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("when", [0, 1, 5])
def test_after_an_injection_every_token_follows_from_all_before(
    engine: Engine, kind: str, constrained: bool, when: int
) -> None:
    """Not always equal to a run without: the injected tokens are prefilled, which rounds differently."""
    prompt, injected = list(range(60, 90)), [7, 9, *range(200, 230)]
    rule = Rule(engine.plan.vocab, free=40) if constrained else None
    given = params(kind, temperature=0.0, max_tokens=60, **({"dry_multiplier": 1e-9} if kind == "dry" else {}))
    sequence = engine.add(prompt, given, rule)
    while len(sequence.generated) < when:
        engine.step()
    at = len(sequence.generated)
    engine.inject(sequence, injected)
    delivered = finish(engine)[sequence.id]
    assert sequence.generated[at : at + len(injected)] == injected
    assert [o.token for o in delivered] == sequence.generated[at + len(injected) :]
    assert len(sequence.generated) == 60
    logits = engine.logits([*prompt, *sequence.generated])
    for i in [*range(at), *range(at + len(injected), 60)]:
        row = logits[len(prompt) - 1 + i]
        allowed = rule.allowed(sequence.generated[:i]) if rule and i >= 40 else np.ones(len(row), bool)
        assert allowed[sequence.generated[i]]
        assert row[sequence.generated[i]] >= row[allowed].max() - 2 * ROUNDING


def test_hidden_states_are_the_references(tmp_path: Path) -> None:
    artifact = compile_fixture(tmp_path, "qwen3", "Q8_0", "sim")
    truth = np.load(FIXTURES / "qwen3" / "Q8_0.npz")
    tokens = np.concatenate([truth["prompt_ids"]] * 12)[:200].astype(np.int64)
    with Engine.load(artifact, target="sim") as engine:
        found = engine.hidden(tokens.tolist())
        spec = ModelSpec.from_json(engine.artifact.read("spec.json"))
        graph = load_named(spec.architecture).build(spec)
        values = Reference(artifact_weights(engine.artifact), rounded=False).run(graph, tokens)
    name = [op.out.name for op in graph.ops if isinstance(op, RmsNorm)][-1]
    assert found.shape == values[name].shape == (200, spec.hidden)
    np.testing.assert_allclose(found, values[name], atol=0.03 * np.abs(values[name]).max())
    # The embeddings that a user sees: direction is what counts.
    cosine = (found * values[name]).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(values[name], axis=1)
    assert cosine.min() > 0.999


@pytest.mark.thorough
def test_in_check_mode(tmp_path: Path) -> None:
    """No race and no bad address in the kernels of these programs, and the same tokens in any order of threads."""
    artifact = Artifact.open(compile_fixture(tmp_path, "llama", "Q8_0", "sim", check=True))
    results = []
    for order in (0, 2):
        with closing(Engine(artifact, SimDevice(threads=1, order=order, seed=3), kv_tokens=256)) as engine:
            vocab = engine.plan.vocab
            for kind in ("filtered", "biased", "dry", "logprobs", "typical", "mirostat"):
                engine.add([1, 2, 3], params(kind, max_tokens=4), Rule(vocab))
            outputs = finish(engine)
            results.append([[(o.token, o.logprob) for o in outputs[i]] for i in sorted(outputs)])
            assert np.isfinite(engine.hidden([1, 2, 3])).all()
    assert results[0] == results[1]
