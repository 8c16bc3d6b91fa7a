"""Texts that are tokenized by pieces have the tokens of the whole, for every tokenizer and wherever they are cut."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator

import pytest
import tokenizers
from test_tokenizer import TRUTHS, build
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from fake_engine import reference_tokenizer
from imp_server.generation import pieces
from imp_server.generation.tokenizer import in_pieces

Encode = Callable[[str], list[int]]
WORDS = (
    "word",
    " and",
    "\n",
    "  ",
    " ",
    "é",
    "e\u0301",
    "日本",
    "🙂",
    "12",
    "'s",
    "<|",
    "|>",
    "<",
    "user\n",
    "\t",
    "a" * 40,
)


@pytest.fixture(params=[0, 1, 12], autouse=True)
def _least(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "LEAST", request.param)


def texts(backend: tokenizers.Tokenizer, seed: int, count: int) -> Iterator[str]:
    """Texts with added tokens in them, and what they grow into."""
    rng = random.Random(seed)
    added = [token.content for token in backend.get_added_tokens_decoder().values()]
    parts = [*WORDS, *(text[: len(text) // 2] for text in added[:4])]
    for _ in range(count):
        text = ""
        for _ in range(rng.randrange(1, 5)):
            text += "".join(rng.choice(added if rng.random() < 0.3 else parts) for _ in range(rng.randrange(12)))
            yield text


def whole(backend: tokenizers.Tokenizer) -> Encode:
    return lambda text: backend.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", TRUTHS)
def test_of_every_model(name: str) -> None:
    _, backend, _ = build(name)
    for literally in (False, True):
        backend.encode_special_tokens = literally
        encoded, expected = in_pieces(backend), whole(backend)
        for text in texts(backend, 1, 30):
            assert encoded.encode(text) == expected(text), text


def test_of_tokens_that_take_what_is_beside_them() -> None:
    """Spaces at their left or right, whole words only, found in the normalized text, beginnings of one another."""
    backend = reference_tokenizer_of_its_own()
    plain = {"normalized": False, "special": True}
    backend.add_special_tokens(
        [
            AddedToken("<|left|>", lstrip=True, **plain),
            AddedToken("<|right|>", rstrip=True, **plain),
            AddedToken("word", single_word=True, **plain),
            AddedToken("<|im_end|>\n", **plain),
            AddedToken("d<|im_", **plain),
            AddedToken("cafe\u0301", normalized=True, special=True),
        ]
    )
    encoded, expected = in_pieces(backend), whole(backend)
    for text in texts(backend, 2, 400):
        assert encoded.encode(text) == expected(text), text


def test_of_a_space_before_the_first_piece_alone() -> None:
    backend = tokenizers.Tokenizer(models.BPE({"\u2581": 0, "a": 1, "<x>": 2, "\u2581a": 3}, [("\u2581", "a")]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.add_special_tokens([AddedToken("<x>", normalized=False)])
    encoded = in_pieces(backend)
    for text, ids in (("a<x>a a", [3, 2, 1, 3]), ("<x>a", [2, 1]), ("a<x>", [3, 2]), ("a", [3])):
        assert encoded.encode(text) == ids == whole(backend)(text)
    backend.normalizer = normalizers.Prepend("\u2581")
    backend.pre_tokenizer = None
    encoded = in_pieces(backend)
    for text in ("a<x>a", "<x>", "a<x><x>a"):
        assert encoded.encode(text) == whole(backend)(text)


def test_what_was_there_before_is_not_tokenized_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    backend = reference_tokenizer()

    def noted(text: str) -> list[int]:
        seen.append(text)
        return whole(backend)(text)

    monkeypatch.setattr(pieces, "MOST", 5000)
    kept = in_pieces(backend)
    kept._whole = noted
    talk = "".join(f"<|im_start|>user\n{i} {'question ' * 20}<|im_end|>\n" for i in range(8))
    assert kept.encode(talk) == whole(backend)(talk)
    assert sum(map(len, seen)) >= len(talk)
    seen.clear()
    longer = talk + "<|im_start|>assistant\n"
    assert kept.encode(longer) == whole(backend)(longer)
    assert sum(map(len, seen)) < 250
    # No more is kept than may be, and what was used last is.
    for i in range(40):
        kept.encode(f"{i} {'other ' * 30}<|im_end|>{i}")
    assert sum(len(text) for _, text, _ in kept._kept) == kept._characters <= 5000
    seen.clear()
    kept.encode(talk)
    assert sum(map(len, seen)) >= len(talk)
    seen.clear()
    kept.encode("x" * 6000)
    kept.encode("x" * 6000)
    assert len(seen) == 2


def test_from_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MOST", 2000)
    backend = reference_tokenizer()
    kept, expected = in_pieces(backend), whole(backend)
    wrong: list[str] = []

    def run(seed: int) -> None:
        wrong.extend(text for text in texts(backend, seed, 40) if kept.encode(text) != expected(text))

    threads = [threading.Thread(target=run, args=(seed % 2,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sum(len(text) for _, text, _ in kept._kept) == kept._characters


def reference_tokenizer_of_its_own() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(reference_tokenizer().to_str())
