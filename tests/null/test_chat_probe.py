"""The family of a template is found by what it makes of a past call, and its grammar writes calls the same way."""

# ruff: noqa: E501  replies are not cut into lines

from __future__ import annotations

import pytest
from test_structured import fits, vocabulary

from imp_server.chat.form import ChatForm
from imp_server.chat.template import ChatTemplate, Message
from imp_server.grammar import masks

# Short templates of the spellings that models have. `CALLS` are the calls of a turn, its parts `f` and `a`.
_EACH = "{% for call in m.tool_calls %}{% set f = call.function.name %}{% set a = call.function.arguments %}"
_TOOLS = "{% for tool in tools or [] %}{{ tool.function.name }}\n{% endfor %}"
_SPELLINGS: dict[str, str] = {
    "hermes": _EACH
    + '<tool_call>\n{"name": "{{ f }}", "arguments": {{ a | tojson }}}\n</tool_call>{{ "\n" if not loop.last }}{% endfor %}',
    "hermes without a line between": _EACH
    + '<tool_call>\n{"name": "{{ f }}", "arguments": {{ a | tojson }}}\n</tool_call>{% endfor %}',
    "glm 4.6": "<think></think>"
    + _EACH
    + "\n<tool_call>{{ f }}\n{% for k, v in a.items() %}<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v }}</arg_value>\n{% endfor %}</tool_call>{% endfor %}",
    "glm 4.7": "</think>"
    + _EACH
    + "<tool_call>{{ f }}{% for k, v in a.items() %}<arg_key>{{ k }}</arg_key><arg_value>{{ v }}</arg_value>{% endfor %}</tool_call>{% endfor %}",
    "glm, as ling": _EACH
    + "{{ '\n' if not loop.first }}<tool_call>{{ f }}\n{% for k, v in a.items() %}<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v }}</arg_value>{% endfor %}{{ '\n' }}</tool_call>{% endfor %}",
    "json_block, as apriel": "\n<tool_calls>["
    + _EACH
    + '{"name": "{{ f }}", "arguments": {{ a | tojson }}}{{ ", " if not loop.last }}{% endfor %}]</tool_calls>',
    "json_block, as minimax m1": "<tool_calls>\n"
    + _EACH
    + '{"name": "{{ f }}", "arguments": {{ a | tojson }}}\n{% endfor %}</tool_calls>',
    "invoke, as minimax m2": "<minimax:tool_call>\n"
    + _EACH
    + '<invoke name="{{ f }}">\n{% for k, v in a.items() %}<parameter name="{{ k }}">{{ v }}</parameter>\n{% endfor %}</invoke>\n{% endfor %}</minimax:tool_call>',
    "invoke, as minicpm": _EACH
    + '{{ "\n" if not loop.first }}<function name="{{ f }}">{% for k, v in a.items() %}<param name="{{ k }}">{{ v }}</param>{% endfor %}</function>{% endfor %}',
    "qwen3_coder": _EACH
    + "<tool_call>\n<function={{ f }}>\n{% for k, v in a.items() %}<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}</function>\n</tool_call>{{ '\n' if not loop.last }}{% endfor %}",
    "qwen3_coder, as seed": _EACH
    + "<seed:tool_call>\n<function={{ f }}>\n{% for k, v in a.items() %}<parameter={{ k }}>{{ v }}</parameter>\n{% endfor %}</function>\n</seed:tool_call>{{ '\n' if not loop.last }}{% endfor %}",
    "kimi": "<|tool_calls_section_begin|>"
    + _EACH
    + "<|tool_call_begin|>functions.{{ f }}:{{ loop.index0 }}<|tool_call_argument_begin|>{{ a | tojson }}<|tool_call_end|>{% endfor %}<|tool_calls_section_end|>",
    "lfm2": "<|tool_call_start|>["
    + _EACH
    + "{{ f }}({% for k, v in a.items() %}{{ k }}={{ \"'\" ~ v ~ \"'\" if v is string else v }}{{ ', ' if not loop.last }}{% endfor %}){{ ', ' if not loop.last }}{% endfor %}]<|tool_call_end|>",
    "functionary31": _EACH + "<function={{ f }}>{{ a | tojson }}</function>{% endfor %}",
    "mistral": "[TOOL_CALLS]["
    + _EACH
    + '{"name": "{{ f }}", "arguments": {{ a | tojson }}, "id": "{{ call.id }}"}{{ ", " if not loop.last }}{% endfor %}]',
    "mistral, with an id": _EACH + "[TOOL_CALLS]{{ f }}[CALL_ID]{{ call.id }}[ARGS]{{ a | tojson }}{% endfor %}",
    "llama3": _EACH + '{"name": "{{ f }}", "parameters": {{ a | tojson }}}{{ "; " if not loop.last }}{% endfor %}',
}


