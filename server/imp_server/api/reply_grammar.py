"""What holds a reply to a format or to tool calls: the grammars of a conversation, and what each waits for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from imp_server.chat.template import Json
from imp_server.errors import ApiError
from imp_server.generation.constraint import Constraint, Held
from imp_server.grammar import masks
from imp_server.grammar.json_schema import SchemaError, prepared
from imp_server.grammar.masks import GrammarError

if TYPE_CHECKING:
    from imp_server.api.conversation import Conversation
    from imp_server.generation.tokenizer import Tokenizer
    from imp_server.parsers import ParserFamily

Tool = Mapping[str, Json]


def constraint(tokenizer: Tokenizer, family: ParserFamily, conversation: Conversation, tail: str) -> Constraint | None:
    """What holds a reply, once the reasoning is over; `tail` is the end of the prompt. Raises ImpError.

    A reply that has a format may be tool calls instead, where the model may call any: as OpenAI has it.
    """
    grammar, tools = conversation.grammar, conversation.tools
    forced = conversation.choice in ("required", "named")
    if forced:
        _check_choice(conversation)
    if grammar is None and not forced:
        return None
    calls = None
    if conversation.choice != "none" and tools:
        calls = _calls(tokenizer, family, conversation)
        if calls is None:
            unknown = "how this model writes tool calls is not known"
            if forced:
                raise ApiError(f"{unknown}; use tool_choice auto", param="tool_choice")
            why = f"{unknown}, so that a reply with a format could be none; leave away the tools or the format"
            raise ApiError(f"{why}, or send tool_choice none", param="response_format")
    made = [] if calls is None else [replace(calls, wait=family.wait(tail, for_tools=True))]
    if grammar is not None:
        content = masks.compile(grammar.kind, grammar.source, tokenizer)
        made.append(replace(content, wait=family.wait(tail, for_tools=False)))
    return tuple(made)


def _check_choice(conversation: Conversation) -> None:
    names = [str(_function(tool).get("name")) for tool in conversation.tools]
    if not names:
        raise ApiError("tool_choice asks for a call, but there are no tools", param="tool_choice")
    if conversation.choice == "named" and conversation.tool not in names:
        raise ApiError(f"tool_choice names {conversation.tool!r:.80}, which is none of tools", param="tool_choice")
    if conversation.grammar is not None:
        raise ApiError("a reply cannot be both a forced tool call and structured output", param="response_format")


def _calls(tokenizer: Tokenizer, family: ParserFamily, conversation: Conversation) -> Held | None:
    """Calls of the tools, in the model's spelling; None where that is not known."""

    def compiled(tools: Sequence[Tool]) -> Held | None:
        lark = family.tool_grammar(
            tools,
            conversation.tool,
            parallel=conversation.parallel and conversation.choice != "named",  # who names a function wants one call
            special=tokenizer.special,
        )
        return None if lark is None else masks.compile("lark", lark, tokenizer)

    tools = [_fitted(tool) for tool in conversation.tools if conversation.tool in (None, _function(tool).get("name"))]
    try:
        return compiled(tools)
    except GrammarError as error:
        weaker = [_weakened(tool, tokenizer) for tool in tools]
        if weaker == tools:
            names = ", ".join(str(_function(tool).get("name")) for tool in tools)
            raise ApiError(f"no grammar can be made for calls of {names:.200}: {error}", param="tools") from None
        return compiled(weaker)


def _function(tool: Tool) -> Mapping[str, Json]:
    function = tool.get("function")
    return function if isinstance(function, Mapping) else {}


def _with(tool: Tool, parameters: Json) -> Tool:
    return {**tool, "function": {**_function(tool), "parameters": parameters}}


def _fitted(tool: Tool) -> Tool:
    """A tool whose parameters llguidance may know. Of one that is not `strict` that is as much as can be enforced."""
    function = _function(tool)
    if function.get("parameters") is None:
        return tool
    where = f"the tool {str(function.get('name'))!r:.80}, parameters"
    try:
        ready = prepared(function["parameters"], where, lenient=function.get("strict") is not True)
    except SchemaError as error:
        raise ApiError(str(error), param="tools") from None
    return _with(tool, ready)  # type: ignore[arg-type]  # JSON as it came, rewritten


def _weakened(tool: Tool, tokenizer: Tokenizer) -> Tool:
    """`tool` as it is if its parameters alone compile; else, unless it is strict, with the parameters' names only."""
    function = _function(tool)
    parameters = function.get("parameters")
    if not isinstance(parameters, Mapping):
        return tool
    try:
        masks.compile("json_schema", json.dumps(parameters), tokenizer)
    except GrammarError as error:
        if function.get("strict") is True:
            message = f"the tool {str(function.get('name'))!r:.80}, parameters: {error}"
            raise ApiError(message, param="tools") from None
        properties = parameters.get("properties")
        names = list(properties) if isinstance(properties, Mapping) else []
        named: Json = {name: {} for name in names}
        return _with(tool, {"type": "object", "properties": named, "additionalProperties": True})
    return tool
