"""What a chat template can do, found out by rendering small conversations; and messages put the way it wants them.

The findings are made when a model is compiled and stored in its artifact as `chat.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

from imp_runtime.errors import ImpError
from imp_server.chat_template import ChatTemplate, ChatTemplateError, Json, Message
from imp_server.chat_turns import alternating, joined, one_call_a_turn, systems_first
from imp_server.parsers import recognise

_SWITCHES = ("enable_thinking", "thinking")
_KEY, _VALUE = "needle_key", "needle value"


@dataclass(frozen=True, slots=True)
class ChatCapabilities:
    """What one template does.

    `parser`: the family whose replies it leads to. `arguments`: the form in which it wants the arguments of past tool
    calls. `content`: the form in which it wants text; `content_lists`: lists of parts come out right as well.
    `later_system`: system turns behind the first come out, where they stand. `alternates`: two user turns in a row, or
    one behind the result of a tool, do not come out. `thinking_switch`: the variable that turns reasoning on and off.
    """

    parser: str
    arguments: Literal["dict", "string"] = "dict"
    content: Literal["string", "list"] = "string"
    content_lists: bool = False
    system: bool = True
    later_system: bool = True
    alternates: bool = False
    tools: bool = False
    tool_calls: bool = False
    parallel_calls: bool = False
    tool_results: bool = False
    thinking_switch: str | None = None

    def to_json(self) -> str:
        """The text of `chat.json`."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> ChatCapabilities:
        """The opposite of `to_json`; fields that are missing have their defaults. Raises ImpError."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ImpError(f"chat.json is no JSON: {error}; compile the model again") from None
        known = {field.name for field in fields(ChatCapabilities)}
        if not isinstance(values, dict) or not isinstance(values.get("parser"), str) or not values.keys() <= known:
            raise ImpError("chat.json is not what this version writes; compile the model again")
        for name, allowed in _VALUES.items():
            if name in values and values[name] not in allowed:
                raise ImpError(f"chat.json: {name} is {values[name]!r:.40}; compile the model again")
        return ChatCapabilities(**values)


_VALUES: dict[str, tuple[object, ...]] = {
    "arguments": ("dict", "string"),
    "content": ("string", "list"),
    "thinking_switch": (None, *_SWITCHES),
    **dict.fromkeys(
        (
            "content_lists",
            "system",
            "later_system",
            "alternates",
            "tools",
            "tool_calls",
            "parallel_calls",
            "tool_results",
        ),
        (True, False),
    ),
}


def describe(source: str) -> str:
    """`chat.json` for the template `source`. A template that cannot be compiled gets the defaults."""
    try:
        return probe(ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})).to_json()
    except ChatTemplateError:
        return ChatCapabilities(recognise(source)).to_json()


def probe(template: ChatTemplate) -> ChatCapabilities:
    """Find out what `template` does."""

    def shown(needle: str, messages: Sequence[Message], tools: Sequence[Mapping[str, Json]] | None = None) -> bool:
        return needle in _rendered(template, messages, tools)

    content: Literal["string", "list"] = "string"
    lists = shown(_VALUE, [_user([_part(_VALUE)])]) and not shown("'text'", [_user([_part(_VALUE)])])
    if lists and not shown(_VALUE, [_user(_VALUE)]):
        content = "list"

    def say(text: str) -> Json:
        return [_part(text)] if content == "list" else text

    def in_order(*said: tuple[str, str], after: Sequence[Message] = ()) -> bool:
        """Whether turns (role, text) come out one after the other, with tools and without."""
        messages: list[Message] = [*after, *({"role": role, "content": say(text)} for role, text in said)]
        shown = (_rendered(template, messages, tools) for tools in (None, [_tool("some_tool")]))
        return all(re.search(".*".join(text for _, text in said), text, re.DOTALL) for text in shown)

    hello = _user(say("Hello"))
    system: Message = {"role": "system", "content": say(_VALUE)}
    as_dict = _rendered(template, _calls(say, {_KEY: _VALUE}))
    as_text = _rendered(template, _calls(say, json.dumps({_KEY: _VALUE})))
    # Python's spelling of a dict, or a string within a string, is the template's way to say that it got the wrong form.
    dict_works = _VALUE in as_dict and f"'{_KEY}'" not in as_dict
    text_works = _VALUE in as_text and f'\\"{_KEY}' not in as_text
    arguments: Literal["dict", "string"] = "string" if text_works and not dict_works else "dict"
    given: Json = json.dumps({_KEY: _VALUE}) if arguments == "string" else {_KEY: _VALUE}
    both = _rendered(template, _calls(say, given, names=("first_tool", "second_tool")))
    one = _calls(say, given)
    tool_calls = "first_tool" in _rendered(template, one)
    return ChatCapabilities(
        parser=recognise(template.source),
        arguments=arguments,
        content=content,
        content_lists=lists,
        system=shown(_VALUE, [system, hello]),
        later_system=in_order(("system", "say1"), ("system", "say2"), ("user", "say3"), ("system", "say4")),
        alternates=not in_order(("user", "say1"), ("user", "say2"))
        or (tool_calls and not in_order(("user", "say1"), after=one)),
        tools=any(shown("needle_tool", asked, [_tool("needle_tool")]) for asked in ([hello], [system, hello])),
        tool_calls=tool_calls,
        parallel_calls="first_tool" in both and "second_tool" in both,
        tool_results="needle result" in _rendered(template, one),
        thinking_switch=next((name for name in _SWITCHES if _switches(template, hello, name)), None),
    )


def conform(messages: Sequence[Message], capabilities: ChatCapabilities) -> list[Message]:
    """`messages` (OpenAI's) as the template wants them: text or parts, arguments parsed or not, no system turn, ...

    Only what the template could not render is changed. Raises ImpError for arguments that are no JSON object.
    """
    formed = [_formed(message, capabilities) for message in messages]
    if not (capabilities.system and capabilities.later_system):
        formed = systems_first(formed)
    if not capabilities.system:
        formed = _without_system(formed)
    if capabilities.tool_calls and not capabilities.parallel_calls:
        formed = one_call_a_turn(formed)
    return alternating(formed) if capabilities.alternates else formed


def _formed(message: Message, capabilities: ChatCapabilities) -> Message:
    changed: dict[str, Json] = dict(message)
    if changed.get("role") == "developer":
        changed["role"] = "system"
    content = changed.get("content")
    if content is None:
        content = ""
    changed["content"] = _content(content, capabilities)
    calls = changed.get("tool_calls")
    if isinstance(calls, Sequence) and not isinstance(calls, str):
        changed["tool_calls"] = [_call(call, capabilities) for call in calls]
    return changed


def _content(content: Json, capabilities: ChatCapabilities) -> Json:
    if isinstance(content, str):
        return [_part(content)] if capabilities.content == "list" else content
    if capabilities.content_lists or not isinstance(content, Sequence):
        return content
    texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
    if len(texts) != len(content):
        return content
    return "\n".join(text for text in texts if isinstance(text, str))


def _call(call: Json, capabilities: ChatCapabilities) -> Json:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        return call
    arguments = function.get("arguments")
    if capabilities.arguments == "string" and isinstance(arguments, Mapping):
        arguments = json.dumps(arguments, ensure_ascii=False)
    elif capabilities.arguments == "dict" and (arguments is None or isinstance(arguments, str)):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise ImpError(f"the arguments of the past call of {function.get('name')!r:.80} are not a JSON object")
    return {**call, "function": {**function, "arguments": arguments}}


def _without_system(messages: list[Message]) -> list[Message]:
    """The text of the system turn at the beginning of the first user turn."""
    if not messages or messages[0].get("role") != "system":
        return messages
    said, *rest = messages
    place = next((i for i, message in enumerate(rest) if message.get("role") == "user"), None)
    if place is None:
        return [_user(said.get("content")), *rest]
    rest[place] = {**rest[place], "content": joined(said.get("content"), rest[place].get("content"))}
    return rest


def _rendered(
    template: ChatTemplate, messages: Sequence[Message], tools: Sequence[Mapping[str, Json]] | None = None
) -> str:
    try:
        return template.render(messages, tools=tools)
    except ChatTemplateError:
        return ""


def _switches(template: ChatTemplate, hello: Message, name: str) -> bool:
    try:
        on, off = (template.render([hello], variables={name: value}) for value in (True, False))
    except ChatTemplateError:
        return False
    return on != off


def _user(content: Json) -> Message:
    return {"role": "user", "content": content}


def _part(text: str) -> Json:
    return {"type": "text", "text": text}


def _tool(name: str) -> Mapping[str, Json]:
    parameters: Json = {"type": "object", "properties": {_KEY: {"type": "string", "description": "A word."}}}
    return {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": parameters}}


def _calls(say: Callable[[str], Json], arguments: Json, names: tuple[str, ...] = ("first_tool",)) -> list[Message]:
    """A conversation with past calls. The ids have nine letters because some templates insist on that."""
    ids = [f"abcdefgh{place}" for place in range(len(names))]
    calls: list[Json] = [
        {"id": each, "type": "function", "function": {"name": name, "arguments": arguments}}
        for each, name in zip(ids, names, strict=True)
    ]
    return [
        _user(say("Hello")),
        {"role": "assistant", "content": say(""), "tool_calls": calls},
        *(
            {"role": "tool", "tool_call_id": each, "name": name, "content": say("needle result")}
            for each, name in zip(ids, names, strict=True)
        ),
    ]