def written(calls: str) -> ChatForm:
    turns = (
        "{% for m in messages %}<|start|>{{ m.role }}\n{% if m.tool_calls %}"
        + calls
        + "{% else %}{{ m.content }}{% endif %}"
        "<|stop|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
    )
    return ChatForm.of(ChatTemplate(_TOOLS + turns, {}))


@pytest.mark.parametrize("name", _SPELLINGS)
def test_the_family_is_the_one_that_reads_what_the_template_writes(name: str) -> None:
    form = written(_SPELLINGS[name])
    assert form.parsers.name == name.split(",")[0].split()[0]
    # The grammar of forced calls allows two calls as the template writes them.
    properties = {"needle_key": {"type": "string"}, "needle_number": {"type": "integer"}}
    parameters = {"type": "object", "properties": properties}
    tools = [
        {"type": "function", "function": {"name": n, "parameters": parameters}} for n in ("first_tool", "second_tool")
    ]
    grammar = form.parsers.tool_grammar(tools)
    assert grammar is not None
    held = masks.compile("lark", grammar, vocabulary())
    text = form.capabilities.written.removesuffix("<|stop|>")
    starts = (text[place:] for place in range(text.index("first_tool") + 1))
    assert any(fits(held, vocabulary(), start) for start in starts), text


@pytest.mark.parametrize(
    "calls",
    [
        _EACH + "{{ f }}!{{ a | tojson }}!{% endfor %}",
        # The mark of hermes with something else inside.
        _EACH + "<tool_call>{{ f }}/{{ a | tojson }}</tool_call>{% endfor %}",
        "<tool_calls>" + _EACH + "<tool_call>{{ f }}<tool_sep>{% for k, v in a.items() %}<k>{{ k }}</k>{% endfor %}</tool_call>{% endfor %}",
    ],
)  # fmt: skip
def test_a_spelling_that_nobody_reads_is_not_known(calls: str) -> None:
    form = written(calls)
    assert form.parsers.name == "plain"
    assert form.capabilities.tools
    assert form.capabilities.tool_calls
    assert form.parsers.tool_grammar([{"type": "function", "function": {"name": "f"}}]) is None


_WITH_TOOLS = (
    "{% for t in tools %}{{ t.function.name }}{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}"
    '<tool_call>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</tool_call>{% endfor %}{% endfor %}'
)


def test_a_template_that_only_renders_with_tools() -> None:
    form = ChatForm.of(ChatTemplate(_WITH_TOOLS, {}))
    found = form.capabilities
    assert (found.needs_tools, found.system, found.later_system, found.alternates) == (True, True, True, False)
    assert (found.parser, found.tools, found.tool_calls, found.parallel_calls) == ("hermes", True, True, True)
    said: list[Message] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert form.render(said) == "<system>Be brief.<user>Hi"
    assert form.render(said, [{"type": "function", "function": {"name": "f"}}]) == "f<system>Be brief.<user>Hi"
