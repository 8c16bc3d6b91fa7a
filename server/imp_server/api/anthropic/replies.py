"""Anthropic's messages: the only file that writes their JSON. Input are the events of a generation.

Shapes from https://docs.anthropic.com/en/api/messages and .../messages-streaming: `message_start`, then block after
block, each started, filled and stopped before the next, then `message_delta` and `message_stop`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from imp_server.api.serialiser import dumps
from imp_server.errors import ApiError, anthropic_error
from imp_server.generation.events import Event, Finished, Reasoning, Started, Text, ToolArguments, ToolClose, ToolOpen
from imp_server.generation.reply import Reply
from imp_server.generation.timings import PromptProgress, Timings


def event(name: str, **fields: JsonValue) -> bytes:
    """A server-sent event of Anthropic's: the name is in the data, too."""
    return b"event: " + name.encode() + b"\ndata: " + dumps({"type": name, **fields}) + b"\n\n"


class Messages:
    """/v1/messages: one generation."""

    ping = event("ping")

    def __init__(self, model: str, *, request_id: str | None) -> None:
        self.id = f"msg_{secrets.token_hex(12)}"
        self._model = model
        self._request_id = request_id
        self._index = -1
        self._block: str | None = None
        self._empty_arguments = False

    def chunk(self, index: int, event_: Event) -> bytes:
        """The events of one event of the generation."""
        if isinstance(event_, PromptProgress | Timings):  # Anthropic has no place for them
            return b""
        if isinstance(event_, Text):
            if not event_.text:
                return b""
            opened = self._open("text", {"type": "text", "text": ""})
            return opened + self._delta({"type": "text_delta", "text": event_.text})
        if isinstance(event_, Reasoning):
            opened = self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            return opened + self._delta({"type": "thinking_delta", "thinking": event_.text})
        if isinstance(event_, ToolOpen):
            block: dict[str, JsonValue] = {"type": "tool_use", "id": event_.id, "name": event_.name, "input": {}}
            self._empty_arguments = True
            return self._close() + self._open("tool_use", block)
        if isinstance(event_, ToolArguments):
            self._empty_arguments = False
            return self._delta({"type": "input_json_delta", "partial_json": event_.text})
        if isinstance(event_, ToolClose):
            empty = self._delta({"type": "input_json_delta", "partial_json": "{}"}) if self._empty_arguments else b""
            return empty + self._close()
        if isinstance(event_, Started):
            started = _usage(event_.prompt_tokens, event_.cached_tokens, 0)
            return event("message_start", message=self._message([], None, None, started))
        delta: JsonValue = {"stop_reason": _reason(event_), "stop_sequence": event_.stop_string}
        usage = _usage(event_.prompt_tokens, event_.cached_tokens, event_.completion_tokens)
        return self._close() + event("message_delta", delta=delta, usage=usage)

    def end(self) -> bytes:
        """`message_stop`."""
        return event("message_stop")

    def error(self, error: ApiError) -> bytes:
        """`error`."""
        return b"event: error\ndata: " + dumps(anthropic_error(error, self._request_id)) + b"\n\n"

    def whole(self, replies: Sequence[Reply]) -> Mapping[str, JsonValue]:
        """The answer that is not streamed."""
        (reply,) = replies
        content: list[JsonValue] = []
        if reply.reasoning:
            content.append({"type": "thinking", "thinking": reply.reasoning, "signature": ""})
        if reply.text:
            content.append({"type": "text", "text": reply.text})
        for call in reply.calls:
            content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": _object(call.arguments)})
        finished = reply.finished
        usage = _usage(finished.prompt_tokens, finished.cached_tokens, finished.completion_tokens)
        return self._message(content, _reason(finished), finished.stop_string, usage)

    def _message(
        self, content: list[JsonValue], reason: str | None, stop: str | None, usage: dict[str, JsonValue]
    ) -> dict[str, JsonValue]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": usage,
        }

    def _open(self, kind: str, block: dict[str, JsonValue]) -> bytes:
        if self._block == kind:
            return b""
        closed = self._close()
        self._block = kind
        self._index += 1
        return closed + event("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: dict[str, JsonValue]) -> bytes:
        return event("content_block_delta", index=self._index, delta=delta)

    def _close(self) -> bytes:
        if self._block is None:
            return b""
        self._block = None
        return event("content_block_stop", index=self._index)


def _reason(finished: Finished) -> str:
    if finished.stop_string is not None and finished.reason == "stop":
        return "stop_sequence"
    return {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}[finished.reason]


def _usage(prompt: int, cached: int, completion: int) -> dict[str, JsonValue]:
    """`input_tokens` are those that had to be computed."""
    return {
        "input_tokens": prompt - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": completion,
    }


def _object(arguments: str) -> JsonValue:
    """The arguments of a call; what a cut-off reply leaves of them is no JSON and becomes empty."""
    try:
        value: JsonValue = json.loads(arguments)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
