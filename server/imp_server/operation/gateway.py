"""Puts the layers of operation around the application, and the chat page and the metrics beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, make_asgi_app
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from imp_server.api.refusal import PUBLIC_PATHS, refusal
from imp_server.errors import WRONG_METHOD, ApiError
from imp_server.operation.config import Config, ServerConfig
from imp_server.operation.desk import Desk, LocalDesk
from imp_server.operation.metrics import Metrics
from imp_server.operation.middleware.admission import Admission
from imp_server.operation.middleware.api_key import ApiKey, read_keys
from imp_server.operation.middleware.body import Bodies
from imp_server.operation.middleware.cors import Cors
from imp_server.operation.middleware.deadline import Deadline
from imp_server.operation.middleware.rate_limit import RateLimit
from imp_server.operation.middleware.trace import Trace
from imp_server.operation.request_log import RequestLog
from imp_server.operation.samples import Samples

_WEB = Path(__file__).parents[1] / "web"
_PAGE = {
    "/": ("index.html", "text/html"),
    "/imp.css": ("imp.css", "text/css"),
    "/imp.js": ("imp.js", "text/javascript"),
    "/text.js": ("text.js", "text/javascript"),
    "/imp.svg": ("imp.svg", "image/svg+xml"),
}
_PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Gateway:
    """The whole server as an ASGI application; `drain` ends what is open. Made by `wrap`."""

    def __init__(self, app: ASGIApp, deadline: Deadline, admission: Admission) -> None:
        self._app = app
        self.drain = deadline.drain
        self._admission = admission

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self._admission.waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        await self._app(scope, receive, send)


def wrap(app: ASGIApp, config: Config, metrics: Metrics, desk: Desk | None = None) -> Gateway:
    """The application inside its layers, from the outermost: trace, CORS, time-out, API key, rate, admission.

    `desk` is what it shares with other workers, if there are any. Raises ConfigError when the key file or the request
    log cannot be had.
    """
    pages = {path: _page(*file) for path, file in _PAGE.items()} if config.server.web else {}
    limits = config.limits
    desk = desk or LocalDesk(limits)
    admission = Admission(
        _Beside(app, {"/metrics": _metrics(metrics, desk), **pages, **_switched_off(config.server)}),
        Bodies(most=limits.body_bytes, seconds=limits.body_seconds),
        desk,
    )
    metrics.queue.set_function(lambda: admission.waiting)
    inner: ASGIApp = admission
    if limits.rate is not None:
        inner = RateLimit(inner, desk, limits.rate)
    if keys := read_keys(config.api):
        inner = ApiKey(inner, keys, PUBLIC_PATHS | set(pages))
    inner = deadline = Deadline(inner, limits.request_seconds)
    if config.api.cors_origins:
        inner = Cors(inner, config.api.cors_origins)
    log = config.log
    requests = RequestLog(log.requests, bodies=log.bodies) if log.requests is not None else None
    return Gateway(Trace(inner, metrics, requests), deadline, admission)


def _switched_off(config: ServerConfig) -> Mapping[str, ASGIApp]:
    """The paths that tell of the server and were switched off: 501, as llama-server has it."""

    async def refused(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        message = f"this server does not offer {path}: server.{path.removeprefix('/')} is false"
        await refusal(scope, ApiError(message, status=501, kind="not_supported_error"))(scope, receive, send)

    return {path: refused for path, told in (("/metrics", config.metrics), ("/slots", config.slots)) if not told}


def _metrics(metrics: Metrics, desk: Desk) -> ASGIApp:
    """The counters of all workers, in the format that the client asks for."""

    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        registry = CollectorRegistry()
        registry.register(await desk.everyone(Samples.of(metrics.registry)))
        await make_asgi_app(registry)(scope, receive, send)

    return told


def _page(name: str, media_type: str) -> ASGIApp:
    return Response((_WEB / name).read_bytes(), headers=_PAGE_HEADERS, media_type=media_type)


class _Beside:
    """Serves a few exact paths itself, by GET and HEAD only, and leaves the rest to the application."""

    def __init__(self, app: ASGIApp, paths: Mapping[str, ASGIApp]) -> None:
        self._app = app
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._paths.get(scope["path"]) if scope["type"] == "http" else None
        if app is not None and scope["method"] not in ("GET", "HEAD"):
            app = refusal(scope, ApiError(WRONG_METHOD, status=405), {"Allow": "GET, HEAD"})
        await (app or self._app)(scope, receive, send)
