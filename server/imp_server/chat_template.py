"""Chat templates, rendered as Hugging Face's `apply_chat_template` renders them.

The environment (sandbox, block trimming, loop controls, `tojson` without HTML escaping, `raise_exception`,
`strftime_now`, the `generation` tag) follows https://huggingface.co/docs/transformers/chat_templating_writing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from imp_runtime.errors import ImpError

Json = str | int | float | bool | None | Sequence["Json"] | Mapping[str, "Json"]
Message = Mapping[str, Json]


class ChatTemplateError(ImpError):
    """The template refused the conversation, or is broken."""


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks what the assistant says, for training; here it is a scope."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it as a mutable class attribute

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def _tojson(
    value: Json,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


class ChatTemplate:
    """A compiled template. `tokens` are the special tokens that templates name: `bos_token`, `eos_token`."""

    def __init__(self, source: str, tokens: Mapping[str, str], *, now: Callable[[], datetime] = datetime.now) -> None:
        """Raises ChatTemplateError when the template has a syntax error; `now` is what `strftime_now` reads."""
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: now().strftime(form)
        self._tokens = dict(tokens)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"the model's chat template has an error: {_line(error)}") from None

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Json] | None = None,
    ) -> str:
        """The prompt for `messages`; `variables` (such as `enable_thinking`) go to the template as they are.

        Raises ChatTemplateError with the template's own words when it refuses the messages.
        """
        names: dict[str, object] = {**self._tokens, **(variables or {})}
        names |= {"messages": messages, "tools": None, "documents": None}
        try:
            return self._template.render(names, add_generation_prompt=add_generation_prompt)
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"the chat template refuses these messages: {_line(error)}") from None
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
            raise ChatTemplateError(f"the chat template cannot render these messages: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
