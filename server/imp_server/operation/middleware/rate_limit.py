"""At most so many POST requests in a time, per API key, or per address where no key is used."""

from __future__ import annotations

import math
import time

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.types import ASGIApp, Receive, Scope, Send

from imp_server.api.refusal import refusal
from imp_server.errors import ApiError


class RateLimit:
    """Answers 429 with Retry-After beyond `rate` ("60/minute") in a moving window."""

    def __init__(self, app: ASGIApp, rate: str) -> None:
        self._app = app
        self._rate = parse(rate)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        client = scope.get("imp.client") or (scope["client"][0] if scope.get("client") else "unknown")
        if self._limiter.hit(self._rate, client):
            await self._app(scope, receive, send)
            return
        free = self._limiter.get_window_stats(self._rate, client).reset_time
        seconds = max(1, math.ceil(free - time.time()))
        message = f"more than {self._rate}; try again in {seconds} s"
        error = ApiError(message, status=429, kind="rate_limit_error", code="rate_limit_exceeded")
        await refusal(scope, error, {"Retry-After": str(seconds)})(scope, receive, send)
