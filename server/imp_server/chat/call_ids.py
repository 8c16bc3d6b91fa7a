"""Ids of past tool calls: every result has the id of its call, in a form that the chat template takes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

from imp_server.chat.template import Json, Message

_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHORT = re.compile(r"[a-zA-Z0-9]{9}")


def answered(messages: Sequence[Message]) -> list[Message]:
    """Results without an id get those of the calls before them that have no result yet, in order."""
    found: list[Message] = []
    waiting: list[Json] = []
    for message in messages:
        if calls := _calls(message):
            waiting = [call["id"] for call in calls if isinstance(call.get("id"), str)]
        elif message.get("role") == "tool":
            given = message.get("tool_call_id")
            if given is None and waiting:
                message = {**message, "tool_call_id": waiting.pop(0)}
            elif given in waiting:
                waiting.remove(given)
        found.append(message)
    return found


def shortened(messages: Sequence[Message]) -> list[Message]:
    """Ids of nine letters and digits, which Mistral's templates insist on; the same id gives the same one always."""
    found: list[Message] = []
    for message in messages:
        changed = dict(message)
        if calls := _calls(message):
            changed["tool_calls"] = [{**call, "id": _short(call.get("id"))} for call in calls]
        if "tool_call_id" in changed:
            changed["tool_call_id"] = _short(changed["tool_call_id"])
        found.append(changed)
    return found


def _calls(message: Message) -> list[Mapping[str, Json]]:
    calls = message.get("tool_calls")
    return [call for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []


def _short(given: Json) -> Json:
    if not isinstance(given, str) or _SHORT.fullmatch(given):
        return given
    number = int.from_bytes(hashlib.sha256(given.encode(errors="surrogatepass")).digest())
    letters = []
    for _ in range(9):
        number, place = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[place])
    return "".join(letters)
