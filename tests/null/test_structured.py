"""Grammars as token masks: random walks through a mask give valid text only, and known valid text is never masked."""

# ruff: noqa: E501, RUF001  replies are not cut into lines, and DeepSeek's have these bars

from __future__ import annotations

import json
import pickle
import random
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.tokenizer.gguf import from_keys
from imp_runtime.constraint import TokenMask
from imp_server import parsers
from imp_server.generation.constraint import Held, Wait
from imp_server.generation.events import ToolArguments, ToolOpen
from imp_server.grammar import masks
from imp_server.grammar.masks import GrammarError

DEMO = Path(__file__).parents[2] / "models" / "demo.gguf"
PADDING = 37  # logits that no token stands behind
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|channel|>", "<|message|>", "<|end|>",
        "<|start|>", "<|constrain|>", '<|"|>', "<|tool_call>", "<tool_call|>")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Vocabulary:
    backend: tokenizers.Tokenizer
    vocab: int
    stop_tokens: Sequence[int]

    def encode(self, text: str) -> list[int]:
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.backend.decode(list(ids), skip_special_tokens=False))


@cache
def vocabulary(*, tags: bool = False) -> Vocabulary:
    """The demo model's, with or without tokens for the tags of the families."""
    with closing(open_checkpoint(DEMO)) as checkpoint:
        files = from_keys(checkpoint.metadata)
    backend = tokenizers.Tokenizer.from_str(files.tokenizer_json)
    if tags:
        backend.add_special_tokens(list(TAGS))
    return Vocabulary(backend, backend.get_vocab_size() + PADDING, files.stop_tokens)


def special_tokens(vocab: Vocabulary) -> dict[str, int]:
    """The special tokens by their text."""
    added = vocab.backend.get_added_tokens_decoder()
    return {token.content: index for index, token in added.items() if token.special}


def allowed(mask: TokenMask, vocab: Vocabulary) -> np.ndarray:
    """Ids of the allowed tokens, after the form of the mask is checked."""
    words = mask.mask()
    assert words is not None
    assert words.dtype == np.uint32
    assert words.shape == (-(-vocab.vocab // 32),)
    ids = np.nonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))[0]
    assert len(ids)
    assert ids.max() < vocab.vocab - PADDING
    return ids


def begin(held: Held, vocab: Vocabulary) -> TokenMask:
    """The mask of a reply, from what has been sent to another process."""
    return masks.start((pickle.loads(pickle.dumps(held)),), vocab)


def walk(held: Held, vocab: Vocabulary, seed: int) -> str:
    """Text of random allowed tokens; ends at a random place where it may."""
    choose, mask, ids = random.Random(seed), begin(held, vocab), []
    for _ in range(600):
        choices = allowed(mask, vocab)
        stops = set(choices) & set(vocab.stop_tokens)
        if mask.done():
            assert stops == set(choices)
        if stops and (mask.done() or choose.random() < 0.3):
            return vocab.decode(ids)
        token = int(choose.choice([token for token in choices if token not in stops]))
        mask.accept(token)
        ids.append(token)
    raise AssertionError(f"the walk never ends: {vocab.decode(ids)!r}")


def fits(held: Held, vocab: Vocabulary, text: str) -> bool:
    """Whether all tokens of `text` are allowed, one after the other, and then a stop token."""
    mask = begin(held, vocab)
    for token in vocab.encode(text):
        if token not in allowed(mask, vocab):
            return False
        mask.accept(token)
    return bool(set(vocab.stop_tokens) & set(allowed(mask, vocab)))


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "count": {"type": "integer", "minimum": -20, "maximum": 300},
        "kind": {"enum": ["a", 2, None]},
        "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        "inner": {"$ref": "#/$defs/inner"},
    },
    "required": ["name", "count", "list"],
    "additionalProperties": False,
    "$defs": {
        "inner": {
            "type": "object",
            "properties": {"x": {"type": "string", "pattern": "^[ab]{2,3}$"}},
            "required": ["x"],
            "additionalProperties": False,
        }
    },
}


def check_schema(text: str) -> None:
    value = json.loads(text)
    assert {"name", "count", "list"} <= value.keys() <= SCHEMA["properties"].keys()
    assert isinstance(value["name"], str)
    assert len(value["name"]) <= 6
    assert type(value["count"]) is int
    assert -20 <= value["count"] <= 300
    assert value.get("kind") in ("a", 2, None)
    assert 1 <= len(value["list"]) <= 3
    assert all(type(item) is bool for item in value["list"])
    if "inner" in value:
        assert value["inner"].keys() == {"x"}
        assert re.fullmatch("[ab]{2,3}", value["inner"]["x"])


