"""OpenAI's chat completions and completions: the only file that writes their JSON. Input are the events.

Shapes from https://platform.openai.com/docs/api-reference. A stream has one chunk with the role (chat), chunks with
non-empty text, one chunk with the finish reason per choice, a usage chunk only where asked, then `[DONE]`.
"""

from __future__ import annotations

import secrets
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

from pydantic import JsonValue

from imp_server.api.serialiser import PING, dumps, sse
from imp_server.errors import ApiError, openai_error
from imp_server.generation.events import (
    Event,
    Finished,
    Reasoning,
    Started,
    Text,
    TokenLogprob,
    ToolArguments,
    ToolOpen,
)
from imp_server.generation.reply import Reply
from imp_server.generation.timings import PromptProgress, Timings

DONE = b"data: [DONE]\n\n"
_END = b"}\n\n"  # of every chunk
Verbose = Callable[[int, Reply], Mapping[str, JsonValue]]


class _OpenAi:
    """What chat completions and completions share: identity, usage, the errors, and llama-server's further fields.

    `fingerprint` names what computes the answers; `timed`: every chunk tells the times so far, else only the last.
    """

    ping = PING

    def __init__(
        self, prefix: str, kind: str, chunk_kind: str, model: str, fingerprint: str, *, include_usage: bool, timed: bool
    ) -> None:
        self.id = prefix + secrets.token_hex(12)
        self._kind = kind
        self._chunk_kind = chunk_kind
        self._model = model
        self._fingerprint = fingerprint
        self._created = int(time.time())
        self._timed = timed
        self._timings: dict[int, Timings] = {}
        self._include_usage = include_usage
        self._finished: dict[int, Finished] = {}
        # Of a chunk only one choice changes: all before and behind it is written once.
        head = dumps(self._object(chunk_kind, [])).removesuffix(b"]}")
        self._head = b"data: " + head
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._prompts = 1
        # Of a chunk that has nothing but a text, by choice, all before and behind that, too.
        self._around: dict[int, tuple[bytes, bytes]] = {}

    def chunk(self, index: int, event: Event) -> bytes:
        """The chunk of one event, if it has one."""
        if type(event) is Text and self._bare and not event.logprobs:
            return self._text(index, event.text)
        if isinstance(event, Timings):
            self._timings[index] = event
            return b""
        if isinstance(event, PromptProgress):
            chunk = _with(self._nothing(index), "prompt_progress", event.to_json())
        else:
            chunk = self._chunk(index, event)
        timings = self._timings.get(index)
        told = timings is not None and bool(chunk) and (self._timed or isinstance(event, Finished))
        return _with(chunk, "timings", timings.to_json()) if told and timings is not None else chunk

    @abstractmethod
    def _chunk(self, index: int, event: Event) -> bytes:
        """The chunk of one event, if it has one."""

    @property
    @abstractmethod
    def _bare(self) -> bool:
        """Whether a chunk with a text has nothing else to say, unless there are log-probabilities."""

    @abstractmethod
    def _with_text(self, index: int, text: str) -> bytes:
        """A chunk of a choice with a text and nothing else."""

    @abstractmethod
    def _nothing(self, index: int) -> bytes:
        """A chunk of a choice that says nothing."""

    def _text(self, index: int, text: str) -> bytes:
        """The common case, without building the whole of it."""
        around = self._around.get(index)
        if around is None:
            before, after = self._with_text(index, "").split(b'""', 1)
            around = self._around[index] = before, after
        return around[0] + dumps(text) + around[1]

    def end(self) -> bytes:
        """Usage where asked, then `[DONE]`."""
        if not self._include_usage:
            return DONE
        body = self._object(self._chunk_kind, []) | {"usage": usage(list(self._finished.values()), self._prompts)}
        return sse(body | self._told(list(self._timings.values()))) + DONE

    def _told(self, timings: Sequence[Timings | None]) -> dict[str, JsonValue]:
        """`timings` of a body, if it is of one generation; of several each choice's last chunk has its own."""
        return {"timings": timings[0].to_json()} if len(timings) == 1 and timings[0] is not None else {}

    def error(self, error: ApiError) -> bytes:
        """An error object, then nothing more."""
        return sse(openai_error(error))

    def _object(self, kind: str, choices: list[JsonValue]) -> dict[str, JsonValue]:
        return {
            "id": self.id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": self._fingerprint,
            "choices": choices,
        }

    def _choice(self, index: int, name: str, value: JsonValue, logprobs: JsonValue, finish: str | None) -> bytes:
        choice = {"index": index, name: value, "logprobs": logprobs, "finish_reason": finish}
        return self._head + dumps(choice) + self._tail


