"""OpenAI request bodies: what is accepted, what is refused by name, what is ignored.

Shapes from https://platform.openai.com/docs/api-reference (chat/completions, completions, embeddings), with the further
fields that clients of llama-server, vLLM and SGLang send.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, Field, JsonValue

from imp_server.conversation import Conversation, Grammar
from imp_server.errors import ApiError
from imp_server.openai_formats import ResponseFormat, StructuredOutputs, dialect, one_of
from imp_server.openai_messages import ChatMessage, NamedChoice, Tool, function_tool
from imp_server.options import Options
from imp_server.request_body import MOST_MESSAGES, Finite, Int32, Int64, Lenient, Stop, Token, TopLogprobs

_MOST_STOPS = 16
_MOST_CHOICES = 128
Choices = Annotated[int, Field(ge=1, le=_MOST_CHOICES)]
_BAN = -100.0  # llama-server's `false` as a bias


class StreamOptions(BaseModel):
    """`stream_options` of a request."""

    include_usage: bool | None = None


class GenerationBody(Lenient):
    """What both completion endpoints share."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Choices | None = None
    max_tokens: Int32 | None = None
    min_tokens: Int32 | None = None
    temperature: Finite | None = None
    top_k: Int32 | None = None
    top_p: Finite | None = None
    min_p: Finite | None = None
    typical_p: Finite | None = None
    typ_p: Finite | None = None
    repetition_penalty: Finite | None = None
    repeat_penalty: Finite | None = None
    repeat_last_n: Int32 | None = None
    frequency_penalty: Finite | None = None
    presence_penalty: Finite | None = None
    dry_multiplier: Finite | None = None
    dry_base: Finite | None = None
    dry_allowed_length: Int32 | None = None
    dry_penalty_last_n: Int32 | None = None
    dry_sequence_breakers: Annotated[list[Stop], Field(max_length=64)] | None = None
    mirostat: Int32 | None = None
    mirostat_tau: Finite | None = None
    mirostat_eta: Finite | None = None
    xtc_probability: Finite | None = None
    xtc_threshold: Finite | None = None
    logit_bias: dict[str, Finite] | list[tuple[Token | str, Finite | bool]] | None = None
    seed: Int64 | None = None
    ignore_eos: bool | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=_MOST_STOPS)] | None = None
    stop_token_ids: Annotated[list[Token], Field(max_length=64)] | None = None
    include_stop_str_in_output: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    grammar: str | None = None
    ebnf: str | None = None
    regex: str | None = None
    json_schema: dict[str, JsonValue] | None = None
    guided_json: dict[str, JsonValue] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def options(self, max_tokens: int) -> Options:
        """Sampling options; `max_tokens` is the limit where the request names none (or -1: no limit)."""
        asked = self.max_tokens
        return Options(
            max_tokens=max_tokens if asked is None or asked == -1 else asked,
            min_tokens=None if self.min_tokens is None else max(self.min_tokens, 0),
            temperature=self.temperature,
            top_k=None if self.top_k is None else max(self.top_k, 0),
            top_p=self.top_p,
            min_p=self.min_p,
            typical_p=self.typ_p if self.typical_p is None else self.typical_p,
            repetition_penalty=self.repeat_penalty if self.repetition_penalty is None else self.repetition_penalty,
            repeat_last_n=self.repeat_last_n,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            dry_multiplier=self.dry_multiplier,
            dry_base=self.dry_base,
            dry_allowed_length=self.dry_allowed_length,
            dry_penalty_last_n=self.dry_penalty_last_n,
            mirostat=self.mirostat,
            mirostat_tau=self.mirostat_tau,
            mirostat_eta=self.mirostat_eta,
            xtc_probability=self.xtc_probability,
            xtc_threshold=self.xtc_threshold,
            seed=None if self.seed == -1 else self.seed,
            ignore_eos=self.ignore_eos,
            stop=self.stop,
            stop_tokens=self.stop_token_ids,
            logit_bias=self.biases(),
        )

    def biases(self) -> dict[int, float] | None:
        """`logit_bias` by token id, from OpenAI's map or llama-server's list of pairs. Raises ApiError."""
        if not self.logit_bias:
            return None
        pairs = self.logit_bias.items() if isinstance(self.logit_bias, dict) else self.logit_bias
        biases: dict[int, float] = {}
        for token, bias in pairs:
            if not str(token).isdecimal() or len(str(token)) > 9:
                raise ApiError(f"logit_bias has the key {str(token)!r:.40}, expected a token id", param="logit_bias")
            if bias is True:
                raise ApiError("logit_bias of a token is true; expected a number or false", param="logit_bias")
            biases[int(token)] = _BAN if bias is False else float(bias)
        return biases

    def constraint(self) -> Grammar | None:
        """The grammar that the request asks for, under whichever name. Raises ApiError when it asks for two."""
        found = [
            self.response_format.grammar() if self.response_format else None,
            self.structured_outputs.grammar_of() if self.structured_outputs else None,
            Grammar("json_schema", json.dumps(self.json_schema)) if self.json_schema else None,
            Grammar("regex", self.regex) if self.regex else None,
            *(Grammar(dialect(text), text) for text in (self.grammar, self.ebnf, self.guided_grammar) if text),
            StructuredOutputs.model_validate({"json": self.guided_json}).grammar_of() if self.guided_json else None,
            Grammar("regex", self.guided_regex) if self.guided_regex else None,
            one_of(self.guided_choice) if self.guided_choice else None,
        ]
        asked = [grammar for grammar in found if grammar is not None]
        if len(asked) > 1:
            raise ApiError("the request asks for two formats of the reply; send one", param="response_format")
        return asked[0] if asked else None


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: str | list[str] | list[Token] | list[list[Token]]
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

    def options(self, max_tokens: int) -> Options:
        """Sampling options. Raises ApiError for `best_of` other than `n`."""
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ApiError("best_of is not offered by this server; leave it out", param="best_of")
        options = super().options(max_tokens)
        options["top_logprobs"] = self.top
        return options


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Int32 | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, JsonValue] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    include_reasoning: bool | None = None
    reasoning_format: Literal["none", "auto", "deepseek", "deepseek-legacy"] | None = None
    reasoning_effort: str | None = None
    thinking_budget: Int32 | None = None
    thinking_token_budget: Int32 | None = None
    reasoning_budget: Int32 | None = None
    thinking_budget_tokens: Int32 | None = None

    def options(self, max_tokens: int) -> Options:
        """Sampling options; the newer name of `max_tokens` wins. Raises ApiError for `top_logprobs` alone."""
        options = super().options(max_tokens)
        if self.max_completion_tokens not in (None, -1):
            options["max_tokens"] = self.max_completion_tokens
        if self.top_logprobs and not self.logprobs:
            raise ApiError("top_logprobs needs logprobs: true", param="top_logprobs")
        options["top_logprobs"] = (self.top_logprobs or 0) if self.logprobs else None
        return options

    def conversation(self, max_tokens: int) -> Conversation:
        """The request in the form that all chat APIs share. Raises ApiError."""
        tools = tuple(function_tool(tool.function) for tool in self.tools or () if tool.function is not None)
        choice = self.tool_choice
        named = choice.function.name if isinstance(choice, NamedChoice) else None
        variables: dict[str, JsonValue] = dict(self.chat_template_kwargs or {})
        if self.reasoning_effort is not None:
            variables.setdefault("reasoning_effort", self.reasoning_effort)
        budgets = (self.thinking_budget, self.thinking_token_budget, self.reasoning_budget, self.thinking_budget_tokens)
        return Conversation(
            [message.for_template(i) for i, message in enumerate(self.messages)],
            self.options(max_tokens),
            tools=tools,
            choice="named" if isinstance(choice, NamedChoice) else choice or "auto",
            tool=named,
            variables=variables,
            # vLLM's two switches; a message to be continued has no prompt after it
            add_generation_prompt=self.add_generation_prompt is not False and not self.continue_final_message,
            continue_final=bool(self.continue_final_message),
            grammar=self.constraint(),
            think_budget=next((budget for budget in budgets if budget is not None), None),
            reasoning=self.reasoning_format != "none",
            parallel=self.parallel_tool_calls is not False,
            keep_stop=bool(self.include_stop_str_in_output),
            dry_breakers=self.dry_sequence_breakers,
        )


class EmbeddingBody(Lenient):
    """POST /v1/embeddings."""

    model: str | None = None
    input: Annotated[
        str
        | Annotated[list[str], Field(max_length=2048)]
        | list[Token]
        | Annotated[list[list[Token]], Field(max_length=2048)],
        Field(union_mode="smart"),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Int32 | None = None

    def inputs(self) -> list[str] | list[list[int]]:
        """The inputs, as texts or as token ids. Raises ApiError unless there is at least one."""
        given = self.input
        if isinstance(given, str):
            return [given]
        if not given:
            raise ApiError("input is an empty list; give a text or token ids", param="input")
        ids = [item for item in given if isinstance(item, int)]
        if ids:
            return [ids]
        lists = [item for item in given if isinstance(item, list)]
        return lists or [item for item in given if isinstance(item, str)]
