"""OpenAI's responses: the only file that knows their JSON. Input are the events of a generation.

Shapes from https://platform.openai.com/docs/api-reference. A stream has one chunk with the role (chat), chunks with
non-empty text, one chunk with the finish reason, a usage chunk only where asked, then `[DONE]`.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from imp_server.errors import ApiError
from imp_server.generation import Event, Finished, Started, Text

Kind = Literal["chat", "completion"]
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


@dataclass(frozen=True, slots=True)
class Reply:
    """The identity of one reply: the same id, time and model on all its chunks."""

    kind: Kind
    model: str
    include_usage: bool = False
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    @staticmethod
    def new(kind: Kind, model: str, *, include_usage: bool) -> Reply:
        """A reply with a fresh id."""
        prefix = "chatcmpl-" if kind == "chat" else "cmpl-"
        return Reply(kind, model, include_usage, prefix + secrets.token_hex(12))

    def whole(self, text: str, finished: Finished) -> dict[str, JsonValue]:
        """The response that is not streamed."""
        content: dict[str, JsonValue] = {"text": text}
        if self.kind == "chat":
            content = {"message": {"role": "assistant", "content": text, "refusal": None}}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finished.reason}
        return self._object("", choices=[choice]) | {"usage": _usage(finished)}

    def chunks(self, event: Event) -> Iterator[bytes]:
        """The chunks of one event; after those of `Finished` the stream is complete."""
        if isinstance(event, Started):
            if self.kind == "chat":
                yield self._chunk({"delta": {"role": "assistant", "content": None}}, None)
            return
        if isinstance(event, Text):
            yield self._chunk({"delta": {"content": event.text}} if self.kind == "chat" else {"text": event.text}, None)
            return
        yield self._chunk({"delta": {}} if self.kind == "chat" else {"text": ""}, event.reason)
        if self.include_usage:
            yield sse(self._object(".chunk", choices=[]) | {"usage": _usage(event)})
        yield DONE

    def _chunk(self, content: dict[str, JsonValue], finish: str | None) -> bytes:
        choice: dict[str, JsonValue] = {"index": 0, **content, "logprobs": None, "finish_reason": finish}
        usage: dict[str, JsonValue] = {"usage": None} if self.include_usage else {}
        return sse(self._object(".chunk", choices=[choice]) | usage)

    def _object(self, suffix: str, *, choices: list[JsonValue]) -> dict[str, JsonValue]:
        name = f"chat.completion{suffix}" if self.kind == "chat" else "text_completion"
        return {"id": self.id, "object": name, "created": self.created, "model": self.model, "choices": choices}


def model_object(model_id: str, created: int, context: int) -> dict[str, JsonValue]:
    """An entry of /v1/models; `max_model_len` is where clients look for the context length."""
    return {"id": model_id, "object": "model", "created": created, "owned_by": "imp", "max_model_len": context}


def error_object(error: ApiError) -> dict[str, JsonValue]:
    """The body of every error."""
    return {"error": {"message": str(error), "type": error.kind, "param": error.param, "code": error.code}}


def sse(body: Mapping[str, JsonValue]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _usage(finished: Finished) -> dict[str, JsonValue]:
    return {
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.completion_tokens,
        "total_tokens": finished.prompt_tokens + finished.completion_tokens,
    }
