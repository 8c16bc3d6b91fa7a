"""An error in the shape of the API that was asked, for requests that never reach the application."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from starlette.responses import Response
from starlette.types import Scope

from imp_server.errors import ApiError

PUBLIC_PATHS = frozenset({"/health", "/v1/health", "/ready"})
_ANTHROPIC_KINDS = {
    401: "authentication_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_OPENAI_KINDS = {
    401: "authentication_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "server_error",
    504: "timeout_error",
}


def is_anthropic(path: str) -> bool:
    """Whether `path` belongs to Anthropic's API."""
    path = path.removeprefix("/v1")
    return path == "/messages" or path.startswith("/messages/")


def error_json(scope: Scope, status: int, message: str, code: str) -> bytes:
    """The body of an error, JSON in UTF-8."""
    error: dict[str, object]
    if is_anthropic(scope["path"]):
        error = {"type": "error", "error": {"type": _ANTHROPIC_KINDS.get(status, "api_error"), "message": message}}
        error["request_id"] = scope.get("imp.request_id")
    else:
        kind = _OPENAI_KINDS.get(status, "server_error")
        error = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return json.dumps(error, ensure_ascii=False, separators=(",", ":")).encode()


def refusal(scope: Scope, status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> Response:
    """The response that says so."""
    return Response(error_json(scope, status, message, code), status, headers, "application/json")


def error_event(scope: Scope, status: int, message: str, code: str) -> bytes:
    """The last event of a stream that cannot go on, written by what writes the stream, where `scope` names that."""
    write: Callable[[ApiError], bytes] | None = scope.get("imp.error_event")
    if write is not None:
        return write(ApiError(message, status=status, kind=_OPENAI_KINDS.get(status, "server_error"), code=code))
    name = b"event: error\n" if is_anthropic(scope["path"]) else b""
    return name + b"data: " + error_json(scope, status, message, code) + b"\n\n"
