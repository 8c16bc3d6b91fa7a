"""Tools for models whose chat template has no place for them: told in the system turn, called in Hermes' spelling.

Past calls and results are written out in the same spelling, so that the model sees what is asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from imp_server.chat.template import Json, Message
from imp_server.chat.turns import joined
from imp_server.parsers import ParserFamily, families

_HOW = """You may call functions. These are there, each as a JSON object on a line of its own:
{functions}
To call one, write
<tool_call>
{{"name": "its name", "arguments": {{"parameter": "value"}}}}
</tool_call>
and, for several, one such block after the other. Then stop: what they return comes between <tool_response> tags. \
Where no function is needed, answer without."""


def spelling(parsers: ParserFamily) -> ParserFamily:
    """The parser of replies to `told`; reasoning stays between the model's own tags."""
    return replace(parsers, family=families()["hermes"])


def told(messages: Sequence[Message], tools: Sequence[Mapping[str, Json]]) -> list[Message]:
    """`messages` with `tools` in the system turn, and with calls and results as text."""
    said = [_spelled(message) for message in messages]
    if not tools:
        return said
    functions = "\n".join(json.dumps(tool.get("function"), ensure_ascii=False) for tool in tools)
    how = _HOW.format(functions=functions)
    if said and said[0].get("role") == "system":
        return [{**said[0], "content": joined(said[0].get("content"), how)}, *said[1:]]
    return [{"role": "system", "content": how}, *said]


def _spelled(message: Message) -> Message:
    if message.get("role") == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message.get('content') or ''}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not isinstance(calls, Sequence) or isinstance(calls, str) or not calls:
        return message
    said = str(message.get("content") or "")
    blocks = [f"<tool_call>\n{_call(call)}\n</tool_call>" for call in calls]
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**rest, "content": "\n".join([*([said] if said else []), *blocks])}


def _call(call: Json) -> str:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return "{}"
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) and arguments else json.dumps(arguments or {}, ensure_ascii=False)
    return f'{{"name": {json.dumps(function.get("name"), ensure_ascii=False)}, "arguments": {text}}}'
