"""Bodies of llama-server's own paths.

Shapes from llama.cpp's tools/server/README.md; those of /tokenize and /detokenize are vLLM's, too.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, JsonValue

from imp_runtime.sampling import MOST_LOGPROBS
from imp_server.api.bodies.fields import MOST_MESSAGES, Strict, Token
from imp_server.api.bodies.generation import Choices, GenerationBody
from imp_server.api.bodies.messages import ChatMessage, Tool
from imp_server.api.bodies.prompts import Prompts
from imp_server.api.native.replies import Wishes
from imp_server.generation.options import Options

Probabilities = Annotated[int, Field(ge=0, le=MOST_LOGPROBS)]


class NativeBody(GenerationBody):
    """What /completion and /infill share."""

    n_cmpl: Choices | None = None
    n_probs: Probabilities | None = None
    logprobs: Probabilities | None = None
    post_sampling_probs: bool | None = None
    return_tokens: bool | None = None
    response_fields: Annotated[list[str], Field(max_length=100)] | None = None

    @property
    def choices(self) -> int:
        """How many completions of each prompt."""
        return self.n_cmpl or self.n or 1

    @property
    def probabilities(self) -> int:
        """Of how many tokens the probabilities are wanted at each place."""
        return (self.n_probs if self.n_probs is not None else self.logprobs) or 0

    def options(self, unsaid: int, most: int) -> Options:
        """Sampling options. 0 tokens, which is to compute the prompt only, are 1 that nobody sees."""
        options = super().options(unsaid, most)
        options["max_tokens"] = options["max_tokens"] or 1
        options["top_logprobs"] = self.probabilities or None
        options["sampled_logprobs"] = bool(self.post_sampling_probs and self.probabilities)
        return options

    def wishes(self, unsaid: int | None, *, several: bool) -> Wishes:
        """The form of the answer. `unsaid`: the server's limit where the request names none, None for none."""
        asked = (unsaid or -1) if self.limit is None else self.limit
        return Wishes(
            n_predict=asked,
            silent=asked == 0,
            stream=bool(self.stream),
            timed=bool(self.timings_per_token),
            return_tokens=bool(self.return_tokens),
            probabilities=self.probabilities,
            after=bool(self.post_sampling_probs),
            fields=self.response_fields or (),
            several=several or self.choices > 1,
        )


class NativeCompletionBody(NativeBody):
    """POST /completion and /completions."""

    prompt: Prompts


class ExtraFile(Strict):
    """Another file of the project."""

    filename: str = ""
    text: str


class InfillBody(NativeBody):
    """POST /infill."""

    input_prefix: str
    input_suffix: str
    input_extra: list[ExtraFile] | None = None
    prompt: str | None = None


class TokenizeBody(Strict):
    """POST /tokenize: llama-server's `content`, or vLLM's `prompt` or `messages`."""

    model: str | None = None
    content: str | None = None
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)] | None = None
    tools: list[Tool] | None = None
    chat_template_kwargs: dict[str, JsonValue] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(Strict):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[Token]
