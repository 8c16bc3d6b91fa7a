"""Grammars for replies that must call a tool, in the Lark dialect of llguidance.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md: `%json {...}` is JSON of a schema, `<[7]>` is the
token 7, `name[lazy]: /.../` is the shortest match.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from imp_server.parsers.tagged import types_of

Schema = Mapping[str, object]
# As templates show the model its own calls; with free whitespace some models never come to an end.
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True, slots=True)
class Json:
    """JSON that fits a schema."""

    schema: Schema


@dataclass(frozen=True, slots=True)
class Until:
    """A text, of the form of the regular expression `text`, and `end`."""

    end: str
    text: str = "(?s:.*)"


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a regular expression matches."""

    pattern: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of several sequences; an empty one makes the others optional."""

    several: tuple[tuple[Part, ...], ...]


Part = str | Json | Until | Pattern | OneOf


@dataclass(frozen=True, slots=True)
class ToolSyntax:
    """How a family writes calls: `lead`, `before`, calls with `between` them, `after`.

    `call` gives the parts of one call of a function with a parameter schema. Without `between` there is one call only.
    """

    call: Callable[[str, Schema], Sequence[Part]]
    before: str = ""
    between: str | None = ""
    after: str = ""
    lead: tuple[Part, ...] = ()


def tagged_call(
    begin: str,
    parameter: tuple[str, str],
    end: str,
    *,
    before: str = "",
    between: str = "",
    after: str = "",
) -> ToolSyntax:
    """A syntax with one tag per parameter; `%s` stands for a name, `{string}` for whether the value is a string."""

    def call(name: str, schema: Schema) -> Sequence[Part]:
        parts: list[Part] = [begin.replace("%s", name)]
        properties = schema.get("properties")
        required = schema.get("required")
        for key, value in properties.items() if isinstance(properties, Mapping) else ():
            string = "string" in types_of(value, schema)
            opening = parameter[0].replace("%s", key).replace("{string}", "true" if string else "false")
            one = (opening, *_value(value, schema, parameter[1], string=string))
            parts.append(OneOf((one,) if isinstance(required, list) and key in required else (one, ())))
        return (*parts, end)

    return ToolSyntax(call, before, between, after)


def between(written: str, end: str, begin: str, default: str) -> str:
    """The whitespace between the end of one call and the beginning of the next in `written`."""
    found = re.search(rf"{re.escape(end)}(\s*){re.escape(begin)}", written)
    return found[1] if found else default


def separated(items: Sequence[tuple[Sequence[Part], bool]], separator: str, *, first: bool = True) -> tuple[Part, ...]:
    """Items in their order with a separator between; the flag of each says whether it must be there."""
    if not items:
        return ()
    (item, needed), *rest = items
    one = item if first else (separator, *item)
    if not first:
        return (*(one if needed else (OneOf((tuple(one), ())),)), *separated(rest, separator, first=False))
    if needed:
        return (*one, *separated(rest, separator, first=False))
    return (OneOf(((*one, *separated(rest, separator, first=False)), separated(rest, separator))),)


def with_definitions(schema: Schema, root: Schema) -> Json:
    """JSON of a part of the schema `root`, to which it may refer."""
    return Json({**{key: root[key] for key in ("$defs", "definitions", "x-guidance") if key in root}, **schema})


def _value(value: object, root: Schema, end: str, *, string: bool) -> tuple[Part, ...]:
    schema = value if isinstance(value, Mapping) else {}
    if not string:
        return with_definitions(schema, root), end
    words = schema.get("enum")
    if isinstance(words, list) and all(isinstance(word, str) for word in words):
        return OneOf(tuple((word,) for word in words)), end
    return (Until(end, text_of(schema)),)


def text_of(schema: Schema) -> str:
    """The regular expression of a string without quotes: its pattern, or else its length, if it has one."""
    if schema.get("type") != "string":
        return "(?s:.*)"
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and not ("|" in pattern and re.search(r"^\^|\$$", pattern)):
        begin = "" if pattern.startswith("^") else "(?s:.*)"
        end = "" if re.search(r"(?<!\\)\$$", pattern) else "(?s:.*)"
        return f"{begin}(?:{pattern.removeprefix('^').removesuffix('' if end else '$')}){end}"
    least, most = (schema.get(word) for word in ("minLength", "maxLength"))
    if not isinstance(least, int) and not isinstance(most, int):
        return "(?s:.*)"
    return f"(?s:.{{{least if isinstance(least, int) else 0},{most if isinstance(most, int) else ''}}})"


def tool_grammar(syntax: ToolSyntax, tools: Mapping[str, Schema], *, parallel: bool, special: Mapping[str, int]) -> str:
    """The grammar of one call of one of `tools`, or more if `parallel`. `special`: token ids of special tokens."""
    lark = _Lark(special)
    # A function without parameters takes none; keys that the schema does not name are left out.
    closed = {"properties": {}, "additionalProperties": False, "type": "object"}
    calls = [syntax.call(name, {**closed, **schema}) for name, schema in tools.items()]
    call = lark.rule(" | ".join(lark.sequence(parts) for parts in calls))
    more = f" ({lark.literal(syntax.between)} {call})*" if parallel and syntax.between is not None else ""
    lead = lark.sequence(syntax.lead)
    # llguidance reads the longest literal: what the end and a further call begin with must be one of its own.
    end = syntax.after.removeprefix(syntax.between or "")
    after = f"{lark.literal(syntax.after.removesuffix(end))} {lark.literal(end)}"
    start = f"start: {lead} {lark.literal(syntax.before)} {call}{more} {after}"
    return "\n".join([start, *lark.rules]) + "\n"


@dataclass(slots=True)
class _Lark:
    """Writes rules. Special tokens that a literal spells out are tokens, since they are no text to the grammar."""

    special: Mapping[str, int]
    rules: list[str] = field(default_factory=list)

    def rule(self, body: str, options: str = "") -> str:
        name = f"r{len(self.rules)}"
        self.rules.append(f"{name}{options}: {body}")
        return name

    def sequence(self, parts: Sequence[Part]) -> str:
        return " ".join(map(self._part, parts)) or '""'

    def literal(self, text: str) -> str:
        return " ".join(
            f"<[{self.special[piece]}]>" if piece in self.special else json.dumps(piece, ensure_ascii=False)
            for piece in self._cut(text)
        )

    def _part(self, part: Part) -> str:
        match part:
            case str():
                return self.literal(part)
            case Json():
                given = part.schema.get("x-guidance")
                options = {**(given if isinstance(given, Mapping) else {}), **_JSON}
                return self.rule(f"%json {json.dumps({**part.schema, 'x-guidance': options})}")
            case Pattern():
                return self.rule(f"/{part.pattern}/")
            case OneOf():
                return "(" + " | ".join(map(self.sequence, part.several)) + ")"
            case Until():
                first, *rest = self._cut(part.end)
                text = re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\/", part.text).replace("\n", "\\n")
                if first in self.special:
                    return f"{self.rule(f'/{text}/')} {self.literal(part.end)}"
                end = re.escape(first).replace("\\\n", "\\n").replace("/", "\\/")
                return f"{self.rule(f'/{text}{end}/', '[lazy]')} {self.literal(''.join(rest))}"

    def _cut(self, text: str) -> list[str]:
        """`text` cut at special tokens."""
        tokens = sorted(filter(None, self.special), key=len, reverse=True)
        pattern = "|".join(map(re.escape, tokens))
        return (
            [piece for piece in re.split(f"({pattern})", text) if piece] if pattern and text else [text] if text else []
        )
