"""OpenAI's /v1/embeddings: the mean of the last hidden states, of length one."""

from __future__ import annotations

import asyncio
import base64
import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI
from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import Response

from imp_server.errors import ApiError, ContextExceededError
from imp_server.http import until_disconnect
from imp_server.model import Model
from imp_server.openai_requests import EmbeddingBody
from imp_server.routes.service import Service, json_response, post


def add(app: FastAPI, service: Service) -> None:
    """Serve it."""

    async def embeddings(request: Request) -> Response:
        body = await service.body(request, EmbeddingBody)
        model = service.named(body.model)
        if body.dimensions not in (None, model.plan.hidden):
            message = f"dimensions is {body.dimensions}; this model's embeddings have {model.plan.hidden}"
            raise ApiError(message, param="dimensions")
        inputs = await asyncio.to_thread(_tokens, model, body.inputs())
        vectors = await until_disconnect(request.receive, _vectors(service, inputs))
        data: list[JsonValue] = [
            {"object": "embedding", "index": index, "embedding": _written(vector, body.encoding_format)}
            for index, vector in enumerate(vectors)
        ]
        total = sum(map(len, inputs))
        usage = {"prompt_tokens": total, "total_tokens": total}
        name = body.model or model.plan.model
        return json_response({"object": "list", "data": data, "model": name, "usage": usage})

    post(app, "/v1/embeddings", embeddings)


def _tokens(model: Model, inputs: Sequence[str | list[int]]) -> list[list[int]]:
    context = model.engine.context
    found = []
    for i, given in enumerate(inputs):
        tokens = given if isinstance(given, list) else model.tokenizer.encode(given, special=True)
        if not tokens:
            raise ApiError(f"input.{i} is empty; give a text or token ids", param="input")
        if len(tokens) > context:
            raise ContextExceededError(len(tokens), context)
        found.append(tokens)
    return found


async def _vectors(service: Service, inputs: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
    # One at a time, so that generations go on in between.
    return [await service.engine.call(functools.partial(_pooled, tokens)) for tokens in inputs]


def _pooled(tokens: Sequence[int], model: Model) -> npt.NDArray[np.float32]:
    mean: npt.NDArray[np.float64] = model.engine.hidden(tokens).mean(axis=0, dtype=np.float64)
    return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)


def _written(vector: npt.NDArray[np.float32], encoding: str | None) -> JsonValue:
    """Numbers, or base64 of little-endian float32."""
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector]
