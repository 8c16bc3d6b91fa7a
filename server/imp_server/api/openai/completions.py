"""OpenAI's /v1/completions, with `echo` and log-probabilities of the prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from imp_server.api.conversation import constrained, with_breakers
from imp_server.api.fill import fill_prompt, until_mark
from imp_server.api.openai.replies import Completion
from imp_server.api.openai.requests import CompletionBody
from imp_server.api.service import Service, copies, json_response
from imp_server.errors import ApiError
from imp_server.frontend import Frontend
from imp_server.generation.events import Finished, Started, TokenLogprob
from imp_server.generation.reply import Reply
from imp_server.generation.request import Request as Generation

_USUAL_TOKENS = 16  # OpenAI's; a chat answers until it is done


def add(app: FastAPI, service: Service) -> None:
    """Serve it."""

    async def completions(request: Request) -> Response:
        body = await service.body(request, CompletionBody)
        model = service.named(body.model)
        generations = await asyncio.to_thread(_generations, model, body, service.token_limits(model, _USUAL_TOKENS))
        n = body.n or 1
        echoes = []
        if body.echo:
            for generation in generations:
                echoes.append(await _echo(service, model, generation.prompt, body.top))
        serialiser = Completion(
            body.model or service.shown_name,
            model.fingerprint,
            include_usage=body.include_usage,
            prompts=len(generations),
            logprobs=body.top,
            echoes=echoes,
            n=n,
            timed=bool(body.timings_per_token),
        )
        if body.limit == 0:
            return json_response(serialiser.whole([_nothing(each) for each in generations for _ in range(n)]))
        requests = [copy for generation in generations for copy in copies(generation, n)]
        return await service.answer(request, model, requests, serialiser, stream=bool(body.stream))

    app.post("/v1/completions")(completions)  # without /v1 it is llama-server's


def _generations(model: Frontend, body: CompletionBody, token_limits: tuple[int, int]) -> list[Generation]:
    """One request per prompt. Raises ImpError."""
    options = with_breakers(model, body.options(*token_limits), body.dry_sequence_breakers)
    if body.limit == 0:
        if not body.echo or body.stream:
            raise ApiError("max_tokens is 0, which is for echo without a stream only", param="max_tokens")
        options["max_tokens"] = 1
    if body.suffix:
        options = until_mark(model, options)
    grammar = body.constraint()
    generations = []
    for given in body.prompts():
        if body.suffix:
            if not isinstance(given, str):
                raise ApiError("suffix needs a prompt that is text", param="suffix")
            prompt = fill_prompt(model, given, body.suffix)
        else:
            prompt = model.tokenizer.encode(given, special=True) if isinstance(given, str) else given
        generation = replace(
            model.request(prompt, options, model.http_defaults),
            timed=bool(body.timings_per_token),
            progress=bool(body.return_progress),
        )
        generations.append(constrained(model, generation, grammar, keep_stop=bool(body.include_stop_str_in_output)))
    return generations


def _nothing(generation: Generation) -> Reply:
    n = len(generation.prompt)
    return Reply(Started(n), finished=Finished("length", n, 0))


async def _echo(
    service: Service, model: Frontend, prompt: Sequence[int], top: int | None
) -> tuple[str, list[TokenLogprob | None], list[str]]:
    """The prompt as text, what the model says of each of its tokens, and their texts."""
    tokenizer = model.tokenizer
    tokens = [tokenizer.token(token)[0] for token in prompt]
    text = tokenizer.decode(prompt, special=True)
    if top is None:
        return text, [], tokens
    scores = await service.engine.score(prompt, top)
    known: list[TokenLogprob | None] = [None]
    for token, score in zip(prompt[1:], scores, strict=True):
        best = tuple((*tokenizer.token(index), logprob) for index, logprob in score.top)
        known.append(TokenLogprob(*tokenizer.token(token), score.logprob, best))
    return text, known, tokens
