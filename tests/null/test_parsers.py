"""Replies of every family, written out from what the formats are, cut into pieces in any way."""

# ruff: noqa: E501, RUF001  replies are not cut into lines, and DeepSeek's have these bars

from __future__ import annotations

import itertools
import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imp_runtime.errors import ImpError
from imp_server import parsers
from imp_server.generation.events import Piece, Reasoning, Text, ToolArguments, ToolClose, ToolOpen

Vector = tuple[str, str, str, str, list[tuple[str, object]]]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather somewhere.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer"},
                    "exact": {"type": "boolean"},
                    "where": {"type": "object", "properties": {"lat": {"type": "number"}}},
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
NAMES = {"weather", "now"}
CHATML = "<|im_start|>user\nSay <think> please<|im_end|>\n<|im_start|>assistant\n"
DEEPSEEK = "<｜User｜>Hi<｜Assistant｜>"
PARIS = {"city": "Paris"}


def call(name: str, arguments: object) -> tuple[str, object]:
    return ("call", (name, arguments))


def text(content: str) -> tuple[str, object]:
    return ("text", content)


def thought(content: str) -> tuple[str, object]:
    return ("reasoning", content)


# name of the vector, family, end of the prompt, reply, what is to be seen in it
VECTORS: list[tuple[str, str, str, str, list[tuple[str, object]]]] = [
    ("only text", "hermes", CHATML, "Hello, <world> 1 < 2\n\nbye\n", [text("Hello, <world> 1 < 2\n\nbye\n")]),
    ("thinks first", "hermes", CHATML, "<think>\nhm\nso\n</think>\n\nHi", [thought("hm\nso"), text("Hi")]),
    ("was put into thinking", "hermes", CHATML + "<think>\n", "hm\n</think>\n\nHi", [thought("hm"), text("Hi")]),
    ("opens again", "hermes", CHATML + "<think>\n", "<think>\nhm</think>Hi", [thought("hm"), text("Hi")]),
    ("was put behind thinking", "hermes", CHATML + "<think>\n\n</think>\n\n", "Hi </think> x", [text("Hi </think> x")]),
    ("goes on in a thought", "hermes", CHATML + "<think>\nso far", ", so.</think>Hi", [thought(", so."), text("Hi")]),
    ("speaks of the tag", "hermes", CHATML, "Use <think> here.", [text("Use <think> here.")]),
    ("never stops thinking", "hermes", CHATML, "<think>a</thi", [thought("a</thi")]),
    ("one call", "hermes", CHATML,
     'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>',
     [text("Let me see."), call("weather", PARIS)]),
    ("thought and call", "hermes", CHATML,
     '<think>hm</think>\n\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
     [thought("hm"), call("now", {})]),
    ("two calls", "hermes", CHATML,
     '<tool_call>\n{"name": "weather", "arguments": {"city": "a}\\"\\\\"}}\n</tool_call>\n'
     '<tool_call>\n{"name": "now"}\n</tool_call>\n', [call("weather", {"city": 'a}"\\'}), call("now", {})]),
    ("two calls in one tag", "hermes", CHATML, '<tool_call>{"name": "now"}\n{"name": "now", "arguments": null}</tool_call>',
     [call("now", {}), call("now", {})]),
    ("an array in a tag", "hermes", CHATML, '<tool_call>[{"name": "now"}, {"name": "now"}]</tool_call>',
     [call("now", {}), call("now", {})]),
    ("arguments before the name", "hermes", CHATML,
     '<tool_call>{"arguments": {"city": "Paris"}, "id": 1, "name": "weather"}</tool_call>', [call("weather", PARIS)]),
    ("arguments as a string", "hermes", CHATML,
     '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>', [call("weather", PARIS)]),
    ("as OpenAI writes it", "hermes", CHATML,
     '<tool_call>{"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}</tool_call>',
     [call("weather", PARIS)]),
    ("no end tag", "hermes", CHATML, '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}',
     [call("weather", PARIS)]),
    ("text behind a call", "hermes", CHATML, '<tool_call>{"name": "now"}</tool_call>\nDone.', [call("now", {}), text("Done.")]),
    ("thinks between calls", "hermes", CHATML, '<tool_call>{"name": "now"}</tool_call>\n<think>b</think>\nDone.',
     [call("now", {}), thought("b"), text("Done.")]),
    ("no JSON in the tag", "hermes", CHATML, "The <tool_call> tag.", [text("The <tool_call> tag.")]),
    ("no name", "hermes", CHATML, 'a <tool_call>{"x": [1]}</tool_call> b', [text('a <tool_call>{"x": [1]}</tool_call> b')]),
    ("a list for arguments", "hermes", CHATML, '<tool_call>{"name": "now", "arguments": [1]}</tool_call>',
     [text('<tool_call>{"name": "now", "arguments": [1]}</tool_call>')]),
    ("ends before the name", "hermes", CHATML, 'a <tool_call>{"na', [text('a <tool_call>{"na')]),
    ("ends in a tag", "hermes", CHATML, "a <tool_", [text("a <tool_")]),
    ("ends in the arguments", "hermes", CHATML, '<tool_call>{"name": "weather", "arguments": {"city": "Pa',
     [call("weather", '{"city": "Pa')]),
    ("broken arguments", "hermes", CHATML, '<tool_call>{"name": "weather", "arguments": {"city": }}</tool_call>x',
     [call("weather", '{"city": }'), text("x")]),

    ("coder", "qwen3_coder", CHATML,
     "I look.\n\n<tool_call>\n<function=weather>\n<parameter=city>\nSan \"F\"\nx\n</parameter>\n<parameter=days>\n3\n"
     "</parameter>\n<parameter=exact>\nTrue\n</parameter>\n</function>\n</tool_call>",
     [text("I look."), call("weather", {"city": 'San "F"\nx', "days": 3, "exact": True})]),
    ("coder, structures", "qwen3_coder", CHATML,
     "<tool_call>\n<function=weather>\n<parameter=where>\n{\"lat\": 1.5}\n</parameter>\n<parameter=tags>\n['a', 'b']\n"
     "</parameter>\n<parameter=note>\nnull\n</parameter>\n</function>\n</tool_call>",
     [call("weather", {"where": {"lat": 1.5}, "tags": ["a", "b"], "note": None})]),
    ("coder, wrong types", "qwen3_coder", CHATML,
     "<tool_call>\n<function=weather>\n<parameter=days>\nsoon\n</parameter>\n<parameter=other>\n5\n</parameter>\n"
     "</function>\n</tool_call>", [call("weather", {"days": "soon", "other": "5"})]),
    ("coder, tags in a value", "qwen3_coder", CHATML,
     "<tool_call>\n<function=weather>\n<parameter=city>\n<a href=\"</b>\">\n</function>\n\n</parameter>\n</function>\n</tool_call>",
     [call("weather", {"city": '<a href="</b>">\n</function>\n'})]),
    ("coder, on one line", "qwen3_coder", CHATML,
     "<tool_call><function=weather><parameter=city>Paris</parameter></function></tool_call>", [call("weather", PARIS)]),
    ("coder, no arguments", "qwen3_coder", CHATML, "<tool_call>\n<function=now>\n</function>\n</tool_call>", [call("now", {})]),
    ("coder, no tag around", "qwen3_coder", CHATML, "<function=now>\n</function>\n</tool_call>", [call("now", {})]),
    ("coder, two", "qwen3_coder", CHATML,
     "<tool_call>\n<function=now>\n</function>\n</tool_call>\n<tool_call>\n<function=weather>\n<parameter=city>\nParis\n"
     "</parameter>\n</function>\n</tool_call>\n", [call("now", {}), call("weather", PARIS)]),
    ("coder, value never ends", "qwen3_coder", CHATML,
     "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</function>\n</tool_call>", [call("weather", PARIS)]),
    ("coder, calls in a thought", "qwen3_coder", CHATML + "<think>\n",
     "I call.\n<tool_call>\n<function=now>\n</function>\n</tool_call>", [thought("I call."), call("now", {})]),
    ("coder, no call", "qwen3_coder", CHATML, "a <tool_call> b <function> c", [text("a <tool_call> b <function> c")]),

    ("llama", "llama3", "", '{"name": "weather", "parameters": {"city": "Paris"}}', [call("weather", PARIS)]),
    ("llama, tag", "llama3", "", '<|python_tag|>{"type": "function", "name": "weather", "parameters": {"city": "Paris"}}',
     [call("weather", PARIS)]),
    ("llama, two", "llama3", "", '{"name": "now", "parameters": {}}; {"name": "weather", "parameters": {"city": "Paris"}}',
     [call("now", {}), call("weather", PARIS)]),
    ("llama, text and tag", "llama3", "", 'Ok. <|python_tag|>weather.call(city="Paris")', [text("Ok."), call("weather", PARIS)]),
    ("llama, pythonic", "llama3", "", "[weather(city='Paris', days=2, exact=true, tags=['(', \"'\"]), now()]",
     [call("weather", {"city": "Paris", "days": 2, "exact": True, "tags": ["(", "'"]}), call("now", {})]),
    ("llama, by position", "llama3", "", "[weather('Paris', 2)]", [call("weather", {"city": "Paris", "days": 2})]),
    ("llama 4", "llama3", "", "<|python_start|>[now()]<|python_end|>", [call("now", {})]),
    ("llama, JSON that is no call", "llama3", "", ' {"name": "Bob", "age": 3}', [text(' {"name": "Bob", "age": 3}')]),
    ("llama, other JSON", "llama3", "", '{"answer": {"name": "now"}}', [text('{"answer": {"name": "now"}}')]),
    ("llama, list", "llama3", "", "[1, 2] and [now] and now()", [text("[1, 2] and [now] and now()")]),
    ("llama, code", "llama3", "", "<|python_tag|>print(now())", [text("<|python_tag|>print(now())")]),
    ("llama, bad value", "llama3", "", "[now(a=f(1))]", [text("[now(a=f(1))]")]),

    ("mistral", "mistral", "[/INST]", '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Paris"}}, {"name": "now", '
     '"arguments": {}}]', [call("weather", PARIS), call("now", {})]),
    ("mistral, space", "mistral", "[/INST]", 'I see.[TOOL_CALLS] [{"name": "now", "arguments": {}}]', [text("I see."), call("now", {})]),
    ("mistral, new", "mistral", "[/INST]", '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}[TOOL_CALLS]now[ARGS]{}',
     [call("weather", PARIS), call("now", {})]),
    ("mistral, id", "mistral", "[/INST]", '[TOOL_CALLS]now[CALL_ID]abc123XYZ[ARGS]{}', [call("now", {})]),
    ("mistral, no mark", "mistral", "[/INST]", '[TOOL_CALLS]weather{"city": "Paris"}', [call("weather", PARIS)]),
    ("mistral, no call", "mistral", "[/INST]", "[TOOL_CALLS] are [1]", [text("[TOOL_CALLS] are [1]")]),

    ("deepseek r1", "deepseek", DEEPSEEK + "<think>\n",
     "hm\n</think>\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
     '{"city": "Paris"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```'
     "<｜tool▁call▁end｜><｜tool▁calls▁end｜>", [thought("hm"), call("weather", PARIS), call("now", {})]),
    ("deepseek 3.1", "deepseek", DEEPSEEK + "</think>",
     'Ok.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>'
     "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
     [text("Ok."), call("weather", PARIS), call("now", {})]),
    ("deepseek, no call", "deepseek", DEEPSEEK, "<｜tool▁calls▁begin｜> x", [text("<｜tool▁calls▁begin｜> x")]),
    ("dsml", "invoke", DEEPSEEK,
     '<｜DSML｜function_calls>\n<｜DSML｜invoke name="weather">\n<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>\n'
     '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke name="now">\n'
     "</｜DSML｜invoke>\n</｜DSML｜function_calls>", [call("weather", {"city": "Paris", "days": 3}), call("now", {})]),
    ("dsml without its token", "invoke", DEEPSEEK,
     '<function_calls>\n<invoke name="weather">\n<parameter name="city" string="true">\nParis</parameter>\n'
     '<parameter name="free" string="false">{"a": [1]}</parameter>\n</invoke>\n</function_calls>',
     [call("weather", {"city": "\nParis", "free": {"a": [1]}})]),

    ("json_block", "json_block", "", '<think>a</think>\n<TOOLCALL>[{"name": "weather", "arguments": {"city": "Paris"}}, '
     '{"name": "now", "arguments": {}}]</TOOLCALL>', [thought("a"), call("weather", PARIS), call("now", {})]),
    ("nemotron, no call", "json_block", "", "<TOOLCALL>[oops]</TOOLCALL>", [text("<TOOLCALL>[oops]</TOOLCALL>")]),

    ("gemma", "gemma4", "<|turn>model\n",
     '<|channel>thought\nhm\n<channel|>Ok.<|tool_call>call:weather{city:<|"|>Pa"r{i}s<|"|>,days:3,exact:true,'
     'where:{lat:1.5},tags:[<|"|>a<|"|>,<|"|>b<|"|>]}<tool_call|>',
     [thought("hm"), text("Ok."),
      call("weather", {"city": 'Pa"r{i}s', "days": 3, "exact": True, "where": {"lat": 1.5}, "tags": ["a", "b"]})]),
    ("gemma, two", "gemma4", "<|turn>model\n<|channel>thought\n<channel|>",
     '<|tool_call>call:now{}<tool_call|><|tool_call>call:weather{city:<|"|><|"|>, days: soon}<tool_call|>',
     [call("now", {}), call("weather", {"city": "", "days": "soon"})]),
    ("functiongemma", "gemma4", "", "<start_function_call>call:weather{city:<escape>Paris<escape>}<end_function_call>",
     [call("weather", PARIS)]),
    ("gemma, no call", "gemma4", "", "<|tool_call>hello", [text("<|tool_call>hello")]),

    ("harmony", "harmony", "<|end|><|start|>assistant",
     "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hello", [thought("hm"), text("Hello")]),
    ("harmony, call", "harmony", "<|start|>assistant",
     "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.weather "
     '<|constrain|>json<|message|>{"city": "Paris"}', [thought("hm"), call("weather", PARIS)]),
    ("harmony, recipient first", "harmony", "<|start|>assistant",
     "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.now<|channel|>commentary json<|message|>",
     [text("I look."), call("now", {})]),
    ("harmony, two thoughts", "harmony", "<|start|>assistant",
     "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b c<|end|>", [thought("a\n\nb c")]),
    ("harmony, goes on", "harmony", "<|start|>assistant<|channel|>final<|message|>Hel", "lo", [text("lo")]),
    ("harmony, none at all", "harmony", "<|start|>assistant", "Hello", [text("Hello")]),

    ("apriel", "json_block", "<|assistant|>\n", 'Ok.\n<tool_calls>[{"name": "weather", "arguments": {"city": "Paris"}}, {"name": "now", '
     '"arguments": {}}]</tool_calls>', [text("Ok."), call("weather", PARIS), call("now", {})]),
    ("minimax m1", "json_block", "ai name=assistant\n", '<think>a</think><tool_calls>\n{"name": "weather", "arguments": {"city": "Paris"}}\n'
     '{"name": "now", "arguments": {}}\n</tool_calls>', [thought("a"), call("weather", PARIS), call("now", {})]),
    ("granite 3", "json_block", "<|end_of_role|>", '<|tool_call|>[{"name": "now", "arguments": {}}]', [call("now", {})]),
    ("apriel, no call", "json_block", "", "<tool_calls>none", [text("<tool_calls>none")]),

    ("glm 4.6", "glm", "<|assistant|>",
     "\n<think>hm</think>\nOk.\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>San \"F\"\nx</arg_value>\n<arg_key>days</arg_key>\n"
     "<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>",
     [thought("hm"), text("Ok."), call("weather", {"city": 'San "F"\nx', "days": 3}), call("now", {})]),
    ("glm 4.7", "glm", "<|assistant|><think>",
     "hm</think><tool_call>weather<arg_key>tags</arg_key><arg_value>[\"a\"]</arg_value><arg_key>exact</arg_key><arg_value>true</arg_value>"
     "</tool_call><tool_call>now</tool_call>", [thought("hm"), call("weather", {"tags": ["a"], "exact": True}), call("now", {})]),
    ("glm, JSON is no call", "glm", "", '<tool_call>{"name": "now"}</tool_call>', [text('<tool_call>{"name": "now"}</tool_call>')]),
    ("glm, no call", "glm", "", "A <tool_call> is such a tag", [text("A <tool_call> is such a tag")]),

    ("seed", "qwen3_coder", "<seed:bos>assistant\n",
     "<seed:tool_call>\n<function=weather>\n<parameter=city>Paris</parameter>\n<parameter=days>3</parameter>\n</function>\n"
     "</seed:tool_call>\n<seed:tool_call>\n<function=now>\n</function>\n</seed:tool_call>",
     [call("weather", {"city": "Paris", "days": 3}), call("now", {})]),

    ("minimax m2", "invoke", "]~b]ai\n<think>\n",
     'hm\n</think>\n\n<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Paris</parameter>\n<parameter name="days">3'
     '</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>',
     [thought("hm"), call("weather", {"city": "Paris", "days": 3}), call("now", {})]),
    ("minicpm", "invoke", CHATML,
     'Ok.\n<function name="weather"><param name="city"><![CDATA[<b>\n&]]></param><param name="days">3</param></function>\n'
     '<function name="now"></function>', [text("Ok."), call("weather", {"city": "<b>\n&", "days": 3}), call("now", {})]),
    ("minimax, no call", "invoke", "", "<minimax:tool_call> is a tag", [text("<minimax:tool_call> is a tag")]),

    ("kimi", "kimi", "<|im_assistant|>assistant<|im_middle|>",
     'Ok.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{"city": "Paris"}<|tool_call_end|>'
     "<|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
     [text("Ok."), call("weather", PARIS), call("now", {})]),
    ("kimi, no call", "kimi", "", "<|tool_calls_section_begin|> x", [text("<|tool_calls_section_begin|> x")]),

    ("lfm2", "lfm2", CHATML, "Ok.<|tool_call_start|>[weather(city='Pa\"ris', days=3, exact=True), now()]<|tool_call_end|>",
     [text("Ok."), call("weather", {"city": 'Pa"ris', "days": 3, "exact": True}), call("now", {})]),
    ("lfm2, unknown function", "lfm2", CHATML, "<|tool_call_start|>[then()]<|tool_call_end|>",
     [text("<|tool_call_start|>[then()]<|tool_call_end|>")]),

    ("functionary 3.1", "functionary31", "<|start_header_id|>assistant<|end_header_id|>\n\n",
     'Ok.<function=weather>{"city": "Paris"}</function><function=now>{}</function>', [text("Ok."), call("weather", PARIS), call("now", {})]),
    ("functionary 3.1, no call", "functionary31", "", "<function=now>x</function>", [text("<function=now>x</function>")]),
    ("functionary 3.2", "functionary32", "<|end_header_id|>\n\n>>>", 'all\nOk.>>>weather\n{"city": "Paris"}>>>now\n{}',
     [text("Ok."), call("weather", PARIS), call("now", {})]),
    ("functionary 3.2, calls only", "functionary32", "<|end_header_id|>\n\n>>>", 'now\n{}', [call("now", {})]),
    ("functionary 3.2, other name", "functionary32", "<|end_header_id|>\n\n>>>", "then\n{}", [text("then\n{}")]),
    ("functionary 3.2, text only", "functionary32", "<|end_header_id|>\n\n>>>", "all\nHello", [text("Hello")]),

    ("plain", "plain", "", "<think>a</think> <tool_call>{} ", [thought("a"), text("<tool_call>{} ")]),
]  # fmt: skip


