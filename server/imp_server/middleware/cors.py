"""Which web origins may ask from a browser (https://fetch.spec.whatwg.org/#http-cors-protocol)."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send


class Cors(CORSMiddleware):
    """Starlette's, in the form in which llama-server answers, by which its clients go.

    Header names are spelled as the standard spells them, for there are clients that compare them letter by letter. An
    origin that is not let in gets a 200 that does not name it: a browser refuses that like any other.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""

        async def spelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                named = [(name.title() if name.startswith(b"access-") else name, value) for name, value in headers]
                message = {**message, "headers": named}
            await send(message)

        await super().__call__(scope, receive, spelled)

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a browser that asks beforehand."""
        if self.is_allowed_origin(origin=request_headers["origin"]):
            return super().preflight_response(request_headers)
        return Response(headers={"Vary": "Origin"})
