"""The HTTP server: the APIs of OpenAI and Anthropic, and llama-server's own, over one AsyncEngine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from imp_runtime.errors import ImpError
from imp_runtime.plan import Pooling
from imp_runtime.version import VERSION
from imp_server.api import models
from imp_server.api.anthropic import routes as messages
from imp_server.api.anthropic.requests import CountBody, MessagesBody
from imp_server.api.bodies.fields import MOST_VALUES
from imp_server.api.embeddings import routes as embeddings
from imp_server.api.embeddings.requests import EmbeddingBody
from imp_server.api.native import routes as native
from imp_server.api.native.requests import DetokenizeBody, InfillBody, NativeCompletionBody, TokenizeBody
from imp_server.api.openai import chat, completions
from imp_server.api.openai.requests import ChatBody, CompletionBody
from imp_server.api.openapi import description
from imp_server.api.refusal import refusal
from imp_server.api.responses import routes as responses
from imp_server.api.responses.requests import ResponsesBody
from imp_server.api.serialiser import dumps
from imp_server.api.service import Service, get
from imp_server.engine.client import AsyncEngine
from imp_server.errors import WRONG_METHOD, ApiError

PING_SECONDS = 15.0
_BODIES: Mapping[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/responses": ResponsesBody,
    "/v1/chat/completions/input_tokens": ChatBody,
    "/v1/responses/input_tokens": ResponsesBody,
    "/v1/messages": MessagesBody,
    "/v1/messages/count_tokens": CountBody,
    "/v1/embeddings": EmbeddingBody,
    "/embedding": EmbeddingBody,
    "/completion": NativeCompletionBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
    "/apply-template": ChatBody,
    "/infill": InfillBody,
}
_GETS = ("/health", "/ready", "/v1/models", "/props", "/slots")


def create_app(
    engine: AsyncEngine,
    *,
    aliases: Sequence[str] = (),
    any_model: bool = False,
    think_budget: int | None = None,
    max_tokens: int | None = None,
    ping_seconds: float = PING_SECONDS,
    most_values: int = MOST_VALUES,
    concurrent: int | None = None,
    pooling: Pooling | None = None,
) -> FastAPI:
    """The ASGI application, which starts `engine` and leaves it.

    `aliases` are further names of the model; with `any_model` every name is its. `think_budget` is the most reasoning
    tokens of a reply where the request says nothing, `max_tokens` likewise of a reply. At most `concurrent` requests
    run at the same time, None for as many as the engine has slots. `pooling` stands in place of what the file says of
    embeddings.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        engine.start()
        yield
        await engine.close()

    app = FastAPI(title="imp", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    service = Service(
        engine, tuple(aliases), any_model, think_budget, max_tokens, ping_seconds, most_values, concurrent, pooling
    )
    for api in (chat, completions, responses, messages, embeddings, models, native):
        api.add(app, service)
    document = dumps(description(_BODIES, _GETS, VERSION))

    async def openapi() -> Response:
        return Response(document, media_type="application/json")

    get(app, "/openapi.json", openapi)
    _add_error_handlers(app)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    """Every error leaves in the shape of the API that was asked, also those that the framework raises."""

    def handler(make: Callable[[Exception], ApiError]) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def handle(request: Request, error: Exception) -> Response:
            shown = make(error)
            headers = dict(getattr(error, "headers", None) or {})
            if "Allow" in headers:  # from a set of methods: in no order
                headers["Allow"] = ", ".join(sorted(headers["Allow"].split(", ")))
            return refusal(request.scope, shown, headers)

        return handle

    def from_imp(error: Exception) -> ApiError:
        return error if isinstance(error, ApiError) else ApiError(str(error))

    def from_http(error: Exception) -> ApiError:
        assert isinstance(error, StarletteHTTPException)
        what = {404: "there is no such path here", 405: WRONG_METHOD}
        return ApiError(what.get(error.status_code, str(error.detail)), status=error.status_code)

    def from_bug(_: Exception) -> ApiError:
        return ApiError("internal error; the server's log has the details", status=500, kind="server_error")

    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=499)

    app.add_exception_handler(ImpError, handler(from_imp))
    app.add_exception_handler(StarletteHTTPException, handler(from_http))
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, handler(from_bug))
