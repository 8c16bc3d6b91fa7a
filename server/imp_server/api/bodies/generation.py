"""What every request for a generation may say about sampling and about the form of the reply, whatever its protocol.

OpenAI's fields, with the further ones that clients of llama-server, vLLM and SGLang send.
"""

from __future__ import annotations

import json
import secrets
from typing import Annotated

from pydantic import Field, JsonValue

from imp_server.api.bodies.fields import Finite, Int32, Int64, Stop, Strict, Token
from imp_server.api.bodies.formats import ResponseFormat, StructuredOutputs, dialect, one_of
from imp_server.api.conversation import Grammar
from imp_server.errors import ApiError
from imp_server.generation.options import Options

_MOST_STOPS = 16
_MOST_CHOICES = 128
Choices = Annotated[int, Field(ge=1, le=_MOST_CHOICES)]
_BAN = -100.0  # llama-server's `false` as a bias


class StreamOptions(Strict):
    """`stream_options` of a request."""

    include_usage: bool | None = None


class GenerationBody(Strict):
    """What all bodies that ask for a generation share."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    timings_per_token: bool | None = None
    return_progress: bool | None = None
    n: Choices | None = None
    max_tokens: Int32 | None = None
    n_predict: Int32 | None = None
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

    @property
    def limit(self) -> int | None:
        """The most tokens to generate, by the name that the request has for it; -1: no limit."""
        return self.n_predict if self.max_tokens is None else self.max_tokens

    def options(self, unsaid: int, most: int) -> Options:
        """Sampling options. A request that names no limit gets `unsaid` tokens, one that wants none `most`."""
        asked = unsaid if self.limit is None else self.limit
        return Options(
            max_tokens=most if asked == -1 else asked,
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
            seed=secrets.randbits(63) if self.seed == -1 else self.seed,
            ignore_eos=self.ignore_eos,
            stop=self.stop,
            stop_tokens=self.stop_token_ids,
            logit_bias=self.biases(),
        )

    def biases(self) -> dict[int | str, float] | None:
        """`logit_bias` by token id or text, from OpenAI's map or llama-server's list of pairs. Raises ApiError.

        The keys of a map are texts in any case: those that are whole numbers are token ids.
        """
        if not self.logit_bias:
            return None
        named = isinstance(self.logit_bias, dict)
        pairs = self.logit_bias.items() if isinstance(self.logit_bias, dict) else self.logit_bias
        biases: dict[int | str, float] = {}
        for token, bias in pairs:
            if token == "":
                raise ApiError("logit_bias has an empty key, expected a token id or a text", param="logit_bias")
            if bias is True:
                raise ApiError("logit_bias of a token is true; expected a number or false", param="logit_bias")
            is_id = named and isinstance(token, str) and token.isascii() and token.isdecimal() and len(token) < 10
            biases[int(token) if is_id else token] = _BAN if bias is False else float(bias)
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
