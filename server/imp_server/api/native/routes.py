"""llama-server's own paths: completions, tokenizing, templates, fill-in-the-middle, and what the server is doing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fastapi import FastAPI
from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import Response

from imp_server.api.bodies.prompts import several, token_ids
from imp_server.api.conversation import Grammar, chat_prompt, constrained, with_breakers
from imp_server.api.fill import fill_prompt, until_mark
from imp_server.api.native.replies import NativeCompletion, Wishes, generation_settings
from imp_server.api.native.requests import DetokenizeBody, InfillBody, NativeBody, NativeCompletionBody, TokenizeBody
from imp_server.api.openai.requests import ChatBody
from imp_server.api.service import Service, copies, get, json_response
from imp_server.engine.messages import Free, Slot
from imp_server.errors import ApiError
from imp_server.frontend import Frontend
from imp_server.generation.request import Request as Generation


def add(app: FastAPI, service: Service) -> None:
    """Serve them."""

    async def tokenize(request: Request) -> Response:
        body = await service.body(request, TokenizeBody)
        return json_response(await asyncio.to_thread(_tokenize, service.named(body.model), body))

    async def detokenize(request: Request) -> Response:
        body = await service.body(request, DetokenizeBody)
        text = await asyncio.to_thread(_detokenize, service.named(body.model), body.tokens)
        return json_response({"content": text, "prompt": text})

    async def apply_template(request: Request) -> Response:
        body = await service.body(request, ChatBody)
        model = service.named(body.model)

        def render() -> str:
            return chat_prompt(model, body.conversation(*service.token_limits(model)))[0]

        return json_response({"prompt": await asyncio.to_thread(render)})

    async def props() -> Response:
        return json_response(_props(service.engine.frontend, service, await service.engine.free()))

    async def slots() -> Response:
        return json_response(_slots(service.engine.frontend, service.slots, await service.engine.slots()))

    async def completion(request: Request) -> Response:
        body = await service.body(request, NativeCompletionBody)
        model = service.named(body.model)
        requests = await asyncio.to_thread(_completions, model, body, service.token_limits(model))
        return await answered(request, model, body, requests, several=several(body.prompt))

    async def infill(request: Request) -> Response:
        body = await service.body(request, InfillBody)
        model = service.named(body.model)
        requests = await asyncio.to_thread(_infill, model, body, service.token_limits(model))
        return await answered(request, model, body, requests, several=False)

    async def answered(
        http: Request, model: Frontend, body: NativeBody, requests: Sequence[Generation], *, several: bool
    ) -> Response:
        wishes = body.wishes(service.max_tokens, several=several)
        serialiser = NativeCompletion(model, body.model or service.shown_name, requests, wishes)
        return await service.answer(http, model, requests, serialiser, stream=bool(body.stream))

    for path in ("/completion", "/completions"):
        app.post(path)(completion)
    app.post("/tokenize")(tokenize)
    app.post("/detokenize")(detokenize)
    app.post("/apply-template")(apply_template)
    get(app, "/props", props)
    get(app, "/slots", slots)
    app.post("/infill")(infill)


def _tokenize(model: Frontend, body: TokenizeBody) -> Mapping[str, JsonValue]:
    if body.messages is not None:
        chat = ChatBody(
            messages=body.messages,
            tools=body.tools,
            chat_template_kwargs=body.chat_template_kwargs,
            add_generation_prompt=body.add_generation_prompt,
            continue_final_message=body.continue_final_message,
        )
        _, tokens = chat_prompt(model, chat.conversation(1, 1))
        return _counted(model, model.tokenizer.framed(tokens) if body.add_special_tokens else tokens, body)
    if body.prompt is not None:
        whole = body.add_special_tokens is not False
        return _counted(model, model.tokenizer.encode(body.prompt, special=whole, end=whole), body)
    if body.content is None:
        raise ApiError("the body needs content, prompt or messages", param="content")
    spelled = body.parse_special is not False
    whole = bool(body.add_special)
    tokens = model.tokenizer.encode(body.content, special=whole, end=whole, spelled=spelled)
    if body.with_pieces:
        return {"tokens": [{"id": token, "piece": _piece(*model.tokenizer.token(token))} for token in tokens]}
    return {"tokens": list(tokens)}


def _detokenize(model: Frontend, tokens: Sequence[int]) -> str:
    for i, token in enumerate(tokens):
        if token >= model.plan.vocab:
            message = f"tokens.{i} is {token}, expected a token id from 0 to {model.plan.vocab - 1}"
            raise ApiError(message, param="tokens")
    return model.tokenizer.decode(tokens, special=True)


def _counted(model: Frontend, tokens: Sequence[int], body: TokenizeBody) -> Mapping[str, JsonValue]:
    strings: JsonValue = None
    if body.return_token_strs:
        strings = [model.tokenizer.spelling(token) for token in tokens]
    context = model.context
    return {"count": len(tokens), "max_model_len": context, "tokens": list(tokens), "token_strs": strings}


def _piece(text: str, raw: bytes) -> JsonValue:
    """A token's text; its bytes where they are no text."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return list(raw)


