"""What a compiled model must satisfy on any target: close to the truth, equal tokens, every kernel like its twin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.models import load_named
from imp_codegen.ops import Sample
from imp_codegen.reference import Reference, artifact_weights
from imp_codegen.spec import ModelSpec
from imp_codegen.verify import verify
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "models" / "demo.gguf"
FIXTURES = ROOT / "tests" / "fixtures"
# Architecture and label of every file, or folder, that has its truth beside it.
MODELS = [(path.parent.name, path.stem) for path in sorted(FIXTURES.glob("*/*.npz")) if path.parent.name != "demo"]

# Nats, of weights that are floats, here BF16: the reference engine has 2e-4, as it rounds activations to as many bits.
# Queries of prompts are halfs, which in Qwen3's mixture makes 1.2e-5 of 8e-6.
FLOATS_KL = 2e-5
# The reference engine rounds to the same int8 codes; where such weights are most of the error, which ties go which way
# moves it by so much: numpy's own codes have 0.8 and 1.1 times its divergence.
SAME_CODES = {"MXFP4": 1.2, "hf-mxfp4": 1.2}
# Folders that the reference engine does not read, and the file whose experts are theirs.
PEERS = {"hf-mxfp4": "MXFP4"}
# Between the best two logits, of which an int8 activation's rounding may make either the best.
NARROW = 0.15
# In a model this small it moved one margin, of 0.25 in the truth and 0.27 in a prompt, by a third.
WIDER = {"nvfp4-ct": 0.25}
SHORT = 22  # positions of a sequence in which every kernel runs once, a prompt of 21 tokens and a step

# Nats, of a model's own weights: up to 1.4e-4 were seen on the simulator, and 2 to 6 where scores of keys behind the
# first 64 are doubled.
LONG_KL = 5e-4

# Sums in another order turn some int8 roundings of the demo the other way: logits were seen to differ by up to 0.14.
DEMO_MARGIN = 0.3


def quiet(step: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def source_of(architecture: str, label: str) -> Path:
    """The GGUF file of a format, or for a label like hf-bf16 the Hugging Face folder."""
    folder = FIXTURES / architecture
    if label.startswith("hf-"):
        return folder / "hf"
    return folder / label if (folder / label).is_dir() else folder / f"{architecture}-{label}.gguf"


def compile_fixture(folder: Path, architecture: str, quant: str, target: str, *, check: bool = False) -> Path:
    source = source_of(architecture, quant)
    output = folder / f"{architecture}-{quant}-{target}.impc"
    compile_model(source, output, (target,), CompileOptions(check=check), quiet)
    return output


def kl_divergence(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """KL(truth || found) of each row of logits, in nats."""
    p, q = (x.astype(np.float64) - x.max(axis=-1, keepdims=True) for x in (truth, found))
    p -= np.log(np.exp(p).sum(axis=-1, keepdims=True))
    q -= np.log(np.exp(q).sum(axis=-1, keepdims=True))
    return (np.exp(p) * (p - q)).sum(axis=-1)


def check_against_truth(engine: Engine, architecture: str, quant: str) -> None:
    """Logits no farther from the truth than the reference engine's, and the truth's greedy tokens."""
    truth = np.load(FIXTURES / architecture / f"{quant}.npz")
    prompt = truth["prompt_ids"].tolist()
    logits = engine.logits(prompt)
    assert np.isfinite(logits).all()
    peer = np.load(FIXTURES / architecture / f"{PEERS.get(quant, quant)}.npz")
    bar = peer["peer_kl"].mean() * SAME_CODES.get(quant, 1) if "peer_kl" in peer else FLOATS_KL
    assert kl_divergence(truth["logits"], logits).mean() <= bar
    greedy = list(engine.generate(prompt, SamplingParams(max_tokens=16, ignore_eos=True)))
    wanted, narrow = truth["greedy_ids"].tolist(), np.flatnonzero(truth["greedy_margin"] < WIDER.get(quant, NARROW))
    known = narrow[0] if narrow.size else len(wanted)
    assert greedy[:known] == wanted[:known]
    if narrow.size:  # what comes after a choice that rounding makes is compared after the truth's own tokens
        after = engine.logits(prompt + wanted[:-1])[len(prompt) - 1 :].argmax(axis=-1)
        assert [token for at, token in enumerate(after) if at not in narrow] == [
            token for at, token in enumerate(wanted) if at not in narrow
        ]


def check_long_prompt(engine: Engine, length: int = 200) -> None:
    """What a prompt of so many tokens predicts behind position 64, and the token that follows it.

    Beside the graph in numpy with the artifact's own weights, in which nothing is rounded: the logits of the middle one
    of those positions, as rounding may give a token of a mixture other experts; the token where it is clearly the best.
    """
    spec = ModelSpec.from_json(engine.artifact.read("spec.json"))
    graph = load_named(spec.architecture).build(spec)
    sample = graph.ops[-1]
    assert isinstance(sample, Sample)
    prompt = np.random.default_rng(7).integers(0, spec.vocab, length)
    expected = Reference(artifact_weights(engine.artifact), rounded=False).run(graph, prompt)[sample.logits.name]
    found = engine.logits(prompt.tolist())
    assert np.isfinite(found).all()
    assert np.median(kl_divergence(expected[64:], found[64:])) <= LONG_KL
    (token,) = engine.generate(prompt.tolist(), SamplingParams(max_tokens=1, ignore_eos=True))
    assert expected[-1].max() - expected[-1, token] <= NARROW


@contextmanager
def demo_on(target: str, folder: Path) -> Iterator[Engine]:
    """The demo model, compiled for a target."""
    artifact = folder / "demo.impc"
    compile_model(DEMO, artifact, (target,), CompileOptions(), quiet)
    with Engine.load(artifact, target=target) as engine:
        yield engine


def heldout(demo: Engine) -> list[int]:
    """Tokens of a text that the demo model has not seen."""
    tokenizer = Tokenizer.from_str(demo.artifact.read("tokenizer.json").decode())
    return tokenizer.encode((ROOT / "tools" / "demo_model" / "heldout.txt").read_text("utf-8")).ids


def check_demo(found: Engine, simulated: Engine, text: list[int]) -> None:
    """The demo's logits of prompts in programs of several sizes, and its tokens, as the simulator's own build has them.

    `text`: tokens that the model has not seen.
    """
    greedy, compared = SamplingParams(max_tokens=48, ignore_eos=True), 0
    for start, length in ((0, 1), (500, 7), (1000, 64), (2000, 129), (4000, 300)):
        prompt = text[start : start + length]
        tokens, expected = list(found.generate(prompt, greedy)), list(simulated.generate(prompt, greedy))
        reference, actual = (engine.logits(prompt + expected[:-1]) for engine in (simulated, found))
        assert kl_divergence(reference, actual).mean() < 1e-4
        best = np.sort(reference, axis=1)
        sure = best[:, -1] - best[:, -2] > DEMO_MARGIN
        assert (reference.argmax(axis=1) == actual.argmax(axis=1))[sure].all()
        until = len(expected) if sure[-len(expected) :].all() else int(np.argmin(sure[-len(expected) :]))
        assert tokens[:until] == expected[:until]
        compared += int(sure.sum())
    assert compared > 400, "margins so thin that hardly anything was compared"


def check_kernels(engine: Engine, tokens: int | None = None) -> None:
    """Every kernel's outputs equal its numpy twin's, in a sequence of so many tokens, where the context has them.

    On a GPU by itself one that every program of prompts has a part of; in the simulator, whose threads are slow, one
    prompt and a step.
    """
    if tokens is None and engine.target == "sim":
        tokens = SHORT
    report = verify(engine.artifact, engine.runner, quiet, tokens and min(tokens, engine.artifact.plan.context))
    assert len(report.rows) > 10
    assert report.first_failure is None, report.first_failure
