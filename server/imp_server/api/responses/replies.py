"""OpenAI's Responses: the only file that writes their JSON. Input are the events of a generation.

Shapes from https://platform.openai.com/docs/api-reference/responses and .../responses-streaming. The output is a list
of items (reasoning, message, function_call); in a stream each is added, filled and done before the next.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from imp_server.api.serialiser import PING, dumps
from imp_server.errors import ApiError
from imp_server.generation.events import (
    Event,
    Finished,
    Reasoning,
    Started,
    Text,
    TokenLogprob,
    ToolArguments,
    ToolClose,
    ToolOpen,
)
from imp_server.generation.reply import Reply
from imp_server.generation.timings import PromptProgress, Timings

Json = dict[str, JsonValue]


class Responses:
    """/v1/responses: one generation. `echoed` are the fields of the request that the response repeats.

    `timed`: every delta of a stream tells llama-server's `timings` so far, else only its last event.
    """

    ping = PING

    def __init__(self, model: str, echoed: Mapping[str, JsonValue], *, timed: bool = False) -> None:
        self.id = f"resp_{secrets.token_hex(16)}"
        self._model = model
        self._echoed = echoed
        self._created = int(time.time())
        self._sequence = -1
        self._output: list[Json] = []
        self._item: Json | None = None
        self._text = ""
        self._logprobs: list[TokenLogprob] = []
        self._finished: Finished | None = None
        self._timed = timed
        self._timings: Timings | None = None

    def chunk(self, index: int, event: Event) -> bytes:
        """The events of one event of the generation."""
        if isinstance(event, Timings):
            self._timings = event
            return b""
        if isinstance(event, PromptProgress):
            body = self._response("in_progress", [], None)
            return self._event("response.in_progress", response=body, prompt_progress=event.to_json())
        if isinstance(event, Text):
            opened = self._open("message")
            self._text += event.text
            self._logprobs += event.logprobs
            logprobs = _logprobs(event.logprobs)
            return opened + self._part("response.output_text.delta", delta=event.text, logprobs=logprobs)
        if isinstance(event, Reasoning):
            opened = self._open("reasoning")
            self._text += event.text
            return opened + self._part("response.reasoning_text.delta", delta=event.text)
        if isinstance(event, ToolOpen):
            closed = self._close()
            self._item = _call_item(event.id, event.name)
            return closed + self._event("response.output_item.added", **self._place(), item={**self._item})
        if isinstance(event, ToolArguments):
            self._text += event.text
            place = self._place()
            return self._event(
                "response.function_call_arguments.delta", **place, item_id=self._item_id(), delta=event.text
            )
        if isinstance(event, ToolClose):
            self._text = self._text or "{}"
            return self._close()
        if isinstance(event, Started):
            body = self._response("in_progress", [], None)
            return self._event("response.created", response=body) + self._event("response.in_progress", response=body)
        self._finished = event
        if event.reason == "length":
            return self._close("incomplete")
        said = {str(item["type"]) for item in (*self._output, self._item) if item is not None}
        empty = self._open("message") if said <= {"reasoning"} else b""  # a complete answer has a message or a call
        return empty + self._close()

    def end(self) -> bytes:
        """The response as a whole."""
        assert self._finished is not None
        status = "incomplete" if self._finished.reason == "length" else "completed"
        body = self._response(status, list(self._output), self._finished)
        return self._event(f"response.{status}", response=body)

    def error(self, error: ApiError) -> bytes:
        """The response has failed."""
        closed = self._close("incomplete")
        body = self._response("failed", list(self._output), None)
        body["error"] = {"code": "server_error", "message": str(error)}
        return closed + self._event("response.failed", response=body)

    def whole(self, replies: Sequence[Reply]) -> Mapping[str, JsonValue]:
        """The answer that is not streamed."""
        (reply,) = replies
        events: list[Event] = []
        if reply.reasoning:
            events.append(Reasoning(reply.reasoning))
        if reply.text:
            events.append(Text(reply.text, tuple(reply.logprobs)))
        for i, call in enumerate(reply.calls):
            events += [ToolOpen(i, call.id, call.name), ToolArguments(i, call.arguments), ToolClose(i)]
        for event in (*events, reply.finished):
            self.chunk(0, event)
        status = "incomplete" if reply.finished.reason == "length" else "completed"
        return self._response(status, list(self._output), reply.finished)

    def _response(self, status: str, output: list[JsonValue], finished: Finished | None) -> Json:
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self._model,
            "output": output,
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            **({"usage": _usage(finished)} if finished is not None else {}),
            **self._echoed,
        }

    def _event(self, kind: str, **fields: JsonValue) -> bytes:
        self._sequence += 1
        body = {"type": kind, **fields, "sequence_number": self._sequence}
        last = kind in ("response.completed", "response.incomplete")
        if self._timings is not None and (last or (self._timed and kind.endswith(".delta"))):
            body["timings"] = self._timings.to_json()
        return b"event: " + kind.encode() + b"\ndata: " + dumps(body) + b"\n\n"

    def _place(self) -> Json:
        return {"output_index": len(self._output)}

    def _item_id(self) -> JsonValue:
        return self._item["id"] if self._item else None

    def _part(self, kind: str, **fields: JsonValue) -> bytes:
        return self._event(kind, item_id=self._item_id(), **self._place(), content_index=0, **fields)

    def _open(self, kind: str) -> bytes:
        """Begin an item of text, unless it is open."""
        if self._item is not None and self._item["type"] == kind:
            return b""
        closed = self._close()
        self._item = _text_item(kind)
        part = _text_part(kind, "", ())
        return (
            closed
            + self._event("response.output_item.added", **self._place(), item={**self._item})
            + self._part("response.content_part.added", part=part)
        )

    def _close(self, status: str = "completed") -> bytes:
        """End the open item, if there is one."""
        item, text = self._item, self._text
        if item is None:
            return b""
        kind = str(item["type"])
        if kind == "function_call":
            item["arguments"] = text
            done = self._event(
                "response.function_call_arguments.done",
                **self._place(),
                item_id=item["id"],
                name=item["name"],
                arguments=text,
            )
        else:
            part = _text_part(kind, text, self._logprobs)
            item["content"] = [part]
            if kind == "message":
                done = self._part("response.output_text.done", text=text, logprobs=_logprobs(self._logprobs))
            else:
                done = self._part("response.reasoning_text.done", text=text)
            done += self._part("response.content_part.done", part=part)
        item["status"] = status
        done += self._event("response.output_item.done", **self._place(), item=item)
        self._output.append(item)
        self._item, self._text, self._logprobs = None, "", []
        return done


def _text_item(kind: str) -> Json:
    if kind == "reasoning":
        return {
            "id": f"rs_{secrets.token_hex(16)}",
            "type": kind,
            "status": "in_progress",
            "summary": [],
            "content": [],
        }
    return {
        "id": f"msg_{secrets.token_hex(16)}",
        "type": kind,
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }


def _text_part(kind: str, text: str, logprobs: Sequence[TokenLogprob]) -> Json:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": _logprobs(logprobs)}


def _call_item(call_id: str, name: str) -> Json:
    return {
        "id": f"fc_{secrets.token_hex(16)}",
        "type": "function_call",
        "status": "in_progress",
        "call_id": call_id,
        "name": name,
        "arguments": "",
    }


def _logprobs(logprobs: Sequence[TokenLogprob]) -> list[JsonValue]:
    return [
        {
            "token": each.token,
            "logprob": each.logprob,
            "bytes": list(each.bytes),
            "top_logprobs": [{"token": token, "logprob": value, "bytes": list(raw)} for token, raw, value in each.top],
        }
        for each in logprobs
    ]


def _usage(finished: Finished) -> Json:
    return {
        "input_tokens": finished.prompt_tokens,
        "input_tokens_details": {"cached_tokens": finished.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": finished.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": finished.reasoning_tokens},
        "total_tokens": finished.prompt_tokens + finished.completion_tokens,
    }
