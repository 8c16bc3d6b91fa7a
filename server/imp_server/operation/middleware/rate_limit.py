"""At most so many POST requests in a time, per API key, or per address where no key is used."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from imp_server.api.refusal import refusal
from imp_server.errors import ApiError
from imp_server.operation.desk import Desk


class RateLimit:
    """Answers 429 with Retry-After to whom the desk tells to wait; `rate` is how it was set ("60/minute")."""

    def __init__(self, app: ASGIApp, desk: Desk, rate: str) -> None:
        self._app = app
        self._desk = desk
        self._rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        client = scope.get("imp.client") or (scope["client"][0] if scope.get("client") else "unknown")
        seconds = await self._desk.hit(client)
        if not seconds:
            await self._app(scope, receive, send)
            return
        message = f"more than {self._rate}; try again in {seconds} s"
        error = ApiError(message, status=429, kind="rate_limit_error", code="rate_limit_exceeded")
        await refusal(scope, error, {"Retry-After": str(seconds)})(scope, receive, send)
