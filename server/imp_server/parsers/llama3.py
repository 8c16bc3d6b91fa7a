"""Llama 3 and 4: the reply is `{"name": ..., "parameters": {...}}`, several with `;` between, or `[name(key=value)]`.

`<|python_tag|>` may stand before a call. Nothing else marks one, so only names of given tools are calls.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping

from imp_server.parsers.family import Family
from imp_server.parsers.grammar import Json, ToolSyntax
from imp_server.parsers.reader import Reader
from imp_server.parsers.text import Malformed, Steps

_TAGS = ("<|python_tag|>", "<|python_start|>")
_NAME = re.compile(r"[A-Za-z_][\w.-]*")
_CONSTANTS = {"true": True, "false": False, "null": None}


class Llama3Reader(Reader):
    """A reply that is calls, or content, in which only a tag begins one."""

    any_name = False
    quotes = "\"'"

    def calls(self) -> Steps[None]:
        """See Reader."""
        yield from self.attempt(self._calls())
        while True:
            tag = yield from self.until(_TAGS, self.visible)
            yield from self.attempt(self._calls(), tag)

    def _calls(self) -> Steps[None]:
        yield from self.space()
        while True:
            first = yield from self.peek()
            if first == "{":
                self.quotes = '"'
                yield from self.json_call()
                self.quotes = "\"'"
            elif first == "[":
                yield from self._list()
            else:
                yield from self._call(".call")
            yield from self.space()
            if not (yield from self.starts(";")) and (yield from self.peek()) != "{":
                yield from self.starts("<|python_end|>")
                return
            self.record()
            yield from self.space()

    def _list(self) -> Steps[None]:
        yield from self.expect("[")
        yield from self.space()
        while True:
            yield from self._call("")
            yield from self.space()
            if not (yield from self.starts(",")):
                yield from self.expect("]")
                return
            yield from self.space()

    def _call(self, suffix: str) -> Steps[None]:
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


def _syntax(template: str) -> ToolSyntax:
    return ToolSyntax(
        lambda name, schema: (f'{{"name": {json.dumps(name)}, "parameters": ', Json(schema), "}"), between="; "
    )


FAMILY = Family(
    "llama3",
    Llama3Reader,
    _syntax,
    marks=(("<|start_header_id|>",), ("<|python_tag|>",), ("<|header_start|>",), ("<|python_start|>",)),
)