class Chat(_OpenAi):
    """/v1/chat/completions. `reasoning` false leaves reasoning out; `logprobs` says whether they were asked for.

    `verbose` makes llama-server's `__verbose`: the answer as its own API has it.
    """

    def __init__(
        self,
        model: str,
        fingerprint: str,
        *,
        include_usage: bool,
        reasoning: bool,
        logprobs: bool,
        timed: bool = False,
        verbose: Verbose | None = None,
    ) -> None:
        kinds = ("chatcmpl-", "chat.completion", "chat.completion.chunk")
        super().__init__(*kinds, model, fingerprint, include_usage=include_usage, timed=timed)
        self._verbose = verbose
        self._reasoning = reasoning
        self._logprobs = logprobs

    def _chunk(self, index: int, event: Event) -> bytes:
        if isinstance(event, Text):
            if not event.logprobs:
                return self._text(index, event.text)
            return self._delta(index, {"content": event.text}, chat_logprobs(event.logprobs))
        if isinstance(event, Reasoning):
            if not self._reasoning:
                return b""
            return self._delta(index, {"reasoning_content": event.text, "reasoning": event.text})
        if isinstance(event, ToolOpen):
            function: JsonValue = {"name": event.name, "arguments": ""}
            call: JsonValue = {"index": event.index, "id": event.id, "type": "function", "function": function}
            return self._delta(index, {"tool_calls": [call]})
        if isinstance(event, ToolArguments):
            arguments: JsonValue = {"index": event.index, "function": {"arguments": event.text}}
            return self._delta(index, {"tool_calls": [arguments]})
        if isinstance(event, Started):
            return self._delta(index, {"role": "assistant", "content": None})
        if isinstance(event, Finished):
            self._finished[index] = event
            chunk = self._choice(index, "delta", {}, None, event.reason)
            if self._verbose is None:
                return chunk
            said = Reply(Started(event.prompt_tokens), timings=self._timings.get(index), finished=event)
            return _with(chunk, "__verbose", dict(self._verbose(index, said)))
        return b""

    def whole(self, replies: Sequence[Reply]) -> Mapping[str, JsonValue]:
        """The response that is not streamed."""
        choices: list[JsonValue] = []
        for index, reply in enumerate(replies):
            message: dict[str, JsonValue] = {"role": "assistant", "content": reply.text, "refusal": None}
            if reply.reasoning and self._reasoning:
                message |= {"reasoning_content": reply.reasoning, "reasoning": reply.reasoning}
            if reply.calls:
                message["content"] = reply.text or None
                message["tool_calls"] = [
                    {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                    for call in reply.calls
                ]
            logprobs = chat_logprobs(reply.logprobs) if self._logprobs else None
            finish = reply.finished.reason
            choices.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish})
        body = self._object(self._kind, choices) | {"usage": usage([reply.finished for reply in replies], 1)}
        if self._verbose is not None:
            body["__verbose"] = dict(self._verbose(0, replies[0]))
        return body | self._told([reply.timings for reply in replies])

    @property
    def _bare(self) -> bool:
        return not self._timed

    def _with_text(self, index: int, text: str) -> bytes:
        return self._delta(index, {"content": text})

    def _nothing(self, index: int) -> bytes:
        return self._delta(index, {})

    def _delta(self, index: int, delta: dict[str, JsonValue], logprobs: JsonValue = None) -> bytes:
        return self._choice(index, "delta", delta, logprobs, None)


