"""Messages and tools of OpenAI's chat completions, made into what chat templates read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from imp_server.api.bodies.fields import Interruptible, Lenient
from imp_server.chat.template import Message
from imp_server.errors import ApiError


class FunctionCall(Interruptible):
    """A call in an assistant message; `arguments` is JSON text (an object is accepted)."""

    name: str
    arguments: str | dict[str, JsonValue] | None = None


class ToolCall(Interruptible):
    """An entry of `tool_calls` of an assistant message."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class Part(Lenient):
    """A part of a message's content."""

    type: str
    text: str | None = None
    refusal: str | None = None


class ChatMessage(Lenient):
    """A message of the conversation; further fields go to the template as they are."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning_content: str | None = None
    reasoning: JsonValue = None

    def for_template(self, place: int) -> Message:
        """The message as templates expect it: content a string, no nulls, `developer` called `system`."""
        extra = {name: value for name, value in (self.model_extra or {}).items() if value is not None}
        if extra.pop("function_call", None):
            raise ApiError("function_call in a message is not offered; use tool_calls", param="messages")
        extra.pop("reasoning_details", None)
        role = {"developer": "system", "function": "tool"}.get(self.role, self.role)
        text = result_text(self.content) if role == "tool" else text_of(self.content, f"messages.{place}")
        message: dict[str, JsonValue] = {**extra, "role": role, "content": text}
        reasoning = self.reasoning_content or (self.reasoning if isinstance(self.reasoning, str) else None)
        if self.role == "assistant" and reasoning:
            message["reasoning_content"] = reasoning
        if self.tool_calls:
            if self.role != "assistant":
                raise ApiError(
                    f"messages.{place} has tool_calls, which only an assistant message has", param="messages"
                )
            message["tool_calls"] = [
                tool_call(call.id or f"call_{place}_{i}", call.function.name, call.function.arguments)
                for i, call in enumerate(self.tool_calls)
            ]
        return message


class Function(Interruptible):
    """The function of a tool."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None


class Tool(Lenient):
    """An entry of `tools`."""

    type: Literal["function"] = "function"
    function: Function


class NamedFunction(BaseModel):
    """The function of a named tool choice."""

    name: str


class NamedChoice(BaseModel):
    """`tool_choice` that names a function."""

    type: Literal["function"] = "function"
    function: NamedFunction

    @property
    def mode(self) -> Literal["named"]:
        """How strong the choice is."""
        return "named"


class AllowedTools(BaseModel):
    """Some of the tools, by name, of which any may (`auto`) or one must (`required`) be called."""

    mode: Literal["auto", "required"]
    tools: list[NamedChoice]


class AllowedChoice(BaseModel):
    """`tool_choice` that allows some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools

    @property
    def mode(self) -> Literal["auto", "required"]:
        """How strong the choice is."""
        return self.allowed_tools.mode

    def among(self, tools: Sequence[Mapping[str, JsonValue]]) -> list[Mapping[str, JsonValue]]:
        """Those of `tools` that are allowed. Raises ApiError for a name that is none of theirs."""
        return allowed(tools, [each.function.name for each in self.allowed_tools.tools])


def allowed(tools: Sequence[Mapping[str, JsonValue]], names: Sequence[str]) -> list[Mapping[str, JsonValue]]:
    """Those of `tools` that have one of `names`: the model is shown no others. Raises ApiError for an unknown name."""
    by_name = {name_of(tool): tool for tool in tools}
    for name in names:
        if name not in by_name:
            raise ApiError(f"tool_choice allows {name!r:.80}, which is none of tools", param="tool_choice")
    return [tool for name, tool in by_name.items() if name in names]


def name_of(tool: Mapping[str, JsonValue]) -> str:
    """The name of a tool's function."""
    function = tool.get("function")
    return str(function.get("name")) if isinstance(function, Mapping) else ""


def text_of(content: str | Sequence[Part] | None, where: str) -> str:
    """The text of a message's content. Raises ApiError (400) for parts that are no text."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for i, part in enumerate(content):
        text = part.refusal if part.type == "refusal" else part.text
        if part.type not in ("text", "refusal", "input_text", "output_text") or text is None:
            raise not_text(f"{where}.content.{i}", part.type)
        texts.append(text)
    return "\n".join(texts)


def result_text(content: str | Sequence[Part] | None) -> str:
    """The text of a tool's result. In the place of an image or a file the model reads that there was one.

    An agent sends a result again with every later request: refused, it would end the conversation.
    """
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(left_out(part.type) if part.text is None else part.text for part in content)


def left_out(kind: str) -> str:
    """What the model reads in the place of a part of a result that is no text."""
    return f"[{kind:.40} left out: this model reads text only]"


def not_text(where: str, kind: str) -> ApiError:
    """A part of a message is an image, a sound or a file. In Anthropic's spelling, by which Claude Code removes it."""
    what = f"{where}.{kind:.40}: this model reads text only; send parts of type text"
    return ApiError(what, param=where.split(".")[0], code="unsupported_content")


def tool_call(call_id: str, name: str, arguments: str | Mapping[str, JsonValue] | None) -> dict[str, JsonValue]:
    """A call in an assistant message; the arguments as JSON text."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": text or "{}"}}


def function_tool(tool: Tool) -> Mapping[str, JsonValue]:
    """A tool in the form that templates read."""
    return {"type": "function", "function": tool.function.model_dump(exclude_none=True)}
