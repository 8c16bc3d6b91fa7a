"""What the request bodies of all APIs share: numbers in range, and parsing with one-line errors.

A field that nothing reads is an error that names it, unless `unread_fields` lists it at its value as one that asks for
nothing; so nobody gets another answer than the one asked for. `null` counts as absent.
"""

from __future__ import annotations

from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from imp_server.api.bodies.json_size import values
from imp_server.api.bodies.unread_fields import HARMLESS, asks_for_nothing
from imp_server.errors import ApiError

Body = TypeVar("Body", bound=BaseModel)

MOST_VALUES = 300_000  # of a body: a prompt of so many token ids
MOST_MESSAGES = 10_000  # of a conversation
Stop = Annotated[str, Field(max_length=1024)]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**64)]
Int32 = Annotated[int, Field(ge=-1, lt=2**31)]
Token = Annotated[int, Field(strict=True, ge=0, lt=2**31)]  # strict: true is no token 1
Finite = Annotated[float, Field(allow_inf_nan=False)]
TopLogprobs = Annotated[int, Field(ge=0, le=20)]


class Interruptible(BaseModel):
    """A part of a body, after which other threads may run: pydantic's core by itself holds Python's lock to the end."""

    @model_validator(mode="after")
    def _breathe(self) -> Self:
        return self


class Lenient(Interruptible):
    """A part of a body whose unknown fields are kept, for a template to read or to be left out."""

    model_config = ConfigDict(extra="allow")


class Strict(Lenient):
    """A body, or an object in a field of one, whose unknown fields are refused unless they ask for nothing."""


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
    _refuse_unread(request, "")
    return request


def _refuse_unread(part: BaseModel, within: str) -> None:
    for name, value in (part.model_extra or {}).items():
        if not asks_for_nothing(within + name, value):
            raise _not_offered(within + name, known=within + name in HARMLESS)
    for name in type(part).model_fields:
        if isinstance(value := getattr(part, name), Strict):
            _refuse_unread(value, f"{within}{name}.")


def _not_offered(name: str, *, known: bool) -> ApiError:
    what = "is not offered with this value" if known else "is not offered by this server"
    return ApiError(f"{name:.80} {what}; leave it out", param=name.split(".")[0][:80], code="unsupported_parameter")


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
