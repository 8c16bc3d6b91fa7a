"""Which pages of the web may ask from a browser: CORS, https://fetch.spec.whatwg.org/#http-cors-protocol."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from imp_server.operation.config import LOCALHOST

_LOCAL_ORIGIN = r"https?://(localhost|([a-z0-9-]+\.)+localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?"


class Cors(CORSMiddleware):
    """Lets pages of `origins` ask; "localhost" are those of this machine at any port, "*" is every page."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_origin_regex=_LOCAL_ORIGIN if LOCALHOST in origins else None,
            allow_methods=("*",),
            allow_headers=("*",),
            allow_private_network=True,  # a page of the internet that may ask this server at home
            expose_headers=("X-Request-Id", "Retry-After"),
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a browser that asks whether it may.

        A no is a 200 without the header that allows: the question was in order, and browsers then name the origin as
        the reason, not the status.
        """
        response = super().preflight_response(request_headers)
        response.status_code = 200
        return response
