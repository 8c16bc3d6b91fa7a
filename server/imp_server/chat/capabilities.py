"""What a chat template can do, and messages put the way it wants them.

The findings are made when a model is compiled (chat_probe.py) and stored in its artifact as `chat.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

from imp_runtime.errors import ImpError
from imp_server.chat.call_ids import answered, shortened
from imp_server.chat.template import Json, Message
from imp_server.chat.turns import alternating, joined, one_call_a_turn, results_with_calls, systems_first


@dataclass(frozen=True, slots=True)
class ChatCapabilities:
    """What one template does.

    `parser`: the family whose replies it leads to, `plain` where none reads the calls that it writes; `written`: two
    calls as it writes them, or one. `arguments`: the form in which it wants the arguments of past tool calls;
    `text_arguments`: a text comes out as it is, whatever is in it.
    `content`: the form in which it wants text; `content_lists`: lists of parts come out right as well. `needs_tools`:
    it does not render without a list of tools. `later_system`: system turns behind the first come out, where they
    stand. `alternates`: two user turns in a row, or one behind the result of a tool, do not come out. `short_ids`: the
    id of a call must have nine letters or digits. `results_in_calls`: results of tools are told in the turn of their
    calls, as its `tool_responses`. `thinking_switch`: the variable that turns reasoning on and off.
    """

    parser: str
    written: str = ""
    arguments: Literal["dict", "string"] = "dict"
    text_arguments: bool = False
    content: Literal["string", "list"] = "string"
    content_lists: bool = False
    needs_tools: bool = False
    system: bool = True
    later_system: bool = True
    alternates: bool = False
    tools: bool = False
    tool_calls: bool = False
    parallel_calls: bool = False
    tool_results: bool = False
    short_ids: bool = False
    results_in_calls: bool = False
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
        texts = isinstance(values, dict) and all(
            isinstance(values.get(name, ""), str) for name in ("parser", "written")
        )
        if not texts or "parser" not in values or not values.keys() <= known:
            raise ImpError("chat.json is not what this version writes; compile the model again")
        for name, allowed in _VALUES.items():
            if name in values and values[name] not in allowed:
                raise ImpError(f"chat.json: {name} is {values[name]!r:.40}; compile the model again")
        return ChatCapabilities(**values)


_VALUES: dict[str, tuple[object, ...]] = {
    "arguments": ("dict", "string"),
    "content": ("string", "list"),
    "thinking_switch": (None, "enable_thinking", "thinking"),
    **dict.fromkeys(
        (
            "text_arguments",
            "content_lists",
            "needs_tools",
            "system",
            "later_system",
            "alternates",
            "tools",
            "tool_calls",
            "parallel_calls",
            "tool_results",
            "short_ids",
            "results_in_calls",
        ),
        (True, False),
    ),
}


def conform(messages: Sequence[Message], capabilities: ChatCapabilities) -> list[Message]:
    """`messages` (OpenAI's) as the template wants them: text or parts, arguments parsed or not, no system turn, ...

    Only what the template could not render is changed.
    """
    formed = answered([_formed(message, capabilities) for message in messages])
    if capabilities.short_ids:
        formed = shortened(formed)
    if not (capabilities.system and capabilities.later_system):
        formed = systems_first(formed)
    if not capabilities.system:
        formed = _without_system(formed)
    if capabilities.tool_calls and not capabilities.parallel_calls:
        formed = one_call_a_turn(formed)
    if capabilities.results_in_calls:
        formed = results_with_calls(formed)
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
        return [part(content)] if capabilities.content == "list" else content
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
        arguments = _parsed(arguments or "{}", capabilities)
    return {**call, "function": {**function, "arguments": arguments}}


def _parsed(text: str, capabilities: ChatCapabilities) -> Json:
    """The object that `text` is. Else the model sees what it wrote, when `max_tokens` cut it, to do better."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return value
    return text if capabilities.text_arguments else {"invalid_json": text}


def _without_system(messages: list[Message]) -> list[Message]:
    """The text of the system turn at the beginning of the first user turn."""
    if not messages or messages[0].get("role") != "system":
        return messages
    said, *rest = messages
    place = next((i for i, message in enumerate(rest) if message.get("role") == "user"), None)
    if place is None:
        return [user(said.get("content")), *rest]
    rest[place] = {**rest[place], "content": joined(said.get("content"), rest[place].get("content"))}
    return rest


def user(content: Json) -> Message:
    """A user's message."""
    return {"role": "user", "content": content}


def part(text: str) -> Json:
    """A text in a list of parts."""
    return {"type": "text", "text": text}
