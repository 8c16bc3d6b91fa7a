"""An error in the shape of the API that was asked, for requests that never reach the application."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from starlette.responses import Response
from starlette.types import Scope

from imp_server.errors import ApiError, error_response, speaks_anthropic

PUBLIC_PATHS = frozenset({"/health", "/v1/health", "/ready"})
_KINDS = {401: "authentication_error", 429: "rate_limit_error", 503: "server_error", 504: "timeout_error"}


def refusal(scope: Scope, status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> Response:
    """The response that says so."""
    status, body = _error(scope, status, message, code)
    return Response(body, status, headers, "application/json")


def error_event(scope: Scope, status: int, message: str, code: str) -> bytes:
    """The last event of a stream that cannot go on, written by what writes the stream, where `scope` names that."""
    write: Callable[[ApiError], bytes] | None = scope.get("imp.error_event")
    if write is not None:
        return write(_api_error(status, message, code))
    name = b"event: error\n" if speaks_anthropic(scope["path"]) else b""
    return name + b"data: " + _error(scope, status, message, code)[1] + b"\n\n"


def _error(scope: Scope, status: int, message: str, code: str) -> tuple[int, bytes]:
    status, body = error_response(scope["path"], _api_error(status, message, code), scope.get("imp.request_id"))
    return status, json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _api_error(status: int, message: str, code: str) -> ApiError:
    return ApiError(message, status=status, kind=_KINDS.get(status, "invalid_request_error"), code=code)
