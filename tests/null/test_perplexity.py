"""Perplexity and divergence against the definition written out, token by token, in plain Python."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from imp_runtime.errors import ImpError
from imp_runtime.perplexity import Chunks, Floats, Score, chunks_of, measure, scored, scored_logits
from imp_runtime.saved_logits import SavedLogits, saving
from model_checks import quiet

VOCAB = 50
RNG = np.random.default_rng(5)
TEXT = RNG.integers(0, VOCAB, 210).tolist()


class Model:
    """Logits that depend on a token and its position; they come in uneven parts, as programs make them."""

    def __init__(self, seed: int, part: int = 7) -> None:
        self.table = np.random.default_rng(seed).normal(0, 3, (64, VOCAB, VOCAB)).astype(np.float32)
        self.part = part

    def row(self, token: int, position: int) -> Floats:
        return self.table[position, token]

    def logits_in_parts(self, tokens: Sequence[int], first: int = 0) -> Iterator[Floats]:
        rows = np.stack([self.row(token, i) for i, token in enumerate(tokens)])[first:]
        for start in range(0, len(rows), self.part):
            yield rows[start : start + self.part]


def probabilities(logits: Floats) -> list[float]:
    exact = [math.exp(float(x) - float(logits.max())) for x in logits]
    return [x / math.fsum(exact) for x in exact]


def places(chunks: Chunks) -> Iterator[tuple[int, int, int]]:
    """Of each token that llama-perplexity scores the one before it, where that stands, and itself."""
    for chunk in chunks.tolist():
        for position in range(len(chunk) // 2, len(chunk) - 1):
            yield chunk[position], position, chunk[position + 1]


def scored_by(model: Model, chunks: Chunks) -> Score:
    return measure(scored_logits(model, chunks), chunks, quiet)


def mean(values: list[float]) -> tuple[float, float]:
    """And its standard error."""
    middle = math.fsum(values) / len(values)
    spread = math.fsum((value - middle) ** 2 for value in values) / len(values)
    return middle, math.sqrt(spread / (len(values) - 1))


@pytest.mark.parametrize(("context", "count"), [(32, 6), (33, 6), (64, 3)])
@pytest.mark.parametrize("begin", [None, 3])
def test_definition(context: int, count: int, begin: int | None) -> None:
    chunks = chunks_of(TEXT, context, begin)
    model = Model(1)
    assert chunks.shape == (count, context)
    if begin is not None:
        assert set(chunks[:, 0].tolist()) == {begin}
    assert chunks[:, 1:].tolist() == [TEXT[i * context + 1 : (i + 1) * context] for i in range(count)]
    surprise = [-math.log(probabilities(model.row(before, at))[token]) for before, at, token in places(chunks)]
    value, error = mean(surprise)
    found = scored_by(model, chunks)
    assert found.scored == len(surprise) == count * scored(context)
    assert found.perplexity.value == pytest.approx(math.exp(value), rel=1e-9)
    assert found.perplexity.error == pytest.approx(math.exp(value) * error, rel=1e-9)
    assert found.divergence is None


def test_512_tokens_score_255() -> None:
    assert scored(512) == 255


def test_divergence() -> None:
    chunks = chunks_of(TEXT, 64, None)
    model, base = Model(1), Model(2, part=12)
    found = measure(scored_logits(model, chunks), chunks, quiet, base=scored_logits(base, chunks)).divergence
    assert found is not None
    kl, same, change, ratios = [], [], [], []
    for before, at, token in places(chunks):
        p, q = probabilities(base.row(before, at)), probabilities(model.row(before, at))
        kl.append(math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
        same.append(float(p.index(max(p)) == q.index(max(q))))
        change.append(q[token] - p[token])
        ratios.append(math.log(p[token] / q[token]))
    assert (found.kl.value, found.kl.error) == pytest.approx(mean(kl))
    ordered = sorted(kl)
    assert (found.kl_median, found.kl_max) == pytest.approx(((ordered[46] + ordered[45 + 1]) / 2, ordered[-1]))
    assert ordered[-3] < found.kl_99 < ordered[-1]
    assert (found.same_best.value, found.same_best.error) == pytest.approx(mean(same))
    assert (found.change.value, found.change.error) == pytest.approx(mean(change))
    assert found.rms_change.value == pytest.approx(math.sqrt(mean([x * x for x in change])[0]))
    assert found.ratio.value == pytest.approx(math.exp(mean(ratios)[0]))
    assert found.perplexity.value == pytest.approx(scored_by(base, chunks).perplexity.value)


def test_a_model_does_not_diverge_from_itself() -> None:
    chunks = chunks_of(TEXT, 64, None)
    found = measure(
        scored_logits(Model(1), chunks), chunks, quiet, base=scored_logits(Model(1, part=31), chunks)
    ).divergence
    assert found is not None
    assert (found.kl.value, found.kl_max, found.rms_change.value, found.ratio.value) == (0, 0, 0, 1)
    assert found.same_best.value == 1


def save(path: Path, model: Model, chunks: Chunks) -> None:
    with saving(path, chunks, VOCAB, "hash", "a model") as write:
        measure(scored_logits(model, chunks), chunks, quiet, save=write)


def test_saved_logits(tmp_path: Path) -> None:
    chunks, path = chunks_of(TEXT, 64, None), tmp_path / "saved.npz"
    save(path, Model(2), chunks)
    assert [each.name for each in tmp_path.iterdir()] == ["saved.npz"]
    with np.load(path) as arrays:
        assert arrays["logprobs"].dtype == np.float16
        assert arrays["logprobs"].shape == (3 * 31, VOCAB)
        assert arrays["tokens"].tolist() == chunks.tolist()
    saved = SavedLogits.open(path)
    assert (saved.vocab, saved.vocabulary, saved.model) == (VOCAB, "hash", "a model")
    assert saved.chunks.tolist() == chunks.tolist()

    def against(base: Iterator[Floats], model: Model) -> Score:
        return measure(scored_logits(model, chunks), chunks, quiet, base=base)

    own, exact = (
        against(saved.rows(32), Model(2)).divergence,
        against(scored_logits(Model(2), chunks), Model(1)).divergence,
    )
    other = against(saved.rows(32), Model(1)).divergence
    assert own is not None
    assert exact is not None
    assert other is not None
    assert 0 < own.kl.value < 1e-6
    assert own.same_best.value == 1
    assert other.kl.value == pytest.approx(exact.kl.value, rel=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_number_is_refused(bad: float, tmp_path: Path) -> None:
    chunks = chunks_of(TEXT, 64, None)
    model = Model(1)
    at = 40
    model.table[at, int(chunks[1, at]), 7] = bad
    wanted = f"for token {64 + at + 1} of the text are not all finite"
    with pytest.raises(ImpError, match=f"of the model {wanted}"):
        scored_by(model, chunks)
    with pytest.raises(ImpError, match=f"of the base {wanted}"):
        measure(scored_logits(Model(2), chunks), chunks, quiet, base=scored_logits(model, chunks))
    with pytest.raises(ImpError, match=wanted):
        save(tmp_path / "saved.npz", model, chunks)
    assert not list(tmp_path.iterdir())


def test_no_file_is_written_over(tmp_path: Path) -> None:
    chunks, path = chunks_of(TEXT, 64, None), tmp_path / "model.impc"
    path.write_bytes(b"a model")
    with pytest.raises(ImpError, match="exists already"):
        save(path, Model(1), chunks)
    assert path.read_bytes() == b"a model"


def test_too_short() -> None:
    with pytest.raises(ImpError, match="the text has 210 tokens, a chunk 211"):
        chunks_of(TEXT, 211, None)
    with pytest.raises(ImpError, match="expected at least 8"):
        chunks_of(TEXT, 7, None)


def test_files_that_are_others(tmp_path: Path) -> None:
    chunks, path = chunks_of(TEXT, 64, None), tmp_path / "saved.npz"
    save(path, Model(2), chunks)
    with np.load(path) as file:
        arrays = dict(file)
    other = tmp_path / "other.npz"
    for name, changed, message in (
        ("tokens", None, "lacks"),
        ("logprobs", None, "lacks"),
        ("tokens", arrays["tokens"].astype(np.float32), "tokens are float32"),
        ("tokens", arrays["tokens"][0], "tokens are int32"),
        ("logprobs", arrays["logprobs"][:-1], "expected float16"),
        ("logprobs", arrays["logprobs"].astype(np.float32), "expected float16"),
        ("model", np.array([object()]), "no file of imp perplexity"),
    ):
        kept = {key: value for key, value in arrays.items() if key != name}
        np.savez(other, allow_pickle=True, **kept, **({} if changed is None else {name: changed}))
        with pytest.raises(ImpError, match=message):
            SavedLogits.open(other)
    for text in (b"", b"no archive", path.read_bytes()[:-30]):
        other.write_bytes(text)
        with pytest.raises(ImpError, match="no file of imp perplexity"):
            SavedLogits.open(other)
    damaged = bytearray(path.read_bytes())
    damaged[-700] ^= 255  # within the log-probabilities
    other.write_bytes(damaged)
    assert zipfile.ZipFile(other).testzip() == "logprobs.npy"
    with pytest.raises(ImpError, match="damaged"):
        list(SavedLogits.open(other).rows(32))
