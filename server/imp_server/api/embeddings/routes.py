"""OpenAI's /v1/embeddings, and llama-server's own: the final hidden states, pooled as the file or the operator says."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI
from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import Response

from imp_runtime.plan import Pooling
from imp_server.api.bodies.prompts import token_ids
from imp_server.api.embeddings.requests import EmbeddingBody
from imp_server.api.http import until_disconnect
from imp_server.api.service import Service, json_response
from imp_server.errors import ApiError
from imp_server.frontend import Frontend

Vector = npt.NDArray[np.float32]


def add(app: FastAPI, service: Service) -> None:
    """Serve them. Without /v1 the answer is llama-server's: a list, where each text has a list of vectors.

    It holds one, or one for each token where nothing is pooled.
    """

    async def embeddings(request: Request) -> Response:
        body, name, inputs, texts = await _embedded(service, request, one=True)
        data: list[JsonValue] = [
            {"object": "embedding", "index": index, "embedding": _written(vector, body.encoding_format)}
            for index, (vector,) in enumerate(texts)
        ]
        total = sum(map(len, inputs))
        usage = {"prompt_tokens": total, "total_tokens": total}
        return json_response({"object": "list", "data": data, "model": name, "usage": usage})

    async def embedding(request: Request) -> Response:
        body, _, _, texts = await _embedded(service, request, one=False)
        return json_response(
            [
                {"index": index, "embedding": [_written(vector, body.encoding_format) for vector in vectors]}
                for index, vectors in enumerate(texts)
            ]
        )

    app.post("/v1/embeddings")(embeddings)
    for path in ("/embedding", "/embeddings"):
        app.post(path)(embedding)


async def _embedded(
    service: Service, request: Request, *, one: bool
) -> tuple[EmbeddingBody, str, list[list[int]], list[Sequence[Vector]]]:
    """The body, the model's name in the answer, the tokens of each text and its vectors; with `one` it must be one."""
    body = await service.body(request, EmbeddingBody)
    model = service.named(body.model)
    if body.dimensions not in (None, model.plan.hidden):
        message = f"dimensions is {body.dimensions}; this model's embeddings have {model.plan.hidden}"
        raise ApiError(message, param="dimensions")
    pooling = service.pooling or model.plan.pooling
    if one and pooling == "none":
        said = "server.pooling is" if service.pooling else "its file says pooling_type"
        why = f"the model {model.plan.model} has no embedding of a text here: {said} none, a vector for each token"
        raise ApiError(f"{why}; /embeddings answers with those, and --pooling makes one of them", code="not_supported")
    inputs = await asyncio.to_thread(_tokens, model, body)
    vectors = await until_disconnect(request.receive, _vectors(service, inputs, pooling))
    return body, body.model or service.shown_name, inputs, vectors


def _tokens(model: Frontend, body: EmbeddingBody) -> list[list[int]]:
    field, texts = body.texts
    context = model.context
    found = token_ids(model, texts, field, end=True)
    for i, tokens in enumerate(found):
        if len(tokens) > context:
            message = (
                f"{field}.{i} has {len(tokens)} tokens, which is too large for the context of {context}; shorten it"
            )
            raise ApiError(message, param=field, code="context_length_exceeded")
    return found


async def _vectors(service: Service, inputs: Sequence[Sequence[int]], pooling: Pooling) -> list[Sequence[Vector]]:
    # One at a time, so that generations go on in between.
    return [list(await service.engine.embed(tokens, pooling)) for tokens in inputs]


def _written(vector: Vector, encoding: str | None) -> JsonValue:
    """Numbers, or base64 of little-endian float32."""
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector]
