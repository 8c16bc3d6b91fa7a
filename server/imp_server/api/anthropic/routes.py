"""Anthropic's /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from imp_server.api.anthropic.replies import Messages
from imp_server.api.anthropic.requests import CountBody, MessagesBody
from imp_server.api.service import Service, json_response, post
from imp_server.generation.options import Options


def add(app: FastAPI, service: Service) -> None:
    """Serve them."""

    async def messages(request: Request) -> Response:
        body = await service.body(request, MessagesBody)
        model = service.named(body.model)
        generation = await service.conversation(model, body.request)
        name = body.model or service.shown_name
        serialiser = Messages(name, request_id=request.scope.get("imp.request_id"))
        return await service.answer(request, model, [generation], serialiser, stream=bool(body.stream))

    async def count_tokens(request: Request) -> Response:
        body = await service.body(request, CountBody)
        model = service.named(body.model)
        count = await service.prompt_length(model, lambda: body.conversation(Options()))
        return json_response({"input_tokens": count})

    post(app, "/v1/messages", messages)
    post(app, "/v1/messages/count_tokens", count_tokens)
