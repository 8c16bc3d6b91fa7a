"""Chat templates, rendered as `apply_chat_template` of Hugging Face transformers 5.23 renders them.

The environment (sandbox, block trimming, loop controls, `tojson` without HTML escaping, `raise_exception`,
`strftime_now`, the `generation` tag, `dict` and `namespace` without a way out) follows
https://huggingface.co/docs/transformers/chat_templating_writing and what that version does. Besides, a rendering has a
limit in time and in size, because templates come with checkpoints from anywhere.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.compiler
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox
import jinja2.utils

from imp_runtime.errors import ImpError

Json = str | int | float | bool | None | Sequence["Json"] | Mapping[str, "Json"]
Message = Mapping[str, Json]

MOST_SECONDS = 2.0
MOST_CHARACTERS = 16 << 20
_REASONING = ("reasoning_content", "thinking", "reasoning")  # what a message's reasoning is called, best name first


class ChatTemplateError(ImpError):
    """The template refused the conversation, or is broken."""


class _OverLimit(Exception):  # noqa: N818  told as ChatTemplateError
    """The rendering takes too long or grows too large."""


class _Limits(threading.local):
    """The deadline of the rendering that this thread is at."""

    until = float("inf")

    def check(self) -> str:
        if time.monotonic() > self.until:
            raise _OverLimit(f"it takes longer than {MOST_SECONDS:g} s")
        return ""


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox, which looks at the clock in every turn of a loop and at every call."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self) -> None:
        self.limits = _Limits()
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])

    def call(self, context: jinja2.runtime.Context, called: object, *args: object, **kwargs: object) -> object:
        self.limits.check()
        return super().call(context, called, *args, **kwargs)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: object, right: object) -> object:
        """The operation, unless its result could not even be stored."""
        self.limits.check()
        if operator == "*":
            for many, count in ((left, right), (right, left)):
                if isinstance(count, int) and isinstance(many, str | list | tuple):
                    _check_size(len(many) * count)
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_size(left.bit_length() * right)
        result: object = super().call_binop(context, operator, left, right)
        if isinstance(result, str | list):
            _check_size(len(result))
        return result

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(jinja2.nodes.For)):
            tick = jinja2.nodes.Call(jinja2.nodes.EnvironmentAttribute("limits.check"), [], [], None, None)
            loop.body.insert(0, jinja2.nodes.ExprStmt(tick, lineno=loop.lineno).set_environment(self))
        return tree


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks what the assistant says, for training."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it as a mutable class attribute

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """`dict` in templates: a function, not a type whose attributes lead elsewhere."""

    def __call__(self, *args: Iterable[tuple[str, object]], **kwargs: object) -> dict[str, object]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[object], value: object = None) -> dict[object, object]:
        """As of Python's dict."""
        return dict.fromkeys(keys, value)


class _Namespace(jinja2.utils.Namespace):
    """`namespace` in templates, without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: object) -> None:  # a field may be called `self`
        fields = dict(*args[1:], **kwargs)
        for name in fields:
            _check_name(name)
        jinja2.utils.Namespace.__init__(args[0], fields)

    def __setitem__(self, name: str, value: object) -> None:
        _check_name(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace of a chat template cannot have the attribute {name!r}")


def _check_size(length: int) -> None:
    if length > MOST_CHARACTERS:
        raise _OverLimit(f"it makes more than {MOST_CHARACTERS:,} characters")


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
        """Raises ChatTemplateError when the template has a syntax error; `now` is what today's date is read from."""
        environment = _Environment()
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: now().strftime(form)
        environment.globals["dict"] = _Dict()
        environment.globals["namespace"] = _Namespace
        self.source = source
        self._limits = environment.limits
        self._now = now
        self._tokens = dict(tokens)
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ChatTemplateError(f"the model's chat template has an error: {_line(error)}") from None

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Json]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Json] | None = None,
    ) -> str:
        """The prompt for `messages`, with `tools` in OpenAI's shape.

        `variables` (such as `enable_thinking`) go to the template as they are. Raises ChatTemplateError with the
        template's own words when it refuses the messages.
        """
        # What whoever calls transformers has to give himself: Llama 3's date, Firefunction's date and functions.
        today = self._now()
        given = {
            "date_string": today.strftime("%d %b %Y"),
            "datetime": today.strftime("%b %d %Y"),
            "functions": _tojson(tools, indent=4) if tools else "",
        }
        names: dict[str, object] = {**self._tokens, "documents": None, **given, **(variables or {})}
        names |= {"messages": [_with_reasoning(message) for message in messages], "tools": tools}
        self._limits.until = time.monotonic() + MOST_SECONDS
        try:
            return self._joined(self._template.generate(names, add_generation_prompt=add_generation_prompt))
        except (_OverLimit, MemoryError) as error:
            raise ChatTemplateError(f"the chat template is too expensive for these messages: {_line(error)}") from None
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"the chat template refuses these messages: {_line(error)}") from None
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
            raise ChatTemplateError(f"the chat template cannot render these messages: {_line(error)}") from None
        finally:
            self._limits.until = float("inf")

    def _joined(self, pieces: Iterable[str]) -> str:
        parts, length = [], 0
        for piece in pieces:
            self._limits.check()
            _check_size(length := length + len(piece))
            parts.append(piece)
        return "".join(parts)


def _with_reasoning(message: Message) -> Message:
    """`message` with its reasoning under the names that templates read."""
    reasoning = next((message[name] for name in _REASONING if message.get(name) is not None), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
