"""`imp perplexity` of compiled models, against transformers' logits and against plain numpy over the engine's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine
from imp_runtime.perplexity import measure, scored_logits
from imp_server.cli import execute
from imp_server.generation.tokenizer import Tokenizer
from model_checks import FIXTURES, compile_fixture, kl_divergence, quiet

CONTEXT = 32
SAID = "The river rose in the night, and 3 boats were gone: [1, 22, 333]. " * 3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("perplexity")
    found = {quant: compile_fixture(folder, "qwen3", quant, "sim") for quant in ("Q8_0", "Q4_K_M")}
    (folder / "text.txt").write_text(SAID, "utf-8")
    return {**found, "text": folder / "text.txt", "llama": compile_fixture(folder, "llama", "Q8_0", "sim")}


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    exact = logits.astype(np.longdouble)
    return exact - np.log(np.exp(exact).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_K_M"])
def test_as_near_to_the_truth_as_the_format_allows(models: dict[str, Path], quant: str) -> None:
    """Of the fixture's text, by transformers' logits of the dequantised weights."""
    truth = np.load(FIXTURES / "qwen3" / f"{quant}.npz")
    tokens = truth["prompt_ids"].astype(np.int64)
    half = slice(len(tokens) // 2, len(tokens) - 1)
    told = log_probabilities(truth["logits"][half])[np.arange(23), tokens[25:]]
    with Engine.load(models[quant], target="sim") as engine:
        chunks = tokens[None]
        found = measure(scored_logits(engine, chunks), chunks, quiet, base=iter([truth["logits"][half]]))
        kl = kl_divergence(truth["logits"][half], engine.logits(tokens.tolist())[half])
    assert found.divergence is not None
    assert found.divergence.perplexity.value == pytest.approx(float(np.exp(-told.mean())), rel=1e-9)
    assert found.divergence.kl.value == pytest.approx(kl.mean(), rel=1e-9)
    assert found.divergence.kl.value <= truth["peer_kl"][half].mean()
    # By Pinsker's inequality no probability is off by more.
    assert found.divergence.rms_change.value <= np.sqrt(found.divergence.kl.value / 2)
    assert found.perplexity.value == pytest.approx(float(np.exp(-told.mean())), rel=0.02)


def imp(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    assert execute(["perplexity", *map(str, arguments), "--target", "sim", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_command(models: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Perplexity, divergence from another quantisation and from itself, from models and from files."""
    q8, q4, text = models["Q8_0"], models["Q4_K_M"], models["text"]
    base = tmp_path / "q8.npz"
    options = ("--text", text, "--context", f"{CONTEXT}")
    alone = imp(capsys, q8, *options, "--save-logits", base)
    other = imp(capsys, q4, *options, "--against", q8)
    saved = imp(capsys, q4, "--text", text, "--logits", base)
    own = imp(capsys, q8, *options, "--against", q8)
    tokens = Tokenizer(Artifact.open(q8)).encode(SAID, special=True)
    count = len(tokens) // CONTEXT
    assert (alone["tokens"], alone["chunks"], alone["scored"]) == (len(tokens), count, 15 * count)
    logits: dict[Path, list[np.ndarray]] = {q8: [], q4: []}
    targets = np.concatenate([tokens[i * CONTEXT + 17 : (i + 1) * CONTEXT] for i in range(count)])
    for file, rows in logits.items():
        with Engine.load(file, target="sim") as engine:
            rows += [engine.logits(tokens[i * CONTEXT : (i + 1) * CONTEXT])[16:31] for i in range(count)]
    p, q = (np.concatenate(logits[file]) for file in (q8, q4))
    surprise = -log_probabilities(p)[np.arange(len(p)), targets]
    assert alone["perplexity"]["value"] == pytest.approx(float(np.exp(surprise.mean())), rel=1e-6)
    assert alone["divergence"] is None
    found = other["divergence"]
    assert found["kl"]["value"] == pytest.approx(kl_divergence(p, q).mean(), rel=1e-6)
    assert found["kl_max"] == pytest.approx(kl_divergence(p, q).max(), rel=1e-6)
    assert found["same_best"]["value"] == pytest.approx((p.argmax(axis=1) == q.argmax(axis=1)).mean())
    assert found["perplexity"] == alone["perplexity"]
    assert saved["context"] == CONTEXT
    assert saved["divergence"]["kl"]["value"] == pytest.approx(found["kl"]["value"], rel=1e-3)
    assert (own["divergence"]["kl"]["value"], own["divergence"]["kl_max"]) == (0, 0)
    assert base.stat().st_size == pytest.approx(2 * 512 * 15 * count, abs=3000)