def read(family: str, tail: str, pieces: list[str], tools: object = TOOLS) -> list[list[Piece]]:
    parser = parsers.for_model("", family).start(tail, tools)  # type: ignore[arg-type]  # a list of dicts
    return [*(list(parser.push(piece)) for piece in pieces), list(parser.finish())]


def joined(heard: list[list[Piece]]) -> list[tuple[str, object]]:
    """What was heard, however it was cut; checks that calls are opened, filled and closed in order."""
    found: list[tuple[str, object]] = []
    index, name, arguments, closed, ids = -1, "", "", True, set()
    for piece in itertools.chain.from_iterable(heard):
        match piece:
            case Text() | Reasoning():
                assert closed
                assert piece.text
                kind = "text" if isinstance(piece, Text) else "reasoning"
                if found and found[-1][0] == kind:
                    found[-1] = (kind, str(found[-1][1]) + piece.text)
                else:
                    found.append((kind, piece.text))
            case ToolOpen():
                assert closed
                assert piece.index == index + 1
                assert piece.id not in ids
                ids.add(piece.id)
                index, name, arguments, closed = piece.index, piece.name, "", False
            case ToolArguments():
                assert not closed
                assert piece.index == index
                assert piece.text
                arguments += piece.text
            case ToolClose():
                assert not closed
                assert piece.index == index
                closed = True
                found.append(("call", (name, arguments)))
    assert closed
    return found


