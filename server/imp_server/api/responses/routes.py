"""OpenAI's /v1/responses, as much of it as needs no memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fastapi import FastAPI
from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import Response

from imp_server.api.responses.replies import Responses
from imp_server.api.responses.requests import ResponsesBody, ToolChoice
from imp_server.api.service import Service, json_response, post
from imp_server.generation.request import Request as Generation


def add(app: FastAPI, service: Service) -> None:
    """Serve it."""

    async def responses(request: Request) -> Response:
        body = await service.body(request, ResponsesBody)
        model = service.named(body.model)
        generation = await service.conversation(model, lambda: body.request(*service.token_limits(model)))
        timed, progress = bool(body.timings_per_token), bool(body.return_progress)
        serialiser = Responses(body.model or service.shown_name, _echoed(body, generation), timed=timed)
        requests = [replace(generation, timed=timed, progress=progress)]
        return await service.answer(request, model, requests, serialiser, stream=bool(body.stream))

    async def input_tokens(request: Request) -> Response:
        body = await service.body(request, ResponsesBody)
        model = service.named(body.model)
        count = await service.prompt_length(model, lambda: body.request(*service.token_limits(model)))
        return json_response({"object": "response.input_tokens", "input_tokens": count})

    post(app, "/v1/responses", responses)
    post(app, "/v1/responses/input_tokens", input_tokens)


def _echoed(body: ResponsesBody, generation: Generation) -> Mapping[str, JsonValue]:
    """What the response repeats of the request."""
    choice = body.tool_choice
    tools: list[JsonValue] = [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
            "strict": False,
        }
        for tool in body.tools or ()
        if tool.type == "function"
    ]
    wanted = body.text.format if body.text else None
    return {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "temperature": generation.params.temperature,
        "text": {"format": wanted.model_dump(by_alias=True, exclude_none=True) if wanted else {"type": "text"}},
        "tool_choice": choice.model_dump(exclude_none=True) if isinstance(choice, ToolChoice) else choice or "auto",
        "tools": tools,
        "top_logprobs": body.top_logprobs or 0,
        "top_p": generation.params.top_p,
    }
