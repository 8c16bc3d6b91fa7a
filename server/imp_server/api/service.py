"""What all APIs need of the server: the model by its name, the body of a request, the way from events to an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TypeVar

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from imp_runtime.plan import Pooling
from imp_server.api.bodies.fields import MOST_VALUES, parse
from imp_server.api.conversation import Conversation, chat_prompt, request_for
from imp_server.api.http import EventStream, until_disconnect
from imp_server.api.serialiser import Serialiser, dumps
from imp_server.engine.client import AsyncEngine
from imp_server.errors import ApiError
from imp_server.frontend import Frontend
from imp_server.generation.events import Event, Started
from imp_server.generation.reply import Reply
from imp_server.generation.request import Request
from imp_server.generation.timings import PromptProgress
from imp_server.generation.transcript import Transcript

Body = TypeVar("Body", bound=BaseModel)
T = TypeVar("T")
_AT_ONCE = 16 << 10  # bytes of a body that are checked in less time than another thread takes to begin


@dataclass(frozen=True, slots=True)
class Service:
    """One engine and how it is offered.

    `aliases` are names of the model beside its own; with `any_model` every name is its. `think_budget` is the most
    reasoning tokens of a reply where the request says nothing, `max_tokens` likewise of a reply. At most `concurrent`
    requests run at the same time. `pooling` stands in place of what the file says of embeddings.
    """

    engine: AsyncEngine
    aliases: Sequence[str] = ()
    any_model: bool = False
    think_budget: int | None = None
    max_tokens: int | None = None
    ping_seconds: float = 15.0
    most_values: int = MOST_VALUES
    concurrent: int | None = None
    pooling: Pooling | None = None
    started: int = field(default_factory=lambda: int(time.time()))

    def names(self) -> tuple[str, ...]:
        """The names of the model: the operator's, then the file's."""
        return (*self.aliases, self.engine.frontend.plan.model)

    @property
    def shown_name(self) -> str:
        """The model's name in answers to who calls it by none, and in /v1/models."""
        return self.names()[0]

    def named(self, name: str | None) -> Frontend:
        """The model, if a request calls it by one of its names (or by none). Raises ApiError."""
        model = self.engine.frontend
        names = self.names()
        if name is not None and name not in names and not self.any_model:
            message = f"the model {name!r:.200} does not exist; this server has {', '.join(names)}"
            raise ApiError(message, status=404, kind="invalid_request_error", param="model", code="model_not_found")
        return model

    @property
    def slots(self) -> int:
        """How many requests run at the same time at most."""
        slots = self.engine.frontend.plan.slots
        return slots if self.concurrent is None else min(slots, self.concurrent)

    def token_limits(self, model: Frontend, usual: int | None = None) -> tuple[int, int]:
        """Most tokens of a reply where the request does not say, and where it wants no limit.

        `usual` is what the API has for the first, unless the server was given something; None: no limit.
        """
        most = model.context
        return self.max_tokens or usual or most, most

    async def body(self, request: HttpRequest, kind: type[Body]) -> Body:
        """The checked body of a request. Raises ApiError."""
        data = await request.body()
        if len(data) <= _AT_ONCE:
            return parse(kind, data, self.most_values)
        return await asyncio.to_thread(parse, kind, data, self.most_values)

    async def conversation(self, model: Frontend, conversation: Callable[[], Conversation]) -> Request:
        """The engine's request for a conversation. Raises ImpError."""
        # Converting, rendering and tokenizing a long prompt take a while; other streams go on meanwhile.
        return await asyncio.to_thread(lambda: request_for(model, conversation(), self.think_budget))

    async def prompt_length(self, model: Frontend, conversation: Callable[[], Conversation]) -> int:
        """Tokens of the prompt that a conversation makes. Raises ImpError."""
        return await asyncio.to_thread(lambda: len(chat_prompt(model, conversation())[1]))

    async def answer(
        self, http: HttpRequest, model: Frontend, requests: Sequence[Request], serialiser: Serialiser, *, stream: bool
    ) -> Response:
        """Run `requests` and send their events, as they come or all at the end."""
        events = self._events(model, requests)
        # Admitted: what is wrong with the request has been said before the status goes out.
        first = await until_disconnect(http.receive, _next(events))
        if stream:
            http.scope["imp.error_event"] = serialiser.error  # for those who end the stream from outside
            sending = _stream(serialiser, first, events)
            return EventStream(sending, ping=serialiser.ping, ping_seconds=self.ping_seconds)
        return await until_disconnect(http.receive, _whole(serialiser, first, events))

    async def _events(self, model: Frontend, requests: Sequence[Request]) -> AsyncGenerator[list[tuple[int, Event]]]:
        """(index of the request, event), as many at a time as have come. Closing it early frees the sequences."""
        live = {index: Transcript(model.tokenizer, request) for index, request in enumerate(requests)}
        async with self.engine.generate(requests) as admitted:
            yield [
                (index, Started(len(request.prompt), cached))
                for index, (request, cached) in enumerate(zip(requests, admitted.cached, strict=True))
            ]
            arrived = admitted.outputs()
            while live:
                outputs = await anext(arrived)
                events: list[tuple[int, Event]] = []
                for index, output in outputs:
                    transcript = live.get(index)
                    if transcript is None:
                        continue
                    if isinstance(output, PromptProgress):
                        events += [(index, output.timings()), (index, output)]
                        continue
                    pieces = transcript.take(output)
                    if requests[index].timed or transcript.finish is not None:
                        events.append((index, admitted.timings(index, transcript.tokens)))
                    events.extend((index, piece) for piece in pieces)
                    if transcript.finish is not None:
                        events.append((index, transcript.finished(admitted.cached[index])))
                        self.engine.release(admitted, index)
                        del live[index]
                if events:
                    yield events