def parsed(found: list[tuple[str, object]]) -> list[tuple[str, object]]:
    """Arguments as values where they are JSON."""
    return [
        (kind, (value[0], _value(value[1]))) if isinstance(value, tuple) else (kind, value) for kind, value in found
    ]


def _value(arguments: str) -> object:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


@pytest.mark.parametrize("vector", VECTORS, ids=[vector[0] for vector in VECTORS])
def test_a_reply_whole_and_letter_by_letter(vector: Vector) -> None:
    """Since nothing shown can be taken back, the same outcome letter by letter means that no piece of a tag is shown."""
    _, family, tail, reply, expected = vector
    whole = joined(read(family, tail, [reply]))
    assert parsed(whole) == expected
    assert joined(read(family, tail, list(reply))) == whole
    random.seed(reply)
    for _ in range(10):
        cuts = sorted(random.sample(range(len(reply) + 1), min(len(reply), random.randrange(1, 6))))
        pieces = [reply[a:b] for a, b in itertools.pairwise([0, *cuts, len(reply)])]
        assert joined(read(family, tail, pieces)) == whole


CALLING = [vector for vector in VECTORS if ", no" not in vector[0] and any(kind != "text" for kind, _ in vector[-1])]


@pytest.mark.parametrize("vector", CALLING, ids=[vector[0] for vector in CALLING])
def test_a_reply_that_is_cut_shows_no_markup(vector: Vector) -> None:
    """Wherever it is cut: content and thoughts so far are a beginning of what the whole reply has."""
    _, family, tail, reply, _ = vector
    whole = joined(read(family, tail, [reply]))
    contents = ["".join(str(value) for kind, value in whole if kind == wanted) for wanted in ("text", "reasoning")]
    for place in range(len(reply)):
        parser = parsers.for_model("", family).start(tail, TOOLS)
        cut = joined([[*parser.push(reply[:place])], [*parser.finish(cut=True)]])
        for wanted, content in zip(("text", "reasoning"), contents, strict=True):
            seen = "".join(str(value) for kind, value in cut if kind == wanted)
            assert content.startswith(seen.rstrip()), reply[:place]


