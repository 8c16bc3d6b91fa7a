"""From tokens to events: reply parsers, stop strings on content only, log-probabilities that wait for their text."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_engine import IM_END, IM_START, encode, reference_tokenizer, write_tiny_artifact
from imp_runtime.sampling import SamplingParams
from imp_server import parsers
from imp_server.generation.events import FLOOR, Event, Piece, Reasoning, Text, ToolArguments, ToolClose, ToolOpen
from imp_server.generation.request import Request, ThinkWatch
from imp_server.generation.tokenizer import Tokenizer
from imp_server.generation.transcript import Transcript


@dataclass
class Output:
    token: int
    finish: str | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Bars:
    """A parser for tests: `~r:x~` is reasoning x, `~t:x~` a call with the arguments x, the rest content."""

    def __init__(self) -> None:
        self._text = ""
        self._place = 0
        self._calls = 0

    def push(self, text: str) -> list[Piece]:
        self._text += text
        pieces: list[Piece] = []
        while self._text:
            before, bar, rest = self._text.partition("~")
            if before:
                pieces.append(self._said(before))
            if bar and "~" not in rest:
                self._text = bar + rest
                return pieces
            inside, _, self._text = rest.partition("~")
            self._place += len(inside) + 2 if bar else 0
            if inside.startswith("r:"):
                pieces.append(Reasoning(inside[2:]))
            elif inside:
                pieces += [ToolOpen(self._calls, "id", "f"), ToolArguments(self._calls, inside), ToolClose(self._calls)]
                self._calls += 1
        return pieces

    def finish(self, *, cut: bool = False) -> list[Piece]:
        text, self._text = self._text, ""
        return [self._said(text)] if text else []

    def _said(self, text: str) -> Text:
        self._place += len(text)
        return Text(text, places=((self._place - len(text), self._place),))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(write_tiny_artifact(tmp_path_factory.mktemp("transcript") / "tiny.impc"))


def run(
    tokenizer: Tokenizer, tokens: Sequence[int], finish: str = "stop", **wishes: object
) -> tuple[list[Event], Transcript]:
    logprobs = wishes.pop("logprobs", False)
    request = Request((1,), SamplingParams(top_logprobs=1 if logprobs else None), **wishes)  # type: ignore[arg-type]
    transcript = Transcript(tokenizer, request)
    events: list[Event] = []
    outputs = [Output(token) for token in tokens]
    if finish == "stop":
        outputs.append(Output(IM_END))
    outputs[-1].finish = finish
    for i, output in enumerate(outputs):
        if logprobs:
            output.logprob, output.top = -i / 10, ((output.token, -i / 10),)
        events += transcript.take(output)  # type: ignore[arg-type]  # the engine's twin
        if transcript.finish is not None:
            break
    return events, transcript


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def test_a_stop_string_sees_content_only(tokenizer: Tokenizer) -> None:
    events, transcript = run(tokenizer, encode("~r:a STOP b~c~t:STOP~d STOP e"), parser=Bars, stop=("STOP",))
    assert text_of(events) == "cd "
    assert [event.text for event in events if isinstance(event, Reasoning)] == ["a STOP b"]
    assert transcript.finish == "tool_calls"
    assert transcript.finished().stop_string == "STOP"


def test_a_held_beginning_comes_before_a_call(tokenizer: Tokenizer) -> None:
    events, transcript = run(tokenizer, encode("a ST~t:x~OP"), parser=Bars, stop=("STOP",))
    kinds = [type(event) for event in events]
    assert text_of(events) == "a STOP"
    assert kinds.index(ToolOpen) > kinds.index(Text)
    assert transcript.finished().stop_string is None


def test_the_stop_string_can_be_kept(tokenizer: Tokenizer) -> None:
    events, transcript = run(tokenizer, encode("one two three"), stop=("two",), keep_stop=True)
    assert (text_of(events), transcript.finish) == ("one two", "stop")


def test_a_call_that_max_tokens_cuts_is_no_content(tokenizer: Tokenizer) -> None:
    parser = functools.partial(
        parsers.for_model("", "hermes").start, "", [{"type": "function", "function": {"name": "f"}}]
    )
    cut = encode('Ok.\n<tool_call>\n{"name": "f')
    assert text_of(run(tokenizer, cut, "length", parser=parser)[0]) == "Ok."
    assert text_of(run(tokenizer, cut, "stop", parser=parser)[0]) == 'Ok.\n<tool_call>\n{"name": "f'
    called = encode('<tool_call>\n{"name": "f", "arguments": {}}\n</to')
    events, transcript = run(tokenizer, called, "length", parser=parser)
    assert {type(event) for event in events} == {ToolOpen, ToolArguments, ToolClose}
    assert transcript.finish == "length"


@pytest.mark.parametrize(("finish", "expected"), [("stop", "tool_calls"), ("length", "length")])
def test_the_reason_after_a_call(tokenizer: Tokenizer, finish: str, expected: str) -> None:
    assert run(tokenizer, encode("~t:x~"), finish, parser=Bars)[1].finish == expected
    assert run(tokenizer, encode("text"), finish, parser=Bars)[1].finish == finish


def test_special_tokens_reach_the_parser_and_not_the_reader(tokenizer: Tokenizer) -> None:
    tokens = [*encode("a"), IM_START, *encode("b")]
    assert text_of(run(tokenizer, tokens, parser=Bars)[0]) == "ab"
    assert text_of(run(tokenizer, tokens)[0]) == "ab"
    heard: list[str] = []

    class Listening(Bars):
        def push(self, text: str) -> list[Piece]:
            heard.append(text)
            return super().push(text)

    run(tokenizer, tokens, parser=Listening)
    assert "<|im_start|>" in "".join(heard)


def test_reasoning_is_counted(tokenizer: Tokenizer) -> None:
    thoughts = encode("~r:one two three~")
    finished = run(tokenizer, [*thoughts, *encode("four")], parser=Bars)[1].finished()
    assert finished.completion_tokens == len(thoughts) + len(encode("four"))
    assert 0 < finished.reasoning_tokens <= len(thoughts)


@given(text=st.text("ab 🙂ö", max_size=12), stop=st.text("ab ", min_size=1, max_size=3), parsed=st.booleans())
def test_logprobs_are_those_of_the_text_shown(tokenizer: Tokenizer, text: str, stop: str, parsed: bool) -> None:
    tokens = encode(text)
    events, _ = run(tokenizer, tokens, stop=(stop,), logprobs=True, parser=Bars if parsed else None)
    shown = text.partition(stop)[0]
    assert text_of(events) == shown
    logprobs = [each for event in events if isinstance(event, Text) for each in event.logprobs]
    assert [each.logprob for each in logprobs] == [-i / 10 for i in range(len(logprobs))]
    raw = b"".join(each.bytes for each in logprobs)
    assert shown.encode().startswith(raw)
    rest = shown.encode()[len(raw) :]
    assert len(rest) < max(len(reference_tokenizer().decode([token]).encode()) for token in (*tokens, 1)) + 4
    assert stop in text or not rest


THINKS = (("<think>\n", False), ("hm, hello", False), ("\n</think>\n\n", False))
CALLS = (("\n<tool_call>\n", False), ('{"name": "f", "arguments": {"a": "hello"}}', False), ("\n</tool_call>", False))


@pytest.mark.parametrize(
    ("family", "tail", "said"),
    [
        ("hermes", "", (*THINKS, ("hello 🙂 you", True))),
        ("hermes", "", (*THINKS, ("hello", True), *CALLS)),
        ("hermes", "", (("hello", True), *CALLS, *CALLS)),
        ("hermes", "", (("a <tool", True), ("_x> b", True))),
        ("hermes", "", (("<tool_call>", True), (" hello", True))),  # that is no call
        ("hermes", "<|im_start|>assistant\n<think>\n", (("hello", False), ("</think>", False), ("\n\n", False),
         ("<b> hello", True))),
        ("harmony", "<|start|>assistant", (("<|channel|>analysis<|message|>", False), ("hello", False),
         ("<|end|><|start|>assistant<|channel|>final<|message|>", False), ("hello", True))),
        ("llama3", "", (('{"name": "f", "parameters": {}}', False),)),
        ("llama3", "", (('{"name": "g"}', True),)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ends", [False, True])
def test_logprobs_are_those_of_the_content_tokens(
    tokenizer: Tokenizer, family: str, tail: str, said: tuple[tuple[str, bool], ...], ends: bool
) -> None:
    """What is content and what is not is known here, since each part has tokens of its own."""
    parts = [(encode(text), content) for text, content in said]
    tokens = [token for part, _ in parts for token in part]
    expected = [token for part, content in parts if content for token in part]
    tools = [{"type": "function", "function": {"name": "f"}}]
    parser = functools.partial(parsers.for_model("", family).start, tail, tools)
    events, _ = run(tokenizer, [*tokens, IM_START] if ends else tokens, logprobs=True, parser=parser)
    logprobs = [each for event in events if isinstance(event, Text) for each in event.logprobs]
    assert b"".join(each.bytes for each in logprobs).decode() == text_of(events)
    assert [each.top[0][0] for each in logprobs] == [tokenizer.token(token)[0] for token in expected]


def test_a_token_that_is_content_in_part_counts(tokenizer: Tokenizer) -> None:
    parser = functools.partial(parsers.for_model("", "hermes").start, "<|im_start|>assistant\n<think>", None)
    tokens = [*encode("hm</think>"), *encode("\n"), *encode(" hello")]
    events, _ = run(tokenizer, tokens, logprobs=True, parser=parser)
    assert text_of(events) == "hello"
    assert (
        "".join(each.token for event in events if isinstance(event, Text) for each in event.logprobs).strip() == "hello"
    )


def test_no_infinite_numbers(tokenizer: Tokenizer) -> None:
    request = Request((1,), SamplingParams(top_logprobs=1))
    output = Output(encode("a")[0], None, float("-inf"), ((5, float("-inf")),))
    (piece,) = Transcript(tokenizer, request).take(output)  # type: ignore[arg-type]
    assert isinstance(piece, Text)
    assert piece.logprobs[0].logprob == piece.logprobs[0].top[0][2] == FLOOR


@pytest.mark.parametrize("inside", [False, True])
def test_the_watch_follows_tags_of_several_tokens(inside: bool) -> None:
    watch = ThinkWatch((1, 2), (3, 4), inside=inside)
    for token in (1, 2) if not inside else ():
        watch.accept(token)
    assert watch.inside
    states = []
    for token in (9, 3, 9, 3, 4, 9):
        watch.accept(token)
        states.append(watch.inside)
    assert states == [True, True, True, True, False, False]
    assert watch.tokens == 5


def test_bytes_of_every_token(tokenizer: Tokenizer) -> None:
    """A byte-level vocabulary has every single byte, and longer tokens are their parts."""
    found = {tokenizer.token(index)[1] for index in range(512)}
    assert {bytes((byte,)) for byte in range(256)} <= found
    for text in ("Hello 🙂 wörld", "\x00\xad\u0100", " \n\t"):
        assert b"".join(tokenizer.token(index)[1] for index in encode(text)).decode() == text
    assert tokenizer.token(IM_END) == ("<|im_end|>", b"<|im_end|>")
    assert tokenizer.token(100_000) == ("", b"")


def test_a_vocabulary_of_sentencepiece(tmp_path: Path) -> None:
    import tokenizers

    vocabulary = {"<unk>": 0, "▁Hi": 1, "<0xF0>": 2, "▁": 3}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    backend.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    )
    blobs = {"tokenizer.json": backend.to_str().encode()}
    tokenizer = Tokenizer(write_tiny_artifact(tmp_path / "tiny.impc", blobs=blobs))
    assert tokenizer.token(1) == (" Hi", b" Hi")
    assert tokenizer.token(2) == ("\ufffd", b"\xf0")