def copies(request: Request, n: int) -> list[Request]:
    """`n` requests for the choices of one; with a seed each has its own."""
    seed = request.params.seed
    if n == 1 or seed is None:
        return [request] * n
    return [replace(request, params=replace(request.params, seed=(seed + i) % 2**64)) for i in range(n)]


def get(app: FastAPI, path: str, handler: Callable[..., object]) -> None:
    """Serve `handler` at `path` and without its `/v1`, by GET and HEAD."""
    for each in {path, path.removeprefix("/v1")}:
        app.api_route(each, methods=["GET", "HEAD"])(handler)


def post(app: FastAPI, path: str, handler: Callable[[HttpRequest], object]) -> None:
    """Serve `handler` at `path` and without its `/v1`."""
    app.post(path)(handler)
    if path.startswith("/v1/"):
        app.post(path.removeprefix("/v1"))(handler)


def json_response(body: object) -> Response:
    """A response in JSON."""
    return Response(dumps(body), media_type="application/json")


async def _next(events: AsyncGenerator[list[tuple[int, Event]]]) -> list[tuple[int, Event]]:
    return await anext(events)


async def _stream(
    serialiser: Serialiser, first: list[tuple[int, Event]], events: AsyncGenerator[list[tuple[int, Event]]]
) -> AsyncGenerator[bytes]:
    async with aclosing(events):
        try:
            yield b"".join([serialiser.chunk(index, event) for index, event in first])
            async for batch in events:
                yield b"".join([serialiser.chunk(index, event) for index, event in batch])
            yield serialiser.end()
        except ApiError as error:  # too late for a status
            yield serialiser.error(error)


async def _whole(
    serialiser: Serialiser, first: list[tuple[int, Event]], events: AsyncGenerator[list[tuple[int, Event]]]
) -> Response:
    replies = []
    for _, event in first:
        assert isinstance(event, Started)
        replies.append(Reply(event))
    async with aclosing(events):
        async for batch in events:
            for index, event in batch:
                replies[index].add(event)
    return json_response(serialiser.whole(replies))
