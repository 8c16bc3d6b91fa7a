"""The Python facade over an engine whose tokens are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fake_engine import IM_END, IM_START, FakeEngine, encode, write_tiny_artifact
from imp_runtime.errors import ImpError
from imp_server import Model
from imp_server.generation.options import Options

REPLY = "one two 🙂 three"


def make(folder: Path, reply: str = REPLY, **blobs: bytes) -> tuple[Model, FakeEngine]:
    artifact = write_tiny_artifact(folder / "tiny.impc", blobs={name.replace("_", "."): b for name, b in blobs.items()})
    engine = FakeEngine(artifact, lambda prompt: encode(reply))
    return Model(engine), engine  # type: ignore[arg-type]  # the engine's twin


def test_generate_stream_chat_logits(tmp_path: Path) -> None:
    model, engine = make(tmp_path)
    assert model.generate("def add(") == REPLY
    assert engine.prompts[-1] == tuple(encode("def add("))
    stream = model.stream("x")
    assert "".join(stream) == REPLY
    assert (stream.prompt_tokens, stream.tokens, stream.finish) == (1, len(encode(REPLY)), "stop")
    assert model.chat([{"role": "user", "content": "Hi"}]) == REPLY
    assert engine.prompts[-1] == tuple(encode("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"))
    logits = model.logits("ab c")
    assert logits.shape == (len(encode("ab c")), 512)
    assert logits.dtype == np.float32


def test_length_and_stop_strings(tmp_path: Path) -> None:
    model, engine = make(tmp_path)
    stream = model.stream("x", max_tokens=2)
    assert "".join(stream) == model.tokenizer.decode(encode(REPLY)[:2])
    assert stream.finish == "length"
    stream = model.stream("x", stop="o 🙂")
    assert "".join(stream) == "one tw"
    assert stream.finish == "stop"
    assert not engine.live
    assert model.generate("x", stop=["nothing", "two"]) == "one "


def test_a_generation_that_ends_inside_a_character_holds_it_back(tmp_path: Path) -> None:
    model, _ = make(tmp_path, "a🙂")
    most = len(encode("a🙂")) - 1
    assert model.generate("x", max_tokens=most) == "a"
    assert model.generate("x", max_tokens=most, stop="\ufffd") == "a"
    assert model.generate("x", max_tokens=most, stop="\ufffd!") == "a"


def test_leaving_a_stream_frees_its_sequence_and_others_go_on(tmp_path: Path) -> None:
    model, engine = make(tmp_path)
    first, second = model.stream("a"), model.stream("b")
    got = next(first) + next(first)
    assert len(engine.live) == 1
    got += next(second)
    assert len(engine.live) == 2
    first.close()
    assert [sequence.prompt for sequence in engine.live] == [tuple(encode("b"))]
    assert "".join(second).endswith("three")


def test_interleaved_streams_lose_nothing(tmp_path: Path) -> None:
    model, _ = make(tmp_path)
    streams = [model.stream(text) for text in "abc"]
    texts = [""] * 3
    for _ in range(40):
        for i, stream in enumerate(streams):
            texts[i] += next(stream, "")
    assert texts == [REPLY] * 3


def test_recommended_sampling_and_what_overrides_it(tmp_path: Path) -> None:
    stored = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "do_sample": True, "eos_token_id": [IM_END]}
    model, engine = make(tmp_path, generation_json=json.dumps(stored).encode())
    model.generate("x", max_tokens=1, temperature=0.0, seed=-3)
    params = engine.params[-1]
    assert (params.temperature, params.top_k, params.top_p, params.seed) == (0.0, 20, 0.95, -3)
    greedy, engine = make(tmp_path, generation_json=b'{"temperature": 0.6, "do_sample": false}')
    greedy.generate("x", max_tokens=1)
    assert engine.params[-1].temperature == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"top_k": 1.5}, "top_k is 1.5; it must be an integer"),
        ({"top_p": "a"}, "top_p is 'a'; it must be a number"),
    ],
)
def test_options_out_of_range(tmp_path: Path, options: Options, message: str) -> None:
    with pytest.raises(ImpError, match=message):
        make(tmp_path)[0].generate("x", **options)


def test_prompts_that_do_not_fit(tmp_path: Path) -> None:
    model, _ = make(tmp_path)
    with pytest.raises(ImpError, match=r"context length is 512 tokens, .*the prompt has 512 and exceeds"):
        model.generate("!" * 512)
    with pytest.raises(ImpError, match="prompt is empty"):
        model.generate("")


@pytest.mark.parametrize("stored", [b"[1]", b"{", b'{"temperature": "hot"}'])
def test_damaged_generation_defaults(tmp_path: Path, stored: bytes) -> None:
    with pytest.raises(ImpError, match=r"generation\.json|temperature is 'hot'"):
        make(tmp_path, generation_json=stored)


def test_templates_get_the_end_of_sequence_token_of_the_file(tmp_path: Path) -> None:
    """Of several stop tokens the first need not be it."""
    blobs = {"chat_template.jinja": b"{{ bos_token }}{{ eos_token }}"}
    changes = {"stop_tokens": (IM_START, IM_END), "eos_token": IM_END, "bos_token": IM_START}
    artifact = write_tiny_artifact(tmp_path / "eos.impc", blobs=blobs, **changes)
    model = Model(FakeEngine(artifact, lambda _: []))  # type: ignore[arg-type]
    assert model.chat_prompt([{"role": "user", "content": "x"}]) == [IM_START, IM_END]
