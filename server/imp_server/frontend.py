"""What a model is without its engine: all that turns requests into token ids, and what an artifact says of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError
from imp_runtime.sampling import SamplingParams
from imp_runtime.version import VERSION
from imp_server.chat.form import ChatForm, read_form
from imp_server.chat.quotation import Quotation
from imp_server.chat.template import ChatTemplate, Json, Message
from imp_server.errors import ContextExceededError
from imp_server.generation.options import Options, generation_config, recommended, sampling_params, stop_strings
from imp_server.generation.request import Request
from imp_server.generation.tokenizer import Tokenizer


class Frontend:
    """Tokenizer, chat template and default sampling of an artifact. The engine may run in another process.

    `context` is the most tokens of a sequence, prompt and answer together; `fingerprint` is of what computes the
    answers: with another one the same seed may give another answer.
    """

    def __init__(self, artifact: Artifact, *, parser: str | None = None, chat_template: str | None = None) -> None:
        """`parser` names the family of reply parsers instead of the one that the chat template belongs to.

        `chat_template` is the source of one in place of the artifact's. Raises ImpError.
        """
        self.path: Path = artifact.path
        self.plan = artifact.plan
        self.context = artifact.plan.context
        self.fingerprint = ""
        self._code = (VERSION, artifact.metadata["imp_version"], artifact.weights_hash)
        self.tokenizer = Tokenizer(artifact)
        config = generation_config(artifact)
        self.defaults = recommended(config)
        self.http_defaults = recommended(config, temperature=1.0)  # what OpenAI's and Anthropic's APIs promise
        named = {"bos_token": self.plan.bos_token, "eos_token": self.plan.eos_token}
        spelled = {name: self.tokenizer.spelling(token) for name, token in named.items()}
        tokens = {name: text for name, text in spelled.items() if text is not None}
        self.think: bool | None = None  # whether to reason where a request does not say; None: as the template has it
        if chat_template is None:
            self.chat_form = read_form(artifact, "", tokens, parser)
            self._tool_form = read_form(artifact, ".tool_use", tokens, parser) or self.chat_form
        else:
            self.chat_form = self._tool_form = ChatForm.of(ChatTemplate(chat_template, tokens), None, parser)

    def runs_on(self, target: str, context: int) -> None:
        """What the engine says that runs it: the target of the code, and how many tokens a sequence can have."""
        self.context = context
        parts = (*self._code, target)
        self.fingerprint = f"build-{hashlib.blake2b(repr(parts).encode(), digest_size=6).hexdigest()}"

    def serve_with(self, options: Options, *, think: bool | None) -> None:
        """What requests over HTTP get where they do not say: sampling, and whether the model reasons.

        Raises ImpError for values out of range, and where reasoning cannot be switched.
        """
        self.http_defaults = sampling_params(options, self.http_defaults)
        self.think = think
        form = self.chat_form
        if think is None or form is None or form.capabilities.thinking_switch is not None:
            return
        if form.parsers.thinking.opening.strip() in form.template.source or think:
            raise ImpError(
                f"the chat template of {self.plan.model} has no switch for reasoning; leave --reasoning away, "
                "or give a template that reads enable_thinking with --chat-template"
            )

    def form(self, *, tools: bool) -> ChatForm:
        """The chat template for a conversation, with tools or without. Raises ImpError when the model has none."""
        form = self._tool_form if tools else self.chat_form
        if form is None:
            raise ImpError(f"the model {self.plan.model} has no chat template; use it for plain completion")
        return form

    def chat_prompt(self, messages: Sequence[Message], variables: Mapping[str, Json] | None = None) -> list[int]:
        """Token ids of the rendered chat template; `variables` (such as `enable_thinking`) go to it as they are.

        What users and tools say is text, even where it spells a special token.
        Raises ImpError when the model has no template or the template refuses the messages.
        """
        quotation = Quotation(self.tokenizer)
        return quotation.tokens(self.form(tools=False).render(quotation.messages(messages), variables=variables))

    def request(self, prompt: Sequence[int], options: Options, defaults: SamplingParams | None = None) -> Request:
        """A checked request; `defaults` are the model's unless given.

        Raises ImpError when the prompt does not fit or an option is out of range.
        """
        if len(prompt) >= self.context:
            raise ContextExceededError(len(prompt), self.context)
        options = {**options, "logit_bias": self._biases(options.get("logit_bias"))}
        return Request(tuple(prompt), sampling_params(options, defaults or self.defaults), stop_strings(options))

    def _biases(self, given: Mapping[int | str, float] | None) -> dict[int | str, float] | None:
        """Biases by token id: a text stands for each of its tokens."""
        if not given:
            return None
        biases: dict[int | str, float] = {}
        for key, bias in given.items():
            for token in [key] if isinstance(key, int) else self.tokenizer.encode(key, special=False):
                biases[token] = bias
        return biases
