"""A model in which one token makes NaN: what speaks of it fails by itself, and says why; the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from demo_server import serving
from imp_runtime.engine import Engine
from imp_runtime.errors import NotFiniteError
from imp_runtime.sampling import SamplingParams
from imp_server import Model
from nan_model import BAD, KINDS, check_only_one_ends, compile_nan_model


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_nan_model(tmp_path_factory.mktemp("nan"), "sim")


@pytest.fixture(scope="module")
def engine(artifact: Path) -> Iterator[Engine]:
    with closing(Engine.load(artifact, target="sim")) as loaded:
        yield loaded


def params(kind: dict[str, object]) -> SamplingParams:
    return SamplingParams(max_tokens=8, ignore_eos=True, seed=3, **kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "+".join(kind) or "greedy")
def test_only_the_sequence_that_has_it_ends(engine: Engine, kind: dict[str, object]) -> None:
    check_only_one_ends(engine, kind)


def test_it_is_an_error_of_whoever_asked(engine: Engine, artifact: Path) -> None:
    with pytest.raises(NotFiniteError, match="not all finite numbers"):
        list(engine.generate([5, BAD, 7], SamplingParams(max_tokens=8)))
    with Model.load(artifact, target="sim") as model, pytest.raises(NotFiniteError):
        list(model.outputs(model.request([5, BAD, 7], {"max_tokens": 4})))


@pytest.mark.parametrize("stream", [False, True])
def test_over_http(artifact: Path, stream: bool) -> None:
    asked = {"max_tokens": 4, "ignore_eos": True, "stream": stream, "model": "x"}
    with serving(artifact, "--any-model") as server, httpx.Client(base_url=server.url, timeout=60) as client:

        def ask(token: int) -> httpx.Response:
            return client.post("/v1/completions", json=asked | {"prompt": [5, token, 7]})

        before, failed, after = ask(6), ask(BAD), ask(6)
        assert before.status_code == after.status_code == 200
        assert client.get("/health").status_code == 200
    if not stream:
        assert failed.status_code == 500
        assert failed.json()["error"]["code"] == "logits_not_finite"
    assert "not all finite numbers" in failed.text
    assert "[DONE]" not in failed.text
