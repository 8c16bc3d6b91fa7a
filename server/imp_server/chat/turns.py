"""The turns of a conversation in an order that a chat template takes.

Agents put system turns between others, send two user turns in a row, and several calls in one turn. Many templates
refuse that, or lose a part of it. What is changed stays where it was said, so that the next request's prompt begins
with this one's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from imp_server.chat.template import Json, Message


def systems_first(messages: Sequence[Message]) -> list[Message]:
    """One system turn at the beginning at most; a later one is said by the user."""
    start = next((i for i, message in enumerate(messages) if message.get("role") != "system"), len(messages))
    rest = [{**message, "role": "user"} if message.get("role") == "system" else message for message in messages[start:]]
    return [*_merged(messages[:start]), *rest]


def one_call_a_turn(messages: Sequence[Message]) -> list[Message]:
    """Every call in a turn of its own, and its result behind it."""
    ordered: list[Message] = []
    place = 0
    while place < len(messages):
        message = messages[place]
        place += 1
        calls = message.get("tool_calls")
        if not isinstance(calls, Sequence) or isinstance(calls, str) or len(calls) < 2:
            ordered.append(message)
            continue
        end = next((i for i in range(place, len(messages)) if messages[i].get("role") != "tool"), len(messages))
        results, place = list(messages[place:end]), end
        nothing: Json = "" if isinstance(message.get("content"), str) else []
        for i, call in enumerate(calls):
            ordered.append({**message, "tool_calls": [call]} if i == 0 else _call(call, nothing))
            given = call.get("id") if isinstance(call, Mapping) else None
            found = [result for result in results if given is not None and result.get("tool_call_id") == given]
            ordered += found
            results = [result for result in results if result not in found]
        ordered += results
    return ordered


def results_with_calls(messages: Sequence[Message]) -> list[Message]:
    """The results of calls in the turn of these, as `tool_responses`, and behind them what the model says next.

    So Gemma 4's first templates want it: its turn does not end with a call, and goes on after the result.
    """
    told: list[Message] = []
    for message in messages:
        last = told[-1] if told else {}
        calls = last.get("tool_calls")
        responses = last.get("tool_responses")
        if message.get("role") == "tool" and isinstance(calls, Sequence):
            given: Json = {"response": message.get("content"), **_named(message, calls)}
            told[-1] = {**last, "tool_responses": [*_parts(responses), given]}
        elif (
            responses
            and not last.get("content")
            and message.get("role") == "assistant"
            and not message.get("tool_calls")
        ):
            told[-1] = {**last, "content": message.get("content")}
        else:
            told.append(message)
    return told


def alternating(messages: Sequence[Message]) -> list[Message]:
    """User turns in a row are one; what a user says behind the result of a tool is said with the result."""
    return _merged(messages, behind_tool=True)


def _merged(messages: Sequence[Message], *, behind_tool: bool = False) -> list[Message]:
    """Turns of the same role in a row made one, but not those of the assistant and of tools."""
    merged: list[Message] = []
    for message in messages:
        role = message.get("role")
        last = merged[-1] if merged else {}
        follows = last.get("role") == role and role in ("system", "user")
        if follows or (behind_tool and role == "user" and last.get("role") == "tool"):
            merged[-1] = {**last, "content": joined(last.get("content"), message.get("content"))}
        else:
            merged.append(message)
    return merged


def joined(first: Json, second: Json) -> Json:
    """Two contents in one, an empty line between; texts or lists of parts."""
    if isinstance(first, str) and isinstance(second, str):
        return "\n\n".join(text for text in (first, second) if text)
    return [*_parts(first), {"type": "text", "text": "\n\n"}, *_parts(second)]


def _parts(content: Json) -> Sequence[Json]:
    if isinstance(content, Sequence) and not isinstance(content, str):
        return content
    return [{"type": "text", "text": content}] if isinstance(content, str) else []


def _named(result: Message, calls: Sequence[Json]) -> dict[str, Json]:
    """The name of the call that a result is of, if it is known."""
    given, name = result.get("tool_call_id"), result.get("name")
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) and call.get("id") == given else None
        if isinstance(function, Mapping):
            name = function.get("name")
    return {} if name is None else {"name": name}


def _call(call: Json, nothing: Json) -> Message:
    return {"role": "assistant", "content": nothing, "tool_calls": [call]}
