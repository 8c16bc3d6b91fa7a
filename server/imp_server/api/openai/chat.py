"""OpenAI's /v1/chat/completions."""

from __future__ import annotations

import logging
from dataclasses import replace

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from imp_server.api.native.replies import NativeCompletion, Wishes
from imp_server.api.openai.replies import Chat
from imp_server.api.openai.requests import ChatBody
from imp_server.api.service import Service, copies, json_response, post

log = logging.getLogger("imp")


def add(app: FastAPI, service: Service) -> None:
    """Serve it."""

    async def chat_completions(request: Request) -> Response:
        body = await service.body(request, ChatBody)
        model = service.named(body.model)
        generation = await service.conversation(model, lambda: body.conversation(*service.token_limits(model)))
        name, timed = body.model or service.shown_name, bool(body.timings_per_token)
        requests = copies(replace(generation, timed=timed, progress=bool(body.return_progress)), body.n or 1)
        shown = log.isEnabledFor(logging.DEBUG) if body.verbose is None else body.verbose
        verbose = NativeCompletion(model, name, requests, Wishes(body.limit or -1)).answer if shown else None
        serialiser = Chat(
            name,
            model.fingerprint,
            include_usage=body.include_usage,
            reasoning=body.include_reasoning is not False,
            logprobs=bool(body.logprobs),
            timed=timed,
            verbose=verbose,
        )
        return await service.answer(request, model, requests, serialiser, stream=bool(body.stream))

    async def input_tokens(request: Request) -> Response:
        body = await service.body(request, ChatBody)
        model = service.named(body.model)
        count = await service.prompt_length(model, lambda: body.conversation(*service.token_limits(model)))
        return json_response({"object": "response.input_tokens", "input_tokens": count})

    post(app, "/v1/chat/completions", chat_completions)
    post(app, "/v1/chat/completions/input_tokens", input_tokens)
