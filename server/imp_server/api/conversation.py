"""What every chat API comes down to: messages, tools and wishes in one form, made into a request for the engine."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from imp_server.api.reply_grammar import constraint
from imp_server.chat.quotation import Quotation
from imp_server.chat.template import Json, Message
from imp_server.errors import ApiError
from imp_server.generation.options import Options
from imp_server.generation.request import Request, ThinkBudget
from imp_server.grammar import masks
from imp_server.parsers.thinking import Thinking, left_open, was_closed

if TYPE_CHECKING:
    from imp_server.frontend import Frontend

_TAIL = 4096  # characters of the prompt that tell the parser where the reply begins
_DRY_BREAKERS = ("\n", ":", '"', "*")
GrammarKind = Literal["json_schema", "json_object", "regex", "lark", "gbnf"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the visible reply must look like; `source` is JSON text for the two JSON kinds."""

    kind: GrammarKind
    source: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat request in OpenAI's form of messages and tools, free of any API's spelling.

    `choice` is `auto`, `none`, `required` or `named` (then `tool` is the function's name). `think` switches reasoning
    on or off where the template can. `think_budget` is the most reasoning tokens, None for the server's default.
    `reasoning` false leaves what the model thinks in the content.
    """

    messages: Sequence[Message]
    options: Options
    tools: Sequence[Mapping[str, Json]] = ()
    choice: Literal["auto", "none", "required", "named"] = "auto"
    tool: str | None = None
    variables: Mapping[str, Json] = field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final: bool = False
    grammar: Grammar | None = None
    think: bool | None = None
    think_budget: int | None = None
    reasoning: bool = True
    parallel: bool = True
    keep_stop: bool = False
    dry_breakers: Sequence[str] | None = None


def request_for(model: Frontend, conversation: Conversation, think_budget: int | None = None) -> Request:
    """The engine's request for a conversation; `think_budget` where it names none itself. Raises ImpError."""
    text, prompt = chat_prompt(model, conversation)
    request = model.request(
        prompt, with_breakers(model, conversation.options, conversation.dry_breakers), model.http_defaults
    )
    tools = tuple(conversation.tools) if conversation.choice != "none" else ()
    form, tail = model.form(tools=bool(tools)), text[-_TAIL:]
    family = form.reading(tools=bool(tools))
    parser = None
    if conversation.reasoning or tools:
        parser = functools.partial(family.start, tail, tools or None)
    tags = _tags(model, family.thinking)
    inside = left_open(tail, family.thinking)
    closing = tuple(model.tokenizer.encode(family.cut_short, special=False))
    budget = think_budget if conversation.think_budget in (None, -1) else conversation.think_budget
    limit = None
    if budget is not None and not was_closed(tail, family.thinking):
        limit = ThinkBudget(budget, closing, tags, inside)
    return replace(
        request,
        parser=parser,
        keep_stop=conversation.keep_stop,
        budget=limit,
        constraint=constraint(model.tokenizer, family, conversation, tail),
    )


def chat_prompt(model: Frontend, conversation: Conversation) -> tuple[str, list[int]]:
    """The rendered chat template as text and token ids, in which what users and tools say is text.

    Raises ImpError when there is no template or it refuses the messages.
    """
    quotation = Quotation(model.tokenizer)
    rendered = _rendered(model, replace(conversation, messages=quotation.messages(conversation.messages)))
    return quotation.text(rendered), quotation.tokens(rendered)


def _rendered(model: Frontend, conversation: Conversation) -> str:
    tools = conversation.tools if conversation.choice != "none" else ()
    form = model.form(tools=bool(tools))
    messages = conversation.messages
    last = messages[-1] if messages else {}
    if conversation.continue_final and last.get("role") != "assistant":
        raise ApiError("continue_final_message needs an assistant message at the end", param="messages")
    variables = dict(conversation.variables)
    switch = form.capabilities.thinking_switch or "enable_thinking"
    if conversation.think is not None:
        variables[switch] = conversation.think
    elif model.think is not None:
        variables.setdefault(switch, model.think)
    text = form.render(
        messages,
        tools,
        add_generation_prompt=conversation.add_generation_prompt and not conversation.continue_final,
        variables=variables,
    )
    if not conversation.continue_final:
        return text
    begun = str(last.get("content") or "")
    place = text.rfind(begun)
    if place < 0:
        begun = begun.strip()
        place = text.rfind(begun)
    if not begun or place < 0:
        raise ApiError("the chat template does not keep the last message as it is; it cannot be continued")
    return text[: place + len(begun)]


def _tags(model: Frontend, thinking: Thinking) -> tuple[tuple[int, ...], tuple[int, ...]]:
    encode = model.tokenizer.encode
    return tuple(encode(thinking.opening.strip(), special=False)), tuple(encode(thinking.closing, special=False))


def constrained(model: Frontend, request: Request, grammar: Grammar | None, *, keep_stop: bool) -> Request:
    """A plain completion held to a grammar, if there is one. Raises ImpError."""
    if grammar is None:
        return replace(request, keep_stop=keep_stop)
    held = masks.compile(grammar.kind, grammar.source, model.tokenizer)
    return replace(request, constraint=(held,), keep_stop=keep_stop)


def with_breakers(model: Frontend, options: Options, breakers: Sequence[str] | None) -> Options:
    """`options` with the strings that end a repetition for DRY as token ids, the usual ones where none are named."""
    if not options.get("dry_multiplier"):
        return options
    encode = model.tokenizer.encode
    named = _DRY_BREAKERS if breakers is None else breakers
    return {**options, "dry_sequence_breakers": [ids for text in named if (ids := encode(text, special=False))]}
