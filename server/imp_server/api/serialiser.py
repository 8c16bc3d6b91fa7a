"""How an API writes the events of its generations: what each has to offer, and the JSON and streams of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import orjson
from pydantic import JsonValue

from imp_server.errors import ApiError
from imp_server.generation.events import Event
from imp_server.generation.reply import Reply

PING = b": ping\n\n"


class Serialiser(Protocol):
    """Writes the events of a request's generations as one API has them."""

    ping: bytes

    def chunk(self, index: int, event: Event) -> bytes:
        """What a stream sends for an event of generation `index`; empty for events that this API does not show."""
        ...

    def end(self) -> bytes:
        """The end of a stream, when all generations have finished."""
        ...

    def error(self, error: ApiError) -> bytes:
        """The end of a stream that fails."""
        ...

    def whole(self, replies: Sequence[Reply]) -> Mapping[str, JsonValue] | Sequence[JsonValue]:
        """The answer that is not streamed."""
        ...


def sse(body: Mapping[str, JsonValue]) -> bytes:
    """One server-sent event without a name."""
    return b"data: " + dumps(body) + b"\n\n"


def dumps(value: object) -> bytes:
    """JSON in UTF-8. Lone surrogates, which no UTF-8 has, become U+FFFD."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_clean(value))


def _clean(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_clean(name): _clean(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(each) for each in value]
    return value if not isinstance(value, int) or isinstance(value, bool) or abs(value) < 2**63 else float(value)