_BITS = sorted(
    {
        "<tool_call>", "</tool_call>", "<think>", "</think>", "<function=now>", "<parameter=city>", "</parameter>",
        "</function>", '{"name": "now"', ', "arguments": {"city": "', '"}}', "[TOOL_CALLS]", "[ARGS]", "now", "{}",
        "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", '<｜DSML｜invoke name="now">', "<TOOLCALL>[",
        "]</TOOLCALL>", "<|tool_call>call:now{", 'city:<|"|>x<|"|>', "}<tool_call|>", "<|channel|>", "final", "analysis",
        "<|message|>", "<|end|>", "<|start|>", "to=functions.now", "<tool_calls>[", "<tool_call>now", "<arg_key>city</arg_key>", "<arg_value>",
        "</arg_value>", "<minimax:tool_call>", '<invoke name="now">', "</invoke>", '<parameter name="city">', '<function name="now">',
        "<|tool_call_begin|>functions.now:0", "<|tool_call_argument_begin|>", "<|tool_call_start|>[now()", "]<|tool_call_end|>",
        "<function=now>{", "}</function>", ">>>", "all\n", "now\n{", "<|python_tag|>", "[now(", ")]", "\n", " ", '"', "\\",
        "a", "é", "<", "[", ";",
    }
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    family=st.sampled_from(sorted(parsers.families())),
    tail=st.sampled_from(["", CHATML + "<think>\n", "<|start|>assistant"]),
    bits=st.lists(st.sampled_from(_BITS), max_size=12),
    data=st.data(),
)
def test_any_text_in_any_pieces(family: str, tail: str, bits: list[str], data: st.DataObject) -> None:
    reply = "".join(bits)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(reply)), max_size=6)))
    pieces = [reply[a:b] for a, b in itertools.pairwise([0, *cuts, len(reply)])]
    assert joined(read(family, tail, pieces)) == joined(read(family, tail, [reply]))
    nothing_but_text = joined(read(family, tail, pieces, None))
    assert all(kind != "call" for kind, _ in nothing_but_text)


