"""The formats of the reply that a request body of OpenAI's may ask for, under vLLM's and llama-server's names, too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, JsonValue

from imp_server.api.bodies.fields import Strict
from imp_server.api.conversation import Grammar, GrammarKind
from imp_server.errors import ApiError


class SchemaFormat(Strict):
    """`json_schema` of a response format."""

    schema_: dict[str, JsonValue] | bool | None = Field(default=None, alias="schema")


class ResponseFormat(Strict):
    """`response_format`; llama-server also takes `schema` beside `type`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None
    schema_: dict[str, JsonValue] | bool | None = Field(default=None, alias="schema")

    def grammar(self) -> Grammar | None:
        """The grammar of the format. Raises ApiError when a schema is missing."""
        schema = self.schema_ if self.json_schema is None else self.json_schema.schema_
        if self.type == "text":
            return None
        if schema is not None:
            return Grammar("json_schema", json.dumps(schema))
        if self.type == "json_schema":
            raise ApiError("response_format of type json_schema has no json_schema.schema", param="response_format")
        return Grammar("json_object", "{}")


class StructuredOutputs(Strict):
    """vLLM's `structured_outputs`: one of its fields."""

    json_: dict[str, JsonValue] | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None

    def grammar_of(self) -> Grammar | None:
        """The grammar asked for, if any."""
        if self.json_ is not None:
            return Grammar("json_schema", self.json_ if isinstance(self.json_, str) else json.dumps(self.json_))
        if self.regex is not None:
            return Grammar("regex", self.regex)
        if self.choice is not None:
            return one_of(self.choice)
        if self.grammar is not None:
            return Grammar(dialect(self.grammar), self.grammar)
        return Grammar("json_object", "{}") if self.json_object else None


def one_of(choices: Sequence[str]) -> Grammar:
    """One of these texts. Raises ApiError when there is none, or an empty one."""
    if not choices or not all(choices):
        raise ApiError("choice must be a list of texts that are not empty", param="structured_outputs")
    return Grammar("lark", "start: " + " | ".join(json.dumps(choice) for choice in choices))


def dialect(grammar: str) -> GrammarKind:
    """GBNF defines with `::=`; Lark with a colon."""
    return "gbnf" if "::=" in grammar else "lark"
