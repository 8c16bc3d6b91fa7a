"""An error in the shape of the API that was asked, as a response or as the last event of a stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.responses import Response
from starlette.types import Scope

from imp_server.api.serialiser import dumps
from imp_server.errors import ApiError, error_response, speaks_anthropic

PUBLIC_PATHS = frozenset({"/health", "/v1/health", "/ready"})


def refusal(scope: Scope, error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    """The response that says so; who may try again is told when."""
    status, body = error_response(scope["path"], error, scope.get("imp.request_id"))
    again = {"Retry-After": "1"} if error.status in (429, 503) else {}
    return Response(dumps(body), status, {**again, **(headers or {})}, "application/json")


def error_event(scope: Scope, error: ApiError) -> bytes:
    """The last event of a stream that cannot go on, written by what writes the stream, where `scope` names that."""
    write: Callable[[ApiError], bytes] | None = scope.get("imp.error_event")
    if write is not None:
        return write(error)
    _, body = error_response(scope["path"], error, scope.get("imp.request_id"))
    return (b"event: error\n" if speaks_anthropic(scope["path"]) else b"") + b"data: " + dumps(body) + b"\n\n"