def test_text_and_arguments_are_not_delayed() -> None:
    heard = read(
        "hermes",
        CHATML,
        ["Hel", "lo", " you", "\n<tool_call>", '{"name": "weather", "arguments": {"ci', 'ty": "Pa', 'ris"', "}}"],
    )
    assert [piece.text for pieces in heard[:3] for piece in pieces if isinstance(piece, Text)] == ["Hel", "lo", " you"]
    assert [type(piece) for piece in heard[4]] == [ToolOpen, ToolArguments]
    assert heard[5] == [ToolArguments(0, 'ty": "Pa')]
    heard = read("qwen3_coder", CHATML, ["<tool_call><function=weather><parameter=city>\nPa", "ris ", "and", "</"])
    assert heard[0][1:] == [ToolArguments(0, '{"city": "Pa')]
    assert heard[1:4] == [[ToolArguments(0, "ris ")], [ToolArguments(0, "and")], []]
    heard = read("gemma4", "", ['<|tool_call>call:weather{city:<|"|>Pa', "ris<|"])
    assert heard[1] == [ToolArguments(0, "ris")]


def test_without_tools_nothing_is_a_call() -> None:
    reply = '<think>a</think>\n<tool_call>{"name": "now"}</tool_call>\n'
    assert joined(read("hermes", CHATML, [reply], None)) == [
        thought("a"),
        text('<tool_call>{"name": "now"}</tool_call>\n'),
    ]


