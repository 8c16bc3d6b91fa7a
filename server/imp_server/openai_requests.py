"""OpenAI request bodies: what is accepted, what is refused by name, what is ignored.

Shapes from https://platform.openai.com/docs/api-reference (chat/completions, completions). A field that would change
the answer and is not offered is an error, so that nobody gets another answer than the one asked for; harmless and
unknown fields are ignored. `null` counts as absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from imp_server.chat_template import Message
from imp_server.errors import ApiError
from imp_server.options import Options

Body = TypeVar("Body", bound="GenerationBody")

_Stop = Annotated[str, Field(max_length=1024)]
_MOST_STOPS = 16
_Int64 = Annotated[int, Field(ge=-(2**63), lt=2**64)]
_Int32 = Annotated[int, Field(ge=-1, lt=2**31)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]

# Fields that are not offered, with the values that ask for nothing.
_NOT_OFFERED: Mapping[str, Sequence[JsonValue]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "echo": (False,),
    "suffix": ("",),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "tool_choice": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "grammar": ("",),
    "json_schema": ({},),
    "structured_outputs": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "typical_p": (1,),
    "mirostat": (0,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
}


class StreamOptions(BaseModel):
    """`stream_options` of a request."""

    include_usage: bool | None = None


class GenerationBody(BaseModel):
    """What both endpoints share. Extra fields are kept so that those that are not offered can be refused by name."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _Int32 | None = None
    temperature: _Finite | None = None
    top_k: _Int32 | None = None
    top_p: _Finite | None = None
    min_p: _Finite | None = None
    repetition_penalty: _Finite | None = None
    repeat_penalty: _Finite | None = None
    frequency_penalty: _Finite | None = None
    presence_penalty: _Finite | None = None
    seed: _Int64 | None = None
    ignore_eos: bool | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=_MOST_STOPS)] | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def options(self, max_tokens: int) -> Options:
        """Sampling options; `max_tokens` is the limit where the request names none (or -1: no limit)."""
        asked = self.max_tokens
        return Options(
            max_tokens=max_tokens if asked is None or asked == -1 else asked,
            temperature=self.temperature,
            top_k=None if self.top_k is None else max(self.top_k, 0),
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repeat_penalty if self.repetition_penalty is None else self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            seed=None if self.seed == -1 else self.seed,
            ignore_eos=self.ignore_eos,
            stop=self.stop,
        )


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]

    def single_prompt(self) -> str | list[int]:
        """The prompt, text or token ids. Raises ApiError unless there is exactly one."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return prompt
        if not prompt:
            raise ApiError("prompt is an empty list; give a text or token ids", param="prompt")
        ids = [item for item in prompt if isinstance(item, int)]
        if len(ids) == len(prompt):
            return ids
        if len(prompt) > 1:
            raise ApiError(f"prompt has {len(prompt)} entries; send one prompt per request", param="prompt")
        (only,) = prompt
        assert not isinstance(only, int)
        return only


class TextPart(BaseModel):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A message of the conversation; further fields go to the template as they are."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None

    def for_template(self) -> Message:
        """The message as templates expect it: content a string, no nulls, `developer` called `system`."""
        content = self.content
        if isinstance(content, list):
            content = "\n".join(part.text for part in content)
        extra = {name: value for name, value in (self.model_extra or {}).items() if value is not None}
        if extra.get("tool_calls") or extra.get("function_call"):
            raise ApiError("tool calls are not offered by this server", param="messages")
        return {**extra, "role": "system" if self.role == "developer" else self.role, "content": content or ""}


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: _Int32 | None = None
    chat_template_kwargs: dict[str, JsonValue] | None = None

    def options(self, max_tokens: int) -> Options:
        """Sampling options; the newer name of `max_tokens` wins."""
        options = super().options(max_tokens)
        if self.max_completion_tokens not in (None, -1):
            options["max_tokens"] = self.max_completion_tokens
        return options


def parse(kind: type[Body], body: bytes) -> Body:
    """A request body, checked. Raises ApiError (400) naming the field that is wrong or not offered."""
    try:
        request = kind.model_validate_json(body)
    except ValidationError as error:
        raise _invalid(error) from None
    for name, value in (request.model_extra or {}).items():
        neutral = _NOT_OFFERED.get(name)
        if neutral is not None and value is not None and not any(_same(value, each) for each in neutral):
            raise ApiError(f"{name} is not offered by this server; leave it out", param=name, code="unsupported_value")
    return request


def _same(a: JsonValue, b: JsonValue) -> bool:
    """Equality of JSON, where 0 is not false (`"logprobs": 0` asks for log probabilities)."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _invalid(error: ValidationError) -> ApiError:
    """The first thing that is wrong, in one line. Of a union the deepest complaint is the telling one."""
    details = error.errors(include_url=False, include_input=False, include_context=False)
    if details[0]["type"] == "json_invalid":
        return ApiError(f"the body is not valid JSON: {details[0]['msg']}", code="invalid_json")
    first = max(details, key=lambda detail: len(detail["loc"])) if len(details) > 1 else details[0]
    where = ".".join(
        str(part) for part in first["loc"] if isinstance(part, int) or (part.isidentifier() and part != "str")
    )
    if not where:
        return ApiError("the body must be a JSON object", code="invalid_json")
    return ApiError(f"{where}: {first['msg']}", param=str(first["loc"][0]))
