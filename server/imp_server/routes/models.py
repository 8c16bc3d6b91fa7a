"""/v1/models and the answers to whoever asks how the server is."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.responses import Response

from imp_server import openai
from imp_server.routes.service import Service, json_response


def add(app: FastAPI, service: Service) -> None:
    """Serve them."""

    async def health() -> Response:
        _ = service.engine.model
        return json_response({"status": "ok"})

    async def head() -> Response:
        return Response()

    async def models() -> Response:
        context = service.engine.model.engine.context
        data = [openai.model_object(name, service.started, context) for name in service.names()]
        return json_response({"object": "list", "data": data})

    async def model_by_name(name: str) -> Response:
        context = service.named(name).engine.context
        return json_response(openai.model_object(name, service.started, context))

    for path in ("/health", "/v1/health", "/ready"):
        app.api_route(path, methods=["GET", "HEAD"])(health)
    app.head("/")(head)
    for prefix in ("/v1", ""):
        app.get(f"{prefix}/models")(models)
        app.get(f"{prefix}/models/{{name:path}}")(model_by_name)