def test_ids() -> None:
    again = "[TOOL_CALLS]now[CALL_ID]abc123XYZ[ARGS]{}"
    opened = [piece for pieces in read("mistral", "", [again + "[TOOL_CALLS]now{}" + again])
              for piece in pieces if isinstance(piece, ToolOpen)]  # fmt: skip
    assert opened[0].id == "abc123XYZ"
    for made in opened[1:]:
        assert made.id != "abc123XYZ"
        assert len(made.id) == 9
        assert made.id.isalnum()


@pytest.mark.parametrize(
    ("template", "family"),
    [
        ("{{ '<tool_call>\\n{\"name\": ' }}", "hermes"),
        ("<tool_call>\n<function=example_function_name>\n<parameter=a>", "qwen3_coder"),
        ("<|start_header_id|>user<|end_header_id|>{{ content }}<|eot_id|>", "llama3"),
        ("[INST] {{ content }} [/INST]", "mistral"),
        ("[TOOL_CALLS]{{ name }}[ARGS]", "mistral"),
        ("<｜Assistant｜><｜tool▁calls▁begin｜>", "deepseek"),
        ("<SPECIAL_11>Assistant\n<TOOLCALL>", "json_block"),
        ("<|start|>assistant<|channel|>final<|message|>", "harmony"),
        ("<|turn>model\n<|tool_call>call:", "gemma4"),
        ("<tool_call>{name}<arg_key>", "glm"),
        ("<minimax:tool_call>", "invoke"),
        ("<seed:tool_call>\n<function=", "qwen3_coder"),
        ("<|tool_calls_section_begin|>", "kimi"),
        ("<|tool_list_start|>", "lfm2"),
        ("<start_of_turn>model\n", "plain"),
        ("<|im_start|>user\n", "plain"),
        ("", "plain"),
    ],
)
def test_the_template_tells_the_family(template: str, family: str) -> None:
    assert parsers.recognise(template) == family
    assert parsers.for_model(template).name == family
    assert parsers.for_model(template, "hermes").name == "hermes"