KINDS: list[tuple[masks.Kind, str, Callable[[str], object], list[str], list[str]]] = [
    ("json_schema", json.dumps(SCHEMA), check_schema,
     ['{"name": "é日", "count": -7, "list": [true]}', '{"name":"","count":300,"kind":null,"list":[true,false],"inner":{"x":"ab"}}',
      '{\n  "name": "a",\n  "count": 0,\n  "list": [\n    false\n  ]\n}'],
     ['{"count": 1}', '{"name": "a", "count": 301, "list": [true]}', '{"name": 1', '{"name": "a", "other"', "[1]", ""]),
    ("regex", r"[a-c]{2,4}(-[0-9]{1,3})?", lambda text: re.fullmatch(r"[a-c]{2,4}(-[0-9]{1,3})?", text) or pytest.fail(text),
     ["ab", "abca-12"], ["a", "abcd", "ab-", "abcab"]),
    ("gbnf", 'root ::= item ("," item)? "!"\nitem ::= "yes" | "no" [0-9]',
     lambda text: re.fullmatch(r"(yes|no[0-9])(,(yes|no[0-9]))?!", text) or pytest.fail(text), ["yes!", "no1,yes!"], ["yes", "no!", "yes,!"]),
    ("lark", 'start: "(" word ("," word)? ")"\nword: /[xy]{1,3}/', lambda text: re.fullmatch(r"\([xy]{1,3}(,[xy]{1,3})?\)", text) or pytest.fail(text),
     ["(x)", "(xyx,y)"], ["(z", "(x", "()"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "source", "check", "good", "bad"), KINDS, ids=[kind[0] for kind in KINDS])
def test_a_kind(kind: masks.Kind, source: str, check: Callable[[str], object], good: list[str], bad: list[str]) -> None:
    vocab = vocabulary()
    held = masks.compile(kind, source, vocab)
    for seed in range(12):
        check(walk(held, vocab, seed))
    for text in good:
        assert fits(held, vocab, text), text
    for text in bad:
        assert not fits(held, vocab, text), text


def test_any_json_object() -> None:
    vocab = vocabulary()
    held = masks.compile("json_object", "", vocab)
    assert fits(held, vocab, '{"a": [1, {"b": null}], "c": "é \\n"}')
    assert fits(held, vocab, "{}")
    for text in ("[]", "1", "{'a'", '{"a": }', "{}x"):
        assert not fits(held, vocab, text)


def test_whitespace_has_an_end() -> None:
    mask = begin(masks.compile("json_object", "", vocabulary()), vocabulary())
    mask.accept(vocabulary().encode("{")[0])
    (space,) = vocabulary().encode("\n")
    for _ in range(40):
        assert space in allowed(mask, vocabulary())
        mask.accept(space)
    assert space not in allowed(mask, vocabulary())


def test_masks_of_one_grammar_are_separate() -> None:
    vocab = vocabulary()
    held = masks.compile("regex", "ab", vocab)
    first, second = begin(held, vocab), begin(held, vocab)
    first.accept(vocab.encode("ab")[0])
    assert set(allowed(first, vocab)) != set(allowed(second, vocab))
    assert fits(held, vocab, "ab")


def test_a_token_against_the_mask_ends_the_reply() -> None:
    vocab = vocabulary()
    mask = begin(masks.compile("regex", "ab", vocab), vocab)
    mask.accept(vocab.encode("z")[0])
    assert mask.done()
    assert set(allowed(mask, vocab)) == set(vocab.stop_tokens)


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        ("json_schema", "{", "JSON schema cannot be used: Expecting property name"),
        ("json_schema", "[1]", "JSON schema cannot be used: "),
        ("json_schema", '{"type": "nope"}', "JSON schema cannot be used: .*nope"),
        ("json_schema", '{"$ref": "#/gone"}', "JSON schema cannot be used: .*gone"),
        ("json_schema", "[" * 100_000, "JSON schema cannot be used: "),
        ("json_schema", " " * (1 << 21), "JSON schema has 2,097,152 characters"),
        ("regex", "[a", "regular expression cannot be used: .*unclosed"),
        ("gbnf", "root ::= gone", "GBNF grammar cannot be used: .*gone"),
        ("gbnf", "root ::= ((", "GBNF grammar cannot be used: "),
        ("lark", "start: gone", "Lark grammar cannot be used: .*gone"),
        ("lark", "", "Lark grammar cannot be used: "),
    ],
)
def test_bad_grammars(kind: masks.Kind, source: str, message: str) -> None:
    with pytest.raises(GrammarError, match=message) as caught:
        masks.compile(kind, source, vocabulary())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tags", [False, True])
