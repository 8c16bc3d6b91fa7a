"""OpenAI's request bodies: completions and chat completions.

Shapes from https://platform.openai.com/docs/api-reference (chat/completions, completions).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from imp_server.api.bodies.fields import MOST_MESSAGES, Int32, Strict, Token, TopLogprobs
from imp_server.api.bodies.generation import Choices, GenerationBody
from imp_server.api.bodies.messages import AllowedChoice, ChatMessage, NamedChoice, Tool, function_tool
from imp_server.api.conversation import Conversation
from imp_server.chat.template import Message
from imp_server.errors import ApiError
from imp_server.generation.options import Options


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: str | list[Token] | list[str] | list[list[Token]]  # ids early: a long list of what else it might be is slow
    suffix: str | None = None
    echo: bool | None = None
    best_of: Choices | None = None
    logprobs: TopLogprobs | bool | None = None

    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, as texts or as token ids. Raises ApiError unless there is at least one."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if not prompt:
            raise ApiError("prompt is an empty list; give a text or token ids", param="prompt")
        ids = [item for item in prompt if isinstance(item, int)]
        if ids:
            return [ids]
        if len(prompt) > 2048:
            raise ApiError(f"prompt has {len(prompt)} entries; at most 2048 go in one request", param="prompt")
        lists = [item for item in prompt if isinstance(item, list)]
        return lists or [item for item in prompt if isinstance(item, str)]

    @property
    def top(self) -> int | None:
        """How many log-probabilities per token are asked for, None for none at all; 0 is the chosen token's only."""
        if self.logprobs is None or self.logprobs is False:
            return None
        return int(self.logprobs)

    def options(self, unsaid: int, most: int) -> Options:
        """Sampling options. Raises ApiError for `best_of` other than `n`."""
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ApiError("best_of is not offered by this server; leave it out", param="best_of")
        options = super().options(unsaid, most)
        options["top_logprobs"] = self.top
        return options


class ThinkingSwitch(Strict):
    """`thinking` as the APIs of DeepSeek and Z.ai have it."""

    type: Literal["enabled", "disabled"]

    @property
    def wanted(self) -> bool:
        """Whether the model is to think."""
        return self.type == "enabled"


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Int32 | None = None
    logprobs: bool | None = None
    verbose: bool | None = None
    top_logprobs: TopLogprobs | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedChoice | AllowedChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, JsonValue] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    include_reasoning: bool | None = None
    reasoning_format: Literal["none", "auto", "deepseek", "deepseek-legacy"] | None = None
    reasoning_effort: str | None = None
    enable_thinking: bool | None = None
    thinking: ThinkingSwitch | None = None
    thinking_budget: Int32 | None = None
    thinking_token_budget: Int32 | None = None
    reasoning_budget: Int32 | None = None
    thinking_budget_tokens: Int32 | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens to generate; the newer name of `max_tokens` wins. -1: no limit."""
        return super().limit if self.max_completion_tokens is None else self.max_completion_tokens

    def options(self, unsaid: int, most: int) -> Options:
        """Sampling options. Raises ApiError for `top_logprobs` alone."""
        options = super().options(unsaid, most)
        if self.top_logprobs and not self.logprobs:
            raise ApiError("top_logprobs needs logprobs: true", param="top_logprobs")
        options["top_logprobs"] = (self.top_logprobs or 0) if self.logprobs else None
        return options

    def conversation(self, unsaid: int, most: int) -> Conversation:
        """The request in the form that all chat APIs share; token limits as in `options`. Raises ApiError."""
        tools = [function_tool(tool) for tool in self.tools or ()]
        choice = self.tool_choice
        if isinstance(choice, AllowedChoice):
            tools = choice.among(tools)
        variables: dict[str, JsonValue] = dict(self.chat_template_kwargs or {})
        if self.reasoning_effort is not None:
            variables.setdefault("reasoning_effort", self.reasoning_effort)
        budgets = (self.thinking_budget, self.thinking_token_budget, self.reasoning_budget, self.thinking_budget_tokens)
        messages = [message.for_template(i) for i, message in enumerate(self.messages)]
        continued = self._continues(messages)
        return Conversation(
            messages,
            self.options(unsaid, most),
            tools=tools,
            choice=choice if isinstance(choice, str) else "auto" if choice is None else choice.mode,
            tool=choice.function.name if isinstance(choice, NamedChoice) else None,
            variables=variables,
            add_generation_prompt=self.add_generation_prompt is not False and not continued,
            continue_final=continued,
            grammar=self.constraint(),
            think=self.thinking.wanted if self.thinking else self.enable_thinking,
            think_budget=next((budget for budget in budgets if budget is not None), None),
            reasoning=self.reasoning_format != "none",
            parallel=self.parallel_tool_calls is not False,
            keep_stop=bool(self.include_stop_str_in_output),
            dry_breakers=self.dry_sequence_breakers,
        )

    def _continues(self, messages: list[Message]) -> bool:
        """Whether the reply goes on with the last message: asked for, or as llama-server has it, an assistant's text.

        Raises ApiError where it cannot be told which message that is.
        """
        if self.continue_final_message is not None:
            if self.continue_final_message and self.add_generation_prompt:
                what = "add_generation_prompt begins a new message, continue_final_message goes on with the last"
                raise ApiError(f"{what}; send one of them", param="continue_final_message")
            return self.continue_final_message
        last = messages[-1]
        if self.add_generation_prompt is not None or last["role"] != "assistant" or last.get("tool_calls"):
            return False
        if len(messages) > 1 and messages[-2]["role"] == "assistant":
            what = "messages ends with two of the assistant, so that it is not clear which text to go on with"
            raise ApiError(f"{what}; make them one", param="messages")
        return bool(last["content"])