def test_an_unknown_name() -> None:
    with pytest.raises(
        ImpError,
        match="no parser 'hermess'; there are deepseek, functionary31, functionary32, gemma4, glm, harmony, hermes",
    ):
        parsers.for_model("", "hermess")


def test_the_tags_of_the_template() -> None:
    parser = parsers.for_model("[INST] [THINK] [/THINK]").start("[/INST]", None)
    assert [*parser.push("[THINK]a[/THINK]b"), *parser.finish()] == [Reasoning("a"), Text("b")]


@pytest.mark.parametrize(
    ("family", "template", "tail", "for_tools", "expected"),
    [
        ("hermes", "<think></think>", CHATML, False, parsers.Wait("</think>", "<think>")),
        ("hermes", "<think></think>", CHATML + "<think>\n", True, parsers.Wait("</think>")),
        ("hermes", "<think></think>", CHATML + "<think>\n\n</think>\n\n", False, None),
        ("hermes", "", CHATML, False, None),
        ("harmony", "", "<|start|>assistant", False, parsers.Wait("<|channel|>final<|message|>")),
        ("harmony", "", "<|start|>assistant", True, None),
    ],
)
def test_what_a_constraint_waits_for(
    family: str, template: str, tail: str, for_tools: bool, expected: parsers.Wait | None
) -> None:
    assert parsers.for_model(template, family).wait(tail, for_tools=for_tools) == expected


def test_long_replies_take_linear_time() -> None:
    words = ["word < "] * 20_000
    start = time.perf_counter()
    heard = read(
        "hermes", CHATML, [*words, '<tool_call>{"name": "weather", "arguments": {"city": "', *words, '"}}</tool_call>']
    )
    assert time.perf_counter() - start < 4
    assert [kind for kind, _ in joined(heard)] == ["text", "call"]


def test_reasoning_is_cut_short_as_the_family_knows_it() -> None:
    qwen = parsers.for_model("<tool_call> <think> </think>").cut_short
    assert qwen.startswith("\n\nConsidering the limited time by the user, I have to give the solution")
    assert qwen.endswith(" directly now.\n</think>\n\n")
    assert parsers.for_model("<TOOLCALL> <think> </think>").cut_short == "\n</think>\n\n"
    assert parsers.for_model("[INST] [THINK] [/THINK]").cut_short == "\n[/THINK]\n\n"