def _props(model: Frontend, service: Service, free: Free) -> Mapping[str, JsonValue]:
    plan, tokenizer = model.plan, model.tokenizer
    return {
        "default_generation_settings": {
            "n_ctx": model.context,
            "params": generation_settings(model, model.http_defaults, Wishes(service.max_tokens or -1)),
        },
        "total_slots": service.slots,
        "free_slots": free.slots,
        "free_kv_blocks": free.blocks,
        "model_alias": service.shown_name,
        "model_path": str(model.path),
        "model_weights": plan.weights,
        "chat_template": model.chat_form.template.source if model.chat_form is not None else "",
        "bos_token": tokenizer.spelling(plan.bos_token) or "",
        "eos_token": tokenizer.spelling(plan.eos_token) or "",
        "modalities": {"vision": False, "audio": False},
        "build_info": "imp",
        "is_sleeping": service.engine.asleep,
    }


def _slots(model: Frontend, slots: int, running: Sequence[Slot]) -> list[JsonValue]:
    """Every slot of the engine, and which of them work; nothing of what is said in them."""
    busy = {each.slot: each for each in running}
    context = model.context
    found: list[JsonValue] = []
    for slot in range(max([slots, *(slot + 1 for slot in busy)])):  # a request of several prompts has several
        at = busy.get(slot, Slot(slot, 0, 0, 0))
        found.append(
            {
                "id": slot,
                "n_ctx": context,
                "is_processing": slot in busy,
                "n_prompt_tokens": at.prompt,
                "n_prompt_tokens_cache": at.cached,
                "n_decoded": at.generated,
            }
        )
    return found


def _completions(model: Frontend, body: NativeCompletionBody, token_limits: tuple[int, int]) -> list[Generation]:
    """One request per prompt and choice. Raises ImpError."""
    options = with_breakers(model, body.options(*token_limits), body.dry_sequence_breakers)
    grammar = body.constraint()
    found = []
    for prompt in token_ids(model, body.prompt, "prompt"):
        found += copies(_told(model, body, model.request(prompt, options, model.http_defaults), grammar), body.choices)
    return found


def _infill(model: Frontend, body: InfillBody, token_limits: tuple[int, int]) -> list[Generation]:
    files = [(file.filename, file.text) for file in body.input_extra or ()]
    prompt = fill_prompt(model, body.input_prefix, body.input_suffix, files=files, begun=body.prompt or "")
    options = with_breakers(model, until_mark(model, body.options(*token_limits)), body.dry_sequence_breakers)
    generation = model.request(prompt, options, model.http_defaults)
    return copies(_told(model, body, generation, body.constraint()), body.choices)


def _told(model: Frontend, body: NativeBody, generation: Generation, grammar: Grammar | None) -> Generation:
    """`generation`, held to a grammar if there is one, with events that tell what the answer wants."""
    held = constrained(model, generation, grammar, keep_stop=bool(body.include_stop_str_in_output))
    return replace(held, timed=bool(body.timings_per_token), progress=bool(body.return_progress), with_tokens=True)