def test_after_the_reasoning(tags: bool) -> None:
    vocab = vocabulary(tags=tags)
    held = replace(masks.compile("regex", "[0-9]{2}", vocab), wait=Wait("</think>"))
    for gap in ("", "\n", "\n\n"):
        mask = begin(held, vocab)
        for token in vocab.encode("so [42] </thin </think>" + gap):
            assert mask.mask() is None or gap
            assert not mask.done()
            mask.accept(token)
        decoded = {vocab.decode([int(token)]) for token in allowed(mask, vocab)}
        assert all(re.fullmatch(r"[0-9]{1,2}|\n{1,2}", text) for text in decoded)
        for token in vocab.encode("42"):
            assert token in allowed(mask, vocab)
            mask.accept(token)
        assert mask.done()


def test_reasoning_that_the_reply_may_begin_with() -> None:
    vocab = vocabulary(tags=True)
    held = replace(masks.compile("regex", "[0-9]{2}", vocab), wait=Wait("</think>", "<think>"))
    (opening,) = vocab.encode("<think>")
    (closing,) = vocab.encode("</think>")
    digits = vocab.encode("4")
    assert {opening, *digits} <= set(allowed(begin(held, vocab), vocab))

    thinks = begin(held, vocab)
    thinks.accept(opening)
    assert thinks.mask() is None
    thinks.accept(vocab.encode("x")[0])
    assert thinks.mask() is None
    thinks.accept(closing)
    assert digits[0] in allowed(thinks, vocab)
    assert opening not in allowed(thinks, vocab)

    answers = begin(held, vocab)
    answers.accept(digits[0])
    assert opening not in allowed(answers, vocab)


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "maximum": 9, "minimum": 0},
                               "how": {"type": "string", "enum": ["short", "long"]}},
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
]  # fmt: skip

