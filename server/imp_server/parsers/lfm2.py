"""LFM2: `<|tool_call_start|>[name(key='value')]<|tool_call_end|>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from imp_server.parsers.family import Family
from imp_server.parsers.grammar import Part, Pattern, Schema, ToolSyntax, separated, with_definitions
from imp_server.parsers.pythonic import PythonicReader
from imp_server.parsers.text import Steps

_CALLS, _CALLS_END = "<|tool_call_start|>", "<|tool_call_end|>"


class Lfm2Reader(PythonicReader):
    """Content, then a list of calls."""

    def calls(self) -> Steps[None]:
        """See Reader."""
        while True:
            tag = yield from self.until((_CALLS,), self.visible)
            yield from self.attempt(self._calls(), tag)

    def _calls(self) -> Steps[None]:
        yield from self.python_calls()
        yield from self.space()
        yield from self.starts(_CALLS_END)
        yield from self.think_again()


def _call(name: str, schema: Schema) -> Sequence[Part]:
    properties, required = schema.get("properties"), schema.get("required")
    needed = required if isinstance(required, list) else []
    values = [
        ((f"{key}=", _value(value if isinstance(value, Mapping) else {}, schema)), key in needed)
        for key, value in (properties.items() if isinstance(properties, Mapping) else ())
    ]
    return (f"{name}(", *separated(values, ", "), ")")


def _value(schema: Schema, root: Schema) -> Part:
    """A string as the template quotes it, unless the schema says more of it; else JSON, which is read as well."""
    if schema.get("type") == "string" and schema.keys() <= {"type", "description", "title", "default", "examples"}:
        return Pattern(r"'([^'\\\n]|\\['\\n])*'")
    return with_definitions(schema, root)


def _syntax(written: str) -> ToolSyntax:
    return ToolSyntax(_call, before=f"{_CALLS}[", between=", ", after=f"]{_CALLS_END}")


FAMILY = Family("lfm2", Lfm2Reader, _syntax, marks=((_CALLS,), ("<|tool_list_start|>",)))
