"""The HTTP server: OpenAI's chat completions and completions over one AsyncEngine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager

from fastapi import FastAPI
from pydantic import JsonValue
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from imp_runtime.errors import ImpError
from imp_server import openai
from imp_server.async_engine import AsyncEngine
from imp_server.errors import ApiError
from imp_server.generation import Event, Finished, Started, Text, Transcript
from imp_server.generation import Request as Generation
from imp_server.http import EventStream, read_body, until_disconnect
from imp_server.model import Model
from imp_server.openai_requests import ChatBody, CompletionBody, GenerationBody, parse

MOST_BODY_BYTES = 32 << 20
PING_SECONDS = 15.0
COMPLETION_TOKENS = 16  # OpenAI's default for /v1/completions; a chat answers until it is done


def create_app(engine: AsyncEngine, *, aliases: Sequence[str] = (), ping_seconds: float = PING_SECONDS) -> FastAPI:
    """The ASGI application, which starts `engine` and closes it; `aliases` are further names of the model."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.close)

    app = FastAPI(title="imp", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    started = int(time.time())

    @app.get("/health")
    async def health() -> Response:
        _ = engine.model
        return JSONResponse({"status": "ok"})

    @app.get("/v1/models")
    async def models() -> Response:
        model = engine.model
        data: list[JsonValue] = [
            openai.model_object(name, started, model.engine.context) for name in (model.plan.model, *aliases)
        ]
        return JSONResponse({"object": "list", "data": data})

    @app.get("/v1/models/{name:path}")
    async def model_by_name(name: str) -> Response:
        return JSONResponse(openai.model_object(name, started, _named(engine, aliases, name).engine.context))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = parse(CompletionBody, await read_body(request, MOST_BODY_BYTES))
        given = body.single_prompt()

        def prompt(model: Model) -> list[int]:
            return model.tokenizer.encode(given, special=True) if isinstance(given, str) else given

        return await answer(request, "completion", body, prompt, COMPLETION_TOKENS)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        body = parse(ChatBody, await read_body(request, MOST_BODY_BYTES))
        messages = [message.for_template() for message in body.messages]

        def prompt(model: Model) -> list[int]:
            return model.chat_prompt(messages, body.chat_template_kwargs)

        return await answer(request, "chat", body, prompt, None)

    async def answer(
        request: Request,
        kind: openai.Kind,
        body: GenerationBody,
        prompt: Callable[[Model], list[int]],
        max_tokens: int | None,
    ) -> Response:
        model = _named(engine, aliases, body.model)

        def prepare() -> Generation:
            return model.request(prompt(model), body.options(max_tokens or model.engine.context))

        # Tokenizing a long prompt takes a while; other streams go on meanwhile.
        generation = await asyncio.to_thread(prepare)
        reply = openai.Reply.new(kind, body.model or model.plan.model, include_usage=body.include_usage)
        events = _events(engine, model, generation)
        first = await anext(events)  # admitted: what is wrong with the request has been said before the status goes out
        if body.stream:
            return EventStream(_stream(reply, first, events), ping=openai.PING, ping_seconds=ping_seconds)
        return await until_disconnect(request.receive, _whole(reply, events))

    _add_error_handlers(app)
    return app


def _named(engine: AsyncEngine, aliases: Sequence[str], name: str | None) -> Model:
    """The model, if a request calls it by one of its names (or by none). Raises ApiError."""
    model = engine.model
    names = (model.plan.model, *aliases)
    if name is not None and name not in names:
        message = f"the model {name!r} does not exist; this server has {', '.join(names)}"
        raise ApiError(message, status=404, kind="invalid_request_error", param="model", code="model_not_found")
    return model


async def _events(engine: AsyncEngine, model: Model, generation: Generation) -> AsyncGenerator[Event]:
    """The events of a generation, from its admission on. Closing it early frees the sequence."""
    transcript = Transcript(model.tokenizer, generation)
    async with engine.generate(generation) as outputs:
        yield Started(len(generation.prompt))
        async for output in outputs:
            if text := transcript.take(output):
                yield Text(text)
            if transcript.finish is not None:
                break
    assert transcript.finish is not None
    yield Finished(transcript.finish, len(generation.prompt), transcript.tokens)


async def _stream(reply: openai.Reply, first: Event, events: AsyncGenerator[Event]) -> AsyncGenerator[bytes]:
    async with aclosing(events):
        try:
            for chunk in reply.chunks(first):
                yield chunk
            async for event in events:
                for chunk in reply.chunks(event):
                    yield chunk
        except ApiError as error:  # too late for a status
            yield openai.sse(openai.error_object(error))


async def _whole(reply: openai.Reply, events: AsyncGenerator[Event]) -> Response:
    text = ""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Text):
                text += event.text
            elif isinstance(event, Finished):
                return JSONResponse(reply.whole(text, event))
    raise AssertionError("a generation ends with Finished")


def _add_error_handlers(app: FastAPI) -> None:
    """Every error leaves in the protocol's shape, also those that the framework raises."""

    def handler(make: Callable[[Exception], ApiError]) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def handle(_: Request, error: Exception) -> Response:
            shown = make(error)
            headers = {"Retry-After": "1"} if shown.status in (429, 503) else None
            return JSONResponse(openai.error_object(shown), status_code=shown.status, headers=headers)

        return handle

    def from_imp(error: Exception) -> ApiError:
        return error if isinstance(error, ApiError) else ApiError(str(error))

    def from_http(error: Exception) -> ApiError:
        assert isinstance(error, StarletteHTTPException)
        what = {404: "there is no such path here", 405: "this path does not take that method"}
        return ApiError(what.get(error.status_code, str(error.detail)), status=error.status_code)

    def from_bug(_: Exception) -> ApiError:
        return ApiError("internal error; the server's log has the details", status=500, kind="server_error")

    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=499)

    app.add_exception_handler(ImpError, handler(from_imp))
    app.add_exception_handler(StarletteHTTPException, handler(from_http))
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, handler(from_bug))
