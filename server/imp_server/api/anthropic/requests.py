"""Anthropic request bodies, made into the conversation that all chat APIs share.

Shapes from https://docs.anthropic.com/en/api/messages. Server tools are left out; images and documents of the user
are refused.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from imp_server.api.bodies.fields import MOST_MESSAGES, Finite, Int32, Lenient, Stop, Strict
from imp_server.api.bodies.messages import left_out, not_text, tool_call
from imp_server.api.conversation import Conversation, Grammar
from imp_server.chat.template import Message
from imp_server.errors import ApiError
from imp_server.generation.options import Options

log = logging.getLogger("imp")
_BILLING = "x-anthropic-billing-header:"  # differs in every request of Claude Code: no part of the prompt
_SKIPPED = frozenset({"redacted_thinking", "server_tool_use", "web_search_tool_result", "web_fetch_tool_result"})


class Block(Lenient):
    """A content block; which fields it has depends on its type."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, JsonValue] | None = None
    tool_use_id: str | None = None
    content: str | list[Block] | None = None
    is_error: bool | None = None


class AnthropicMessage(Lenient):
    """A message; Claude Code also puts `system` ones in between."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class AnthropicTool(Lenient):
    """A tool; those with a type other than `custom` run at Anthropic."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, JsonValue] | None = None
    strict: bool | None = None


class AnthropicChoice(Strict):
    """`tool_choice`."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Strict):
    """`thinking`; `budget_tokens` is the most tokens of it."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Int32 | None = None


class OutputFormat(Strict):
    """The format of the reply."""

    type: Literal["json_schema"]
    schema_: dict[str, JsonValue] = Field(alias="schema")


class OutputConfig(Strict):
    """`output_config`."""

    format: OutputFormat | None = None


class CountBody(Strict):
    """POST /v1/messages/count_tokens."""

    model: str | None = None
    messages: Annotated[list[AnthropicMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    system: str | list[Block] | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: AnthropicChoice | None = None
    thinking: Thinking | None = None

    def conversation(self, options: Options, grammar: Grammar | None = None) -> Conversation:
        """The request in the form that all chat APIs share. Raises ApiError."""
        messages: list[Message] = []
        if system := _system(self.system):
            messages.append({"role": "system", "content": system})
        for i, message in enumerate(self.messages):
            messages += _messages(message, f"messages.{i}")
        choice = self.tool_choice.type if self.tool_choice else "auto"
        if choice == "tool" and not (self.tool_choice and self.tool_choice.name):
            raise ApiError("tool_choice of type tool has no name", param="tool_choice")
        prefilled = self.messages[-1].role == "assistant"
        return Conversation(
            messages,
            options,
            tools=_tools(self.tools or ()),
            choice={"any": "required", "tool": "named", "none": "none"}.get(choice, "auto"),  # type: ignore[arg-type]
            tool=self.tool_choice.name if self.tool_choice and choice == "tool" else None,
            think=None if self.thinking is None else self.thinking.type != "disabled",
            continue_final=prefilled,  # Anthropic's way to give the beginning of the reply
            grammar=grammar,
            parallel=not (self.tool_choice and self.tool_choice.disable_parallel_tool_use),
            think_budget=self.thinking.budget_tokens if self.thinking and self.thinking.type == "enabled" else None,
        )


class MessagesBody(CountBody):
    """POST /v1/messages."""

    max_tokens: Int32
    stream: bool | None = None
    temperature: Finite | None = None
    top_p: Finite | None = None
    top_k: Int32 | None = None
    stop_sequences: Annotated[list[Stop], Field(max_length=64)] | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None

    def request(self) -> Conversation:
        """The request in the form that all chat APIs share. Raises ApiError."""
        options = Options(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=None if self.top_k is None else max(self.top_k, 0),
            stop=self.stop_sequences,
        )
        wanted = self.output_format or (self.output_config.format if self.output_config else None)
        grammar = None if wanted is None else Grammar("json_schema", json.dumps(wanted.schema_))
        return self.conversation(options, grammar)


def _system(system: str | Sequence[Block] | None) -> str:
    if system is None or isinstance(system, str):
        return system or ""
    texts = [_text(block, f"system.{i}") for i, block in enumerate(system)]
    return "\n".join(text for text in texts if not text.startswith(_BILLING))


def _messages(message: AnthropicMessage, where: str) -> list[Message]:
    """One message as one or several: the results of tools come before what the user says."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    results: list[Message] = []
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[JsonValue] = []
    for i, block in enumerate(message.content):
        place = f"{where}.content.{i}"
        if block.type == "tool_result" and message.role == "user":
            results.append(_result(block, place))
        elif block.type == "tool_use" and message.role == "assistant":
            if not block.id or not block.name:
                raise ApiError(f"{place} is a tool_use without id or name", param="messages")
            calls.append(tool_call(block.id, block.name, block.input))
        elif block.type == "thinking" and message.role == "assistant":
            thoughts.append(block.thinking or "")
        elif block.type in _SKIPPED:
            log.debug("%s of type %s is left out", place, block.type)
        else:
            texts.append(_text(block, place))
    if message.role != "assistant":
        return [*results, {"role": message.role, "content": "\n".join(texts)}] if texts or not results else results
    said: dict[str, JsonValue] = {"role": "assistant", "content": "".join(texts)}
    if any(thoughts):
        said["reasoning_content"] = "".join(thoughts)
    if calls:
        said["tool_calls"] = calls
    return [said]


def _result(block: Block, place: str) -> Message:
    if not block.tool_use_id:
        raise ApiError(f"{place} is a tool_result without tool_use_id", param="messages")
    content = block.content
    if content is None or isinstance(content, str):
        text = content or ""
    else:
        text = "\n".join(left_out(each.type) if each.text is None else each.text for each in content)
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": f"Error: {text}" if block.is_error else text}


def _text(block: Block, place: str) -> str:
    if block.type != "text" or block.text is None:
        raise not_text(place, block.type)
    return block.text


def _tools(tools: Sequence[AnthropicTool]) -> list[Mapping[str, JsonValue]]:
    found: list[Mapping[str, JsonValue]] = []
    for tool in tools:
        if tool.type not in (None, "custom"):
            log.info("the tool %s of type %s does not run here; it is left out", tool.name, tool.type)
            continue
        function: dict[str, JsonValue] = {"name": tool.name}
        if tool.description is not None:
            function["description"] = tool.description
        function["parameters"] = tool.input_schema or {"type": "object", "properties": {}}
        if tool.strict:
            function["strict"] = True
        found.append({"type": "function", "function": function})
    return found