def test_a_chunk_begins_as_the_model_wants(models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = imp(capsys, models["llama"], "--text", models["text"], "--context", "64")
    with Engine.load(models["llama"], target="sim") as engine:
        begin = engine.plan.bos_token
        assert engine.plan.add_bos
        tokens = Tokenizer(engine.artifact).encode(SAID, special=True)
        chunks = [[begin, *tokens[i + 1 : i + 64]] for i in range(0, len(tokens) - 63, 64)]
        surprise = [
            -log_probabilities(engine.logits(chunk)[32:63])[np.arange(31), np.array(chunk[33:])] for chunk in chunks
        ]
    assert len(chunks) > 1
    assert tokens[64] != begin
    assert found["perplexity"]["value"] == pytest.approx(float(np.exp(np.mean(surprise))), rel=1e-6)


def test_the_figures_are_llama_perplexitys(
    models: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Those that it gave for the same two files and nine times the same sentence, built from llama-cpp-python 0.3.36:

        llama-perplexity -m llama-Q8_0.gguf -f text.txt -c 32 -b 32 --kl-divergence-base base
        llama-perplexity -m llama-Q4_K_M.gguf -c 32 -b 32 --kl-divergence-base base --kl-divergence

    Both engines round activations to int8, but not alike: logits differ by a tenth of what the files do.
    """
    text, small = tmp_path / "text.txt", compile_fixture(tmp_path, "llama", "Q4_K_M", "sim")
    text.write_text(SAID * 3, "utf-8")
    found = imp(capsys, small, "--text", text, "--context", "32", "--against", models["llama"])
    other = found["divergence"]
    assert (found["chunks"], found["scored"]) == (11, 165)
    for (figure, value), error in (
        ((other["perplexity"], 292137.0474), 90021.66061),
        ((found["perplexity"], 282056.1799), 87847.97087),
    ):
        assert np.log(figure["value"] / value) == pytest.approx(0, abs=0.04)
        assert figure["error"] == pytest.approx(error, rel=0.04)
    for name, value, error in (
        ("kl", 0.389057, 0.018491),
        ("same_best", 0.61818, 0.03794),
        ("rms_change", 0.0022, 0.00058),
    ):
        assert other[name]["value"] == pytest.approx(value, rel=0.05), name
        assert other[name]["error"] == pytest.approx(error, rel=0.1), name
    assert other["kl_median"] == pytest.approx(0.358452, rel=0.05)
    assert other["kl_99"] == pytest.approx(1.043893, rel=0.05)
    assert other["kl_max"] == pytest.approx(1.160694, rel=0.1)


def test_table(models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["perplexity", models["Q4_K_M"], "--text", models["text"], "--against", models["Q8_0"]]
    assert execute([*map(str, arguments), "--target", "sim", "--context", f"{CONTEXT}"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("qwen3-Q4_K_M-sim.impc, sim on CPU simulator: ")
    for part in ("perplexity of qwen3-Q8_0-sim.impc", "KL divergence from that, mean, nats", "same likeliest token, %"):
        assert part in shown.out
    assert "perplexity done" in shown.err


def test_bad_input(models: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bad, base, model = tmp_path / "bad.txt", tmp_path / "base.npz", models["Q8_0"]
    bad.write_bytes(b"abc \xff def")
    imp(capsys, model, "--text", models["text"], "--context", "32", "--save-logits", base)
    some = ("--text", models["text"], "--context", "32")
    for arguments, message in (
        ((model, "--text", bad), "is not UTF-8: byte 4 is 0xff"),
        ((model, "--text", tmp_path / "none.txt"), "none.txt: No such file"),
        ((model, "--context", "2000"), "the context is "),
        ((model, "--text", models["text"], "--context", "500"), "give a longer text or a shorter context"),
        ((model, "--against", model, "--logits", base), "give one of them"),
        ((model, "--logits", bad), "bad.txt: is no file of imp perplexity"),
        ((model, "--text", models["text"], "--context", "16", "--logits", base), "others than the"),
        ((models["llama"], *some, "--against", model), "have different tokenizers"),
        ((models["llama"], *some, "--logits", base), "whose tokenizer differs"),
    ):
        assert execute(["perplexity", *map(str, arguments), "--target", "sim"]) == 2, message
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("imp: error: ")
        assert message in last