class Completion(_OpenAi):
    """/v1/completions. `echoes` are the prompts to repeat, by prompt, with their log-probabilities where asked.

    Choice i * n + j is generation j of prompt i.
    """

    def __init__(
        self,
        model: str,
        fingerprint: str,
        *,
        include_usage: bool,
        prompts: int,
        logprobs: int | None,
        timed: bool = False,
        echoes: Sequence[tuple[str, Sequence[TokenLogprob | None], Sequence[str]]] = (),
        n: int = 1,
    ) -> None:
        kinds = ("cmpl-", "text_completion", "text_completion")
        super().__init__(*kinds, model, fingerprint, include_usage=include_usage, timed=timed)
        self._prompts = prompts
        self._logprobs = logprobs
        self._echoes = echoes
        self._n = n
        self._offsets: dict[int, int] = {}

    def _chunk(self, index: int, event: Event) -> bytes:
        if isinstance(event, Text):
            if self._logprobs is None:
                return self._text(index, event.text)
            logprobs = self._shape(event.logprobs, self._offsets.get(index, 0))
            self._offsets[index] = self._offsets.get(index, 0) + len(event.text)
            return self._choice(index, "text", event.text, {**logprobs} if logprobs else None, None)
        if isinstance(event, Started) and self._echoes:
            text, echoed = self._echo(index)
            return self._choice(index, "text", text, {**echoed} if echoed else None, None)
        if isinstance(event, Finished):
            self._finished[index] = event
            return self._choice(index, "text", "", None, event.reason)
        return b""

    def whole(self, replies: Sequence[Reply]) -> Mapping[str, JsonValue]:
        """The response that is not streamed."""
        choices: list[JsonValue] = []
        for index, reply in enumerate(replies):
            text, logprobs = self._echo(index) if self._echoes else ("", self._shape((), 0))
            if logprobs is not None:
                for name, values in (self._shape(reply.logprobs, len(text)) or {}).items():
                    logprobs[name] += values
            choices.append(
                {
                    "index": index,
                    "text": text + reply.text,
                    "logprobs": dict(logprobs) if logprobs is not None else None,
                    "finish_reason": reply.finished.reason,
                }
            )
        finished = [reply.finished for reply in replies]
        body = self._object(self._kind, choices) | {"usage": usage(finished, self._prompts)}
        return body | self._told([reply.timings for reply in replies])

    @property
    def _bare(self) -> bool:
        return not self._timed and self._logprobs is None

    def _with_text(self, index: int, text: str) -> bytes:
        return self._choice(index, "text", text, None, None)

    def _nothing(self, index: int) -> bytes:
        return self._choice(index, "text", "", None, None)

    def _echo(self, index: int) -> tuple[str, dict[str, list[JsonValue]] | None]:
        text, logprobs, tokens = self._echoes[index // self._n]
        self._offsets[index] = len(text)
        if self._logprobs is None:
            return text, None
        shape = self._shape([each for each in logprobs if each is not None], 0)
        assert shape is not None
        if logprobs and logprobs[0] is None:  # nothing comes before the first token
            shape["tokens"].insert(0, tokens[0])
            shape["token_logprobs"].insert(0, None)
            shape["top_logprobs"].insert(0, None)
        shape["text_offset"] = []
        offset = 0
        for token in tokens:
            shape["text_offset"].append(offset)
            offset += len(token)
        return text, shape

    def _shape(self, logprobs: Sequence[TokenLogprob], offset: int) -> dict[str, list[JsonValue]] | None:
        if self._logprobs is None:
            return None
        offsets: list[JsonValue] = []
        for each in logprobs:
            offsets.append(offset)
            offset += len(each.token)
        return {
            "tokens": [each.token for each in logprobs],
            "token_logprobs": [each.logprob for each in logprobs],
            "top_logprobs": [{text: value for text, _, value in reversed(each.top)} for each in logprobs],
            "text_offset": offsets,
        }


def chat_logprobs(logprobs: Sequence[TokenLogprob]) -> JsonValue:
    """`logprobs` of a chat choice."""
    content: list[JsonValue] = [
        {
            "token": each.token,
            "logprob": each.logprob,
            "bytes": list(each.bytes),
            "top_logprobs": [{"token": token, "logprob": value, "bytes": list(raw)} for token, raw, value in each.top],
        }
        for each in logprobs
    ]
    return {"content": content, "refusal": None}


def usage(finished: Sequence[Finished], prompts: int) -> dict[str, JsonValue]:
    """`usage`: every prompt once, however many choices it has."""
    n = max(len(finished) // prompts, 1)
    prompt = sum(each.prompt_tokens for each in finished[::n])
    cached = sum(each.cached_tokens for each in finished[::n])
    completion = sum(each.completion_tokens for each in finished)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": sum(each.reasoning_tokens for each in finished)},
    }


def _with(chunk: bytes, name: str, value: JsonValue) -> bytes:
    """A chunk with another field."""
    return chunk[: -len(_END)] + b',"' + name.encode() + b'":' + dumps(value) + _END