# family, words of its template, good replies, bad replies
FORMATS: list[tuple[str, str, list[str], list[str]]] = [
    ("hermes", "",
     ['<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 3}}\n</tool_call>',
      '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'],
     ['<tool_call>\n{"name": "then"', '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>', "Hello",
      '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": "3"', '<tool_call>\n{"name": "now", "arguments": {"a"']),
    ("qwen3_coder", "",
     ["<tool_call>\n<function=weather>\n<parameter=city>\nRome <b\n\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
      "<tool_call>\n<function=weather>\n<parameter=city>\n\n</parameter>\n<parameter=how>\nlong\n</parameter>\n</function>\n</tool_call>",
      "<tool_call>\n<function=now>\n</function>\n</tool_call>"],
     ["<tool_call>\n<function=weather>\n</function>", "<tool_call>\n<function=weather>\n<parameter=days>",
      "<tool_call>\n<function=weather>\n<parameter=city>\nR\n</parameter>\n<parameter=how>\nlonger"]),
    ("llama3", "", ['{"name": "weather", "parameters": {"city": "Rome"}}', '{"name": "now", "parameters": {}}'],
     ['{"name": "weather", "arguments"', "[now()]"]),
    ("mistral", "", ['[TOOL_CALLS][{"name": "now", "arguments": {}}]', '[TOOL_CALLS][{"name": "now", "arguments": {}}, {"name": "weather", '
     '"arguments": {"city": "Rome"}}]'], ["[TOOL_CALLS]now", "[TOOL_CALLS][]"]),
    ("mistral", "[ARGS]", ['[TOOL_CALLS]weather[ARGS]{"city": "Rome"}', "[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]now[ARGS]{}"],
     ["[TOOL_CALLS][", "[TOOL_CALLS]now{}"]),
    ("json_block", "", ['<TOOLCALL>[{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]</TOOLCALL>'], ["<TOOLCALL>[]"]),
    ("deepseek", "", ['<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Rome"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'],
     ["<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>"]),
    ("deepseek", "```json", ["<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"],
     ["<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now"]),
    ("invoke", "<｜DSML｜function_calls>",
     ['<｜DSML｜function_calls>\n<｜DSML｜invoke name="weather">\n<｜DSML｜parameter name="city" string="true">Rome</｜DSML｜parameter>\n'
      '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>'],
     ['<｜DSML｜function_calls>\n<｜DSML｜invoke name="weather">\n</｜DSML｜invoke>']),
    ("invoke", "<minimax:tool_call>", ['<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Rome</parameter>\n</invoke>\n'
     '<invoke name="now">\n</invoke>\n</minimax:tool_call>'], ['<minimax:tool_call>\n<invoke name="weather">\n</invoke>', "<invoke"]),
    ("invoke", "", ['<function name="weather"><param name="city">Rome</param><param name="days">3</param></function>\n<function name="now"></function>'],
     ['<function name="weather"></function>', '<function name="then">']),
    ("json_block", "<tool_calls>[{", ['<tool_calls>[{"name": "now", "arguments": {}}]</tool_calls>'], ["<tool_calls>{", "<tool_calls>[]"]),
    ("json_block", '<tool_calls>\n{"name"', ['<tool_calls>\n{"name": "now", "arguments": {}}\n{"name": "now", "arguments": {}}\n</tool_calls>'],
     ["<tool_calls>\n[", "<tool_calls>\n</tool_calls>"]),
    ("glm", "", ["<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>"],
     ["<tool_call>weather\n</tool_call>", "<tool_call>then"]),
    ("glm", "<tool_call>f<arg_key>a</arg_key><arg_value>b</arg_value><arg_key>c</arg_key><arg_value>d</arg_value></tool_call><tool_call>",
     ["<tool_call>weather<arg_key>city</arg_key><arg_value>Rome</arg_value><arg_key>days</arg_key><arg_value>3</arg_value></tool_call>"
      "<tool_call>now</tool_call>"], ["<tool_call>weather\n", "<tool_call>weather</tool_call>"]),
    ("qwen3_coder", "<seed:tool_call>\n<function=f>",
     ["<seed:tool_call>\n<function=weather>\n<parameter=city>Rome</parameter>\n</function>\n</seed:tool_call>"], ["<tool_call>"]),
    ("kimi", "", ['<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{"city": "Rome"}<|tool_call_end|>'
     "<|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"],
     ["<|tool_calls_section_begin|><|tool_calls_section_end|>"]),
    ("lfm2", "", ["<|tool_call_start|>[weather(city=\"Rome\", days=3, how=\"long\"), now()]<|tool_call_end|>",
     "<|tool_call_start|>[weather(city=\"Rome\")]<|tool_call_end|>"],
     ["<|tool_call_start|>[]", "<|tool_call_start|>[weather()]", "<|tool_call_start|>[weather(city=\"Rome\", days='"]),
    ("functionary31", "", ['<function=weather>{"city": "Rome"}</function><function=now>{}</function>'], ["<function=weather>{}", "<function=then>"]),
    ("gemma4", "", ['<|tool_call>call:weather{city:<|"|>Rome<|"|>,days:3,how:<|"|>long<|"|>}<tool_call|>', "<|tool_call>call:now{}<tool_call|>"],
     ["<|tool_call>call:weather{}", "<|tool_call>call:weather{city:Rome"]),
    ("harmony", "",
     ['<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Rome"}',
      "<|channel|>analysis<|message|>hm {<|end|><|start|>assistant<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}"],
     ["<|channel|>final<|message|>Hi", "<|channel|>commentary to=functions.then"]),
]  # fmt: skip


@pytest.mark.parametrize("tags", [False, True])
@pytest.mark.parametrize(
    ("family", "template", "good", "bad"), FORMATS, ids=[f"{form[0]} {form[1]}".strip() for form in FORMATS]
)
def test_forced_calls(family: str, template: str, good: list[str], bad: list[str], tags: bool) -> None:
    vocab = vocabulary(tags=tags)
    parser = parsers.for_model(template, family)
    grammar = parser.tool_grammar(TOOLS, special=special_tokens(vocab))
    assert grammar is not None
    held = masks.compile("lark", grammar, vocab)
    for text in good:
        assert fits(held, vocab, text), text
        read = parser.start("<|start|>assistant", TOOLS)
        pieces = [*read.push(text), *read.finish()]
        calls = [piece for piece in pieces if isinstance(piece, ToolOpen)]
        assert calls
        for opened in calls:
            arguments = "".join(p.text for p in pieces if isinstance(p, ToolArguments) and p.index == opened.index)
            assert ("city" in json.loads(arguments)) == (opened.name == "weather")
    for text in bad:
        assert not fits(held, vocab, text), text


