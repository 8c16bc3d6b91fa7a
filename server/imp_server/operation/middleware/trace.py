"""Gives every request an id, times it, and writes it into the logs and the metrics when it has ended."""

from __future__ import annotations

import logging
import re
import secrets
import time
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imp_server.api.refusal import PUBLIC_PATHS
from imp_server.operation.metrics import Metrics
from imp_server.operation.request_log import Record, RequestLog, current

log = logging.getLogger("imp")
_ID = re.compile(r"[\x21-\x7e]{1,128}")
_QUIET = PUBLIC_PATHS | {"/metrics", "/", "/imp.css", "/imp.js", "/text.js", "/imp.svg"}  # of no interest in the log
_SAFE = "/:@!$&'()*+,;=~"  # what a path may hold beside letters, digits and -._ (RFC 3986, 3.3)


class Trace:
    """The outermost layer. Takes the client's X-Request-Id where it is sane, and answers with the one in use."""

    def __init__(self, app: ASGIApp, metrics: Metrics, requests: RequestLog | None) -> None:
        self._app = app
        self._metrics = metrics
        self._requests = requests
        self._keep = requests is not None and requests.bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        scope["imp.request_id"] = request_id
        address = scope["client"][0] if scope.get("client") else "unknown"
        record = Record(request_id, scope["method"], quote(scope["path"], _SAFE, errors="replace"), address)
        token = current.set(record)
        asked, answered = bytearray(), bytearray()

        async def listen() -> Message:
            message = await receive()
            asked.extend(message.get("body", b""))
            return message

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            elif record.first_byte is None:
                record.first_byte = time.monotonic() - record.began
            if self._keep and message["type"] == "http.response.body":
                answered.extend(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, listen if self._keep else receive, answer)
        except Exception:
            if record.first_byte is None:  # what the socket answers in the application's stead
                record.status = 500
            raise
        finally:
            record.seconds = time.monotonic() - record.began
            record.client = scope.get("imp.client") or address
            self._write(scope, record, bytes(asked), bytes(answered))
            current.reset(token)

    def _write(self, scope: Scope, record: Record, asked: bytes, answered: bytes) -> None:
        route = getattr(scope.get("route"), "path", None)  # the pattern, so that clients cannot invent labels
        route = route or (record.path if record.path in _QUIET else "other")
        method = record.method if record.method in ("GET", "POST", "HEAD", "OPTIONS") else "other"
        self._metrics.http(method, route, record.status, record.seconds)
        # A health check says 503 while the model loads, once a second.
        quiet = record.path in _QUIET and (record.status < 400 or record.status == 503)
        level = logging.DEBUG if quiet else logging.INFO
        log.log(level, "%s %s %d", record.method, record.path, record.status, extra={"fields": record.fields()})
        if self._requests is not None:
            self._requests.write(record, asked, answered)
