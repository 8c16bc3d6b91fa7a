"""What the request bodies of all APIs share: numbers in range, and parsing with one-line errors.

A field that would change the answer and is not offered is an error, so that nobody gets another answer than the one
asked for; harmless and unknown fields are ignored. `null` counts as absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from imp_server.errors import ApiError
from imp_server.json_size import values

Body = TypeVar("Body", bound=BaseModel)

MOST_VALUES = 300_000  # of a body: a prompt of so many token ids
MOST_MESSAGES = 10_000  # of a conversation
Stop = Annotated[str, Field(max_length=1024)]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**64)]
Int32 = Annotated[int, Field(ge=-1, lt=2**31)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
TopLogprobs = Annotated[int, Field(ge=0, le=20)]

# Fields that are not offered, with the values that ask for nothing.
_NOT_OFFERED: Mapping[str, Sequence[JsonValue]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "bad_words": ([],),
    "use_beam_search": (False,),
    "lora": ([],),
    "prompt_logprobs": (),
}


class Interruptible(BaseModel):
    """A part of a body, after which other threads may run: pydantic's core by itself holds Python's lock to the end."""

    @model_validator(mode="after")
    def _breathe(self) -> Self:
        return self


class Lenient(Interruptible):
    """A body whose unknown fields are kept, so that those that are not offered can be refused by name."""

    model_config = ConfigDict(extra="allow")


def parse(kind: type[Body], body: bytes, most_values: int = MOST_VALUES) -> Body:
    """A request body, checked. Raises ApiError (400) naming the field that is wrong or not offered.

    A body of more than `most_values` JSON values, which would take seconds, is refused.
    """
    if values(body, most_values) > most_values:
        raise ApiError(f"the body has more than {most_values} JSON values; send less", code="request_too_large")
    try:
        request = kind.model_validate_json(body)
    except ValidationError as error:
        raise _invalid(error) from None
    except RecursionError:
        raise ApiError("the body is nested too deeply", code="invalid_json") from None
    for name, value in (request.model_extra or {}).items():
        neutral = _NOT_OFFERED.get(name)
        if neutral is not None and value is not None and not any(_same(value, each) for each in neutral):
            raise ApiError(f"{name} is not offered by this server; leave it out", param=name, code="unsupported_value")
    return request


def _same(a: JsonValue, b: JsonValue) -> bool:
    """Equality of JSON, where 0 is not false."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _invalid(error: ValidationError) -> ApiError:
    """The first thing that is wrong, in one line. Of a union the deepest complaint is the telling one."""
    details = error.errors(include_url=False, include_input=False, include_context=False)
    if details[0]["type"] == "json_invalid":
        return ApiError(f"the body is not valid JSON: {details[0]['msg']}", code="invalid_json")
    first = max(details, key=lambda detail: len(detail["loc"])) if len(details) > 1 else details[0]
    where = ".".join(
        str(part) for part in first["loc"] if isinstance(part, int) or (part.isidentifier() and part not in _TYPES)
    )
    if not where:
        return ApiError("the body must be a JSON object", code="invalid_json")
    return ApiError(f"{where}: {first['msg']}", param=str(first["loc"][0]))


_TYPES = ("str", "int", "bool", "float", "NamedChoice", "constrained")