@pytest.mark.parametrize("family", [name for name in parsers.families() if name not in ("plain", "harmony")])
def test_random_calls_are_calls(family: str) -> None:
    """Only choices and numbers are random here: what the parser makes of them must fit the schema."""
    vocab = vocabulary(tags=True)
    properties = {
        "how": {"enum": ["short", "long"], "type": "string"},
        "days": {"type": "integer", "minimum": 0, "maximum": 99},
    }
    parameters = {"type": "object", "properties": properties, "required": ["how"]}
    tools = [{"type": "function", "function": {"name": name, "parameters": parameters}} for name in ("one", "two")]
    parser = parsers.for_model("", family)
    grammar = parser.tool_grammar(tools, parallel=False, special=special_tokens(vocab))
    assert grammar is not None
    held = masks.compile("lark", grammar, vocab)
    for seed in range(8):
        read = parser.start(">>>" if family == "functionary32" else "", tools)
        pieces = [*read.push(walk(held, vocab, seed)), *read.finish()]
        (opened,) = (piece for piece in pieces if isinstance(piece, ToolOpen))
        assert opened.name in ("one", "two")
        value = json.loads("".join(piece.text for piece in pieces if isinstance(piece, ToolArguments)))
        assert {"how"} <= value.keys() <= {"how", "days"}
        assert value["how"] in ("short", "long")
        assert 0 <= value.get("days", 0) <= 99


@pytest.mark.parametrize("family", ["qwen3_coder", "glm", "invoke", "gemma4", "lfm2", "hermes"])
@pytest.mark.parametrize("tags", [False, True])
@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"pattern": "^[a-c]/?d$"}, ["ad", "c/d"], ["d", "xad", "adx", ""]),
        ({"pattern": "b+"}, ["b", "abba"], ["a", ""]),
        ({"minLength": 2, "maxLength": 3}, ["ab", "a b"], ["a", "abcd"]),
        ({"enum": ["x", "y z"]}, ["x", "y z"], ["y", "xx"]),
    ],
)
def test_texts_without_quotes_are_held_to_their_schema(
    family: str, tags: bool, schema: dict[str, object], good: list[str], bad: list[str]
) -> None:
    vocab = vocabulary(tags=tags)
    parameters = {"type": "object", "properties": {"q": {"type": "string", **schema}}, "required": ["q"]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    grammar = parsers.for_model("", family).tool_grammar(tools, special=special_tokens(vocab))
    assert grammar is not None
    held = masks.compile("lark", grammar, vocab)
    spellings = {
        "qwen3_coder": "<tool_call>\n<function=f>\n<parameter=q>\n%s\n</parameter>\n</function>\n</tool_call>",
        "glm": "<tool_call>f\n<arg_key>q</arg_key>\n<arg_value>%s</arg_value>\n</tool_call>",
        "invoke": '<function name="f"><param name="q">%s</param></function>',
        "gemma4": '<|tool_call>call:f{q:<|"|>%s<|"|>}<tool_call|>',
        "lfm2": '<|tool_call_start|>[f(q="%s")]<|tool_call_end|>',
        "hermes": '<tool_call>\n{"name": "f", "arguments": {"q": "%s"}}\n</tool_call>',
    }
    assert [text for text in (*good, *bad) if fits(held, vocab, spellings[family].replace("%s", text))] == good


def test_the_choice_of_a_tool() -> None:
    vocab = vocabulary()
    parser = parsers.for_model("", "hermes")

    def make(choice: str | None, *, parallel: bool = True) -> Held:
        grammar = parser.tool_grammar(TOOLS, choice, parallel=parallel)
        assert grammar is not None
        return masks.compile("lark", grammar, vocab)

    now = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    assert fits(make("now"), vocab, now)
    assert not fits(make("weather"), vocab, now)
    assert fits(make("required"), vocab, now)
    assert fits(make(None), vocab, f"{now}\n{now}")
    assert not fits(make(None, parallel=False), vocab, f"{now}\n{now}")
    assert parser.tool_grammar(TOOLS, "gone") is None
    assert parser.tool_grammar([], None) is None
    assert parsers.for_model("", "plain").tool_grammar(TOOLS) is None
