"""Bodies of OpenAI's Responses API, made into the conversation that all chat APIs share.

Shapes from https://platform.openai.com/docs/api-reference/responses. Nothing is stored here: a request that refers to
an earlier response is refused. Tools and input items of unknown types are left out.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from imp_server.api.bodies.fields import MOST_MESSAGES, Finite, Int32, Lenient, Strict, TopLogprobs
from imp_server.api.bodies.messages import Part, allowed, result_text, text_of, tool_call
from imp_server.api.conversation import Conversation, Grammar
from imp_server.chat.template import Message
from imp_server.errors import ApiError
from imp_server.generation.options import Options

log = logging.getLogger("imp")


class Item(Lenient):
    """An input item; which fields it has depends on its type. Without one it is a message."""

    type: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None


class ResponsesTool(Lenient):
    """A tool; the function's fields stand beside its type."""

    type: str
    name: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class AllowedTool(Lenient):
    """A tool that may be called."""

    type: Literal["function"]
    name: str


class ToolChoice(Strict):
    """`tool_choice` that names a function, or allows some of them: then any may (`auto`) or one must be called."""

    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[AllowedTool] | None = None


class TextFormat(Strict):
    """`text.format`."""

    type: Literal["text", "json_object", "json_schema"]
    schema_: dict[str, JsonValue] | None = Field(default=None, alias="schema")


class TextConfig(Strict):
    """`text`."""

    format: TextFormat | None = None


class ReasoningConfig(Strict):
    """`reasoning`."""

    effort: str | None = None


_LOGPROBS = "message.output_text.logprobs"
# What an answer may be asked to hold beside. All but the first belongs to tools that do not run here, or is not made.
Include = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
]


class ResponsesBody(Strict):
    """POST /v1/responses."""

    model: str | None = None
    input: Annotated[list[Item], Field(max_length=MOST_MESSAGES)] | str = Field(default_factory=list)
    instructions: str | None = None
    tools: list[ResponsesTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: Int32 | None = None
    temperature: Finite | None = None
    top_p: Finite | None = None
    top_logprobs: TopLogprobs | None = None
    include: list[Include] | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    stream: bool | None = None
    timings_per_token: bool | None = None
    return_progress: bool | None = None
    metadata: dict[str, JsonValue] | None = None
    previous_response_id: str | None = None
    conversation: JsonValue = None
    background: bool | None = None
    prompt: JsonValue = None

    def request(self, unsaid: int, most: int) -> Conversation:
        """The request in the form that all chat APIs share. Raises ApiError.

        Where it names no limit of the answer that is `unsaid` tokens; where it wants none, `most`.
        """
        for name, value in (
            ("previous_response_id", self.previous_response_id),
            ("conversation", self.conversation),
            ("background", self.background),
            ("prompt", self.prompt),
        ):
            if value:
                message = f"{name} is not offered: nothing is stored here; send the whole conversation as input"
                raise ApiError(message, param=name, code="unsupported_parameter")
        tools = self._tools()
        choice, named = self.tool_choice, None
        if isinstance(choice, ToolChoice):
            if choice.type == "allowed_tools":
                tools = allowed(tools, [each.name for each in choice.tools or ()])
            elif choice.type != "function" or not choice.name:
                raise ApiError(
                    f"tool_choice of type {choice.type:.80} is not offered; name a function", param="tool_choice"
                )
            named = choice.name
            choice = choice.mode or "auto"
        variables: dict[str, JsonValue] = {}
        if self.reasoning is not None and self.reasoning.effort is not None:
            variables["reasoning_effort"] = self.reasoning.effort
        asked = self.max_output_tokens
        top_logprobs = self.top_logprobs
        if top_logprobs is None and _LOGPROBS in (self.include or ()):
            top_logprobs = 0
        return Conversation(
            self._messages(),
            Options(
                max_tokens=unsaid if asked is None else most if asked == -1 else asked,
                temperature=self.temperature,
                top_p=self.top_p,
                top_logprobs=top_logprobs,
            ),
            tools=tools,
            choice="named" if named else choice or "auto",
            tool=named,
            variables=variables,
            think=False if variables.get("reasoning_effort") == "none" else None,
            grammar=self._grammar(),
            parallel=self.parallel_tool_calls is not False,
        )

    def _grammar(self) -> Grammar | None:
        wanted = self.text.format if self.text else None
        if wanted is None or wanted.type == "text":
            return None
        if wanted.schema_ is not None:
            return Grammar("json_schema", json.dumps(wanted.schema_))
        if wanted.type == "json_schema":
            raise ApiError("text.format of type json_schema has no schema", param="text")
        return Grammar("json_object", "{}")

    def _tools(self) -> list[Mapping[str, JsonValue]]:
        found: list[Mapping[str, JsonValue]] = []
        for i, tool in enumerate(self.tools or ()):
            if tool.type != "function":
                log.info("a tool of type %.80s does not run here; it is left out", tool.type)
                continue
            if not tool.name:
                raise ApiError(f"tools.{i} has no name", param="tools")
            function: dict[str, JsonValue] = {"name": tool.name}
            if tool.description is not None:
                function["description"] = tool.description
            function["parameters"] = tool.parameters or {"type": "object", "properties": {}}
            if tool.strict:
                function["strict"] = True
            found.append({"type": "function", "function": function})
        return found

    def _messages(self) -> list[Message]:
        messages: list[dict[str, JsonValue]] = []
        if self.instructions:
            messages.append({"role": "system", "content": self.instructions})
        items = [Item(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        for i, item in enumerate(items):
            _append(messages, item, f"input.{i}")
        if not any(message["role"] != "system" for message in messages):
            messages.append({"role": "user", "content": ""})  # clients send no input to see whether we are there
        return list(messages)


def _append(messages: list[dict[str, JsonValue]], item: Item, where: str) -> None:
    """One more item: what the assistant thought, said and called in one turn is one message."""
    kind = item.type or "message"
    if kind == "message":
        if item.role is None:
            raise ApiError(f"{where} is a message without a role", param="input")
        text = text_of(item.content, where)
        if item.role == "assistant":
            said = _turn(messages)
            said["content"] = f"{said['content']}{text}"
        else:
            messages.append({"role": "system" if item.role == "developer" else item.role, "content": text})
    elif kind == "reasoning":
        if thoughts := _thoughts(item):
            _turn(messages)["reasoning_content"] = thoughts
    elif kind == "function_call":
        if not item.call_id or not item.name:
            raise ApiError(f"{where} is a function_call without call_id or name", param="input")
        calls = _turn(messages).setdefault("tool_calls", [])
        assert isinstance(calls, list)
        calls.append(tool_call(item.call_id, item.name, item.arguments))
    elif kind == "function_call_output":
        if not item.call_id:
            raise ApiError(f"{where} is a function_call_output without call_id", param="input")
        messages.append({"role": "tool", "tool_call_id": item.call_id, "content": result_text(item.output)})
    elif kind == "item_reference":
        raise ApiError(f"{where} refers to a stored item; nothing is stored here", param="input")
    else:
        log.info("an input item of type %.80s is left out", kind)


def _turn(messages: list[dict[str, JsonValue]]) -> dict[str, JsonValue]:
    """The assistant's message at the end, a new one if there is none."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _thoughts(item: Item) -> str:
    if isinstance(item.content, str):
        return item.content
    parts: Sequence[JsonValue] = [part.text for part in item.content or ()]
    if not any(parts):
        summary = (item.model_extra or {}).get("summary")
        parts = [part.get("text") for part in summary if isinstance(part, dict)] if isinstance(summary, list) else []
    return "\n".join(part for part in parts if isinstance(part, str))
