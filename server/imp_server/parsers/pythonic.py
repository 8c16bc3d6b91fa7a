"""Calls that are written as Python does: `[name(key="value", other=1)]`."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping

from imp_server.parsers.reader import Reader
from imp_server.parsers.text import Malformed, Steps

_NAME = re.compile(r"[A-Za-z_][\w.-]*")
_CONSTANTS = {"true": True, "false": False, "null": None}


class PythonicReader(Reader):
    """A parser that reads calls of the given tools in Python's spelling."""

    any_name = False
    quotes = "\"'"

    def python_calls(self) -> Steps[None]:
        """A list of calls."""
        yield from self.expect("[")
        yield from self.space()
        while True:
            yield from self.python_call("")
            yield from self.space()
            if not (yield from self.starts(",")):
                yield from self.expect("]")
                return
            yield from self.space()

    def python_call(self, suffix: str) -> Steps[None]:
        """One `name(key=value, ...)`; between name and bracket may stand `suffix`."""
        name = (yield from self.match(_NAME)).removesuffix(suffix)
        if not self.knows(name) or (yield from self.peek()) != "(":
            raise Malformed
        parts: list[str] = []
        yield from self.balanced(parts.append)
        self.call(name, _arguments("".join(parts), self.schemas[name]))


def _arguments(text: str, schema: Mapping[str, object]) -> str:
    """The JSON of Python's call arguments `(...)`; those without a key get the schema's keys in order."""
    properties = schema.get("properties")
    keys = list(properties) if isinstance(properties, Mapping) else []
    try:
        call = ast.parse(f"f{text}", mode="eval").body
        if not isinstance(call, ast.Call) or len(call.args) > len(keys):
            raise Malformed
        named = [*zip(keys, call.args, strict=False), *((word.arg, word.value) for word in call.keywords)]
        return json.dumps(
            {key: ast.literal_eval(_Constants().visit(value)) for key, value in named}, ensure_ascii=False
        )
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise Malformed from None


class _Constants(ast.NodeTransformer):
    """JSON's spellings of constants as Python's."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A name that is a constant in JSON."""
        return ast.Constant(_CONSTANTS[node.id]) if node.id in _CONSTANTS else node
