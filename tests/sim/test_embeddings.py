"""Embeddings of a file like Qwen3-Embedding's against a float64 pass over the same file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dense_truth import Truth
from imp_codegen.compiler import CompileOptions, compile_model
from imp_runtime.engine import Engine
from imp_server.api.bodies.prompts import token_ids
from imp_server.engine.whole_texts import pooled
from imp_server.model import Model
from model_checks import quiet
from small_gguf import VOCAB, byte_letters, write_gguf

TEXT = "the day"


@pytest.mark.parametrize(("number", "name"), [(1, "mean"), (2, "cls"), (3, "last")])
def test_pooling_and_end_of_text(tmp_path: Path, number: int, name: str) -> None:
    keys = {"pooling_type": number, "tokenizer.ggml.add_eos_token": True}
    source = write_gguf(tmp_path / "m.gguf", "qwen3", keys)
    compile_model(source, tmp_path / "m.impc", ("sim",), CompileOptions(), quiet)
    with Model(Engine.load(tmp_path / "m.impc", target="sim")) as model:
        (tokens,) = token_ids(model, TEXT, "input", end=True)
        (found,) = pooled(model.engine.hidden(tokens), model.plan.pooling)
    letters = [*byte_letters(), "th"]
    spelled = ["th", *TEXT[2:].replace(" ", "\u0120")]
    assert tokens == [letters.index(each) for each in spelled] + [VOCAB - 1]
    hidden = Truth(source).hidden(tokens)
    vector = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[name]
    np.testing.assert_allclose(found, vector / np.linalg.norm(vector), atol=1e-3)
