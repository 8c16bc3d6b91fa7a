"""Gemma 4's turns go on behind results of tools; its first templates have these as a part of the turn that calls."""

# ruff: noqa: E501  templates are not cut into lines

from __future__ import annotations

import pytest

from imp_server import parsers
from imp_server.chat.capabilities import ChatCapabilities
from imp_server.chat.form import ChatForm
from imp_server.chat.template import ChatTemplate, Json, Message
from imp_server.generation.events import Reasoning, Text

# What the published templates do, in few words; of the declarations of tools the names. How turns look:
# https://ai.google.dev/gemma/docs/core/prompt-formatting-gemma4; models/templates of llama.cpp has the first templates.
_BEGIN = r"""{%- macro value(v) -%}{%- if v is string -%}<|"|>{{ v }}<|"|>{%- else -%}{{ v }}{%- endif -%}{%- endmacro -%}
{%- macro response(name, said) -%}<|tool_response>response:{{ name }}{value:{{ value(said) }}}<tool_response|>{%- endmacro -%}
{%- macro turn(m) -%}{{ "<|turn>" ~ ("model" if m.role == "assistant" else m.role) ~ "\n" }}{%- endmacro -%}
{%- set ns = namespace(last=none) -%}{%- set rest = messages -%}
{%- if tools or enable_thinking or messages[0].role == "system" -%}{{ "<|turn>system\n" }}
{%- if enable_thinking -%}{{ "<|think|>\n" }}{%- endif -%}
{%- if messages[0].role == "system" -%}{{ messages[0].content | trim }}{%- set rest = messages[1:] -%}{%- endif -%}
{%- for tool in tools or [] -%}<|tool>declaration:{{ tool.function.name }}<tool|>{%- endfor -%}{{ "<turn|>\n" }}{%- endif -%}
{%- for m in rest -%}"""
_CALLS = r"""{%- for call in m.tool_calls or [] -%}<|tool_call>call:{{ call.function.name }}{
{%- for k, v in call.function.arguments | dictsort -%}{{ k }}:{{ value(v) }}{{ "," if not loop.last }}{%- endfor -%}
}<tool_call|>{%- endfor -%}"""
_PROMPT = r"""{%- if add_generation_prompt -%}{%- if ns.last != "response" -%}{{ "<|turn>model\n" }}{%- endif -%}
{%- if not enable_thinking -%}{{ "<|channel>thought\n<channel|>" }}{%- endif -%}{%- endif -%}"""
FIRST = (
    _BEGIN
    + """{%- set ns.last = none -%}{{ turn(m) }}"""
    + _CALLS
    + r"""{%- for each in m.tool_responses or [] -%}{{ response(each.name, each.response) }}{%- set ns.last = "response" -%}{%- endfor -%}
{{- m.content | trim -}}{%- if not (m.tool_responses and not m.content) -%}{{ "<turn|>\n" }}{%- endif -%}{%- endfor -%}"""
    + _PROMPT
)
LATER = (
    _BEGIN
    + r"""{%- if m.role != "tool" -%}
{%- if not (m.role == "assistant" and ns.last == "response") -%}{{ turn(m) }}{%- endif -%}{%- set ns.last = none -%}"""
    + _CALLS
    + r"""{%- set after = namespace(all=true) -%}{%- for result in rest[loop.index:] if m.tool_calls -%}
{%- if result.role != "tool" -%}{%- set after.all = false -%}{%- elif after.all -%}
{%- for call in m.tool_calls if call.id == result.tool_call_id -%}{{ response(call.function.name, result.content) }}{%- endfor -%}
{%- set ns.last = "response" -%}{%- endif -%}{%- endfor -%}
{{- m.content | trim -}}{%- if ns.last != "response" -%}{{ "<turn|>\n" }}{%- endif -%}{%- endif -%}{%- endfor -%}
{%- if ns.last != "response" -%}"""
    + _PROMPT
    + "{%- endif -%}"
)
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("weather", "now")]


def call(name: str, number: int, **arguments: Json) -> Json:
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


USER: Message = {"role": "user", "content": "Weather?"}
ASKED: list[Message] = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [call("weather", 0, city="Rome", days=3), call("now", 1)]},
    {"role": "tool", "tool_call_id": "call_0", "content": "sunny"},
    {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
]
SHOWN = (
    "<|turn>system\n<|tool>declaration:weather<tool|><|tool>declaration:now<tool|><turn|>\n<|turn>user\nWeather?<turn|>\n"
    '<|turn>model\n<|tool_call>call:weather{city:<|"|>Rome<|"|>,days:3}<tool_call|><|tool_call>call:now{}<tool_call|>'
    '<|tool_response>response:weather{value:<|"|>sunny<|"|>}<tool_response|>'
    '<|tool_response>response:now{value:<|"|>noon<|"|>}<tool_response|>'
)


def form(source: str) -> ChatForm:
    return ChatForm.of(ChatTemplate(source, {}))


@pytest.mark.parametrize(("source", "inside"), [(FIRST, True), (LATER, False)], ids=["first", "later"])
def test_what_its_templates_do(source: str, inside: bool) -> None:
    found = form(source).capabilities
    expected = ChatCapabilities(
        "gemma4", written=found.written, later_system=True, tools=True, tool_calls=True, parallel_calls=True,
        tool_results=True, results_in_calls=inside, thinking_switch="enable_thinking",
    )  # fmt: skip
    assert found == expected
    assert '<|tool_call>call:first_tool{needle_key:<|"|>needle value<|"|>,needle_number:3}' in found.written


@pytest.mark.parametrize("source", [FIRST, LATER], ids=["first", "later"])
def test_the_turn_goes_on_behind_the_results(source: str) -> None:
    nothing = "<|channel>thought\n<channel|>" if source == FIRST else ""  # the later one asks for no thought here
    assert form(source).render(ASKED, TOOLS) == SHOWN + nothing
    assert form(source).render(ASKED, TOOLS, variables={"enable_thinking": True}).endswith("<tool_response|>")
    answered = [*ASKED, {"role": "assistant", "content": "Sunny at noon."}, USER]
    assert (
        form(source).render(answered, TOOLS)
        == SHOWN + "Sunny at noon.<turn|>\n<|turn>user\nWeather?<turn|>\n<|turn>model\n<|channel>thought\n<channel|>"
    )


def test_results_that_name_no_call() -> None:
    """They keep their own name; what another user's turn says stays where it is."""
    first = form(FIRST)
    odd: list[Message] = [*ASKED[:2], {"role": "tool", "tool_call_id": "x", "name": "other", "content": "lost"}, USER]
    assert 'response:other{value:<|"|>lost<|"|>}<tool_response|><|turn>user\nWeather?' in first.render(odd, TOOLS)
    alone: list[Message] = [USER, {"role": "tool", "content": "said"}]
    assert "<|turn>tool\nsaid<turn|>" in first.render(alone)


def test_it_thinks_again_behind_a_result() -> None:
    before = "<|turn>model\n<|channel>thought\nhm\n<channel|><|tool_call>call:now{}<tool_call|><|tool_response>response:now{}"
    family = parsers.for_model(FIRST, "gemma4")
    wait = parsers.Wait("<channel|>", "<|channel>thought\n")
    assert family.wait(before + "<tool_response|>", for_tools=False) == wait
    assert family.wait(before + "<tool_response|><|channel>thought\n<channel|>", for_tools=False) is None
    parser = family.start(before + "<tool_response|>", None)
    heard = [*parser.push("<|channel>thought\nnoon\n<channel|>It is noon."), *parser.finish()]
    assert heard == [Reasoning("noon"), Text("It is noon.")]
