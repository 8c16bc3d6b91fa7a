"""/v1/models and the answers to whoever asks how the server is."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import JsonValue
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from imp_server.api.service import Service, get, json_response
from imp_server.errors import ApiError

_SILENT_SECONDS = 5.0  # of an engine that is well a few are missed at most, and no chunk or step takes as long


def add(app: FastAPI, service: Service) -> None:
    """Serve them."""

    async def health() -> Response:
        engine = service.engine
        _ = engine.frontend
        if engine.silent > _SILENT_SECONDS:
            why = f"the engine has not been heard of for {engine.silent:.0f} s"
            raise ApiError(why, status=503, kind="server_error", code="not_answering")
        return json_response({"status": "ok"} | ({"is_sleeping": True} if engine.asleep else {}))

    async def root(request: Request) -> Response:
        # Clients ask by HEAD whether somebody is there; a page there is none, unless the gateway has it.
        if request.method != "HEAD":
            raise HTTPException(404)
        return Response()

    async def models() -> Response:
        return json_response({"object": "list", "data": [_model_object(service, service.shown_name)]})

    async def model_by_name(name: str) -> Response:
        _ = service.named(name)
        return json_response(_model_object(service, name))

    get(app, "/v1/health", health)
    get(app, "/ready", health)
    get(app, "/", root)
    get(app, "/v1/models", models)
    get(app, "/v1/models/{name:path}", model_by_name)


def _model_object(service: Service, name: str) -> dict[str, JsonValue]:
    """The entry of /v1/models; `aliases` are all its names, `max_model_len` is where clients look for the context."""
    context = service.engine.frontend.context
    meta: JsonValue = {"n_ctx": context}
    return {
        "id": name,
        "aliases": list(service.names()),
        "object": "model",
        "created": service.started,
        "owned_by": "imp",
        "max_model_len": context,
        "meta": meta,
    }
