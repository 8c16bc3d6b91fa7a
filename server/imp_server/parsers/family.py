"""A family of models that write tool calls and reasoning alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from imp_server.generation.constraint import Wait
from imp_server.generation.events import ReplyParser
from imp_server.parsers.grammar import ToolSyntax, tool_grammar
from imp_server.parsers.reader import Reader, Tools, schemas
from imp_server.parsers.thinking import THINK, Thinking, left_open, tags_of, was_closed


@dataclass(frozen=True, slots=True)
class Family:
    """Parser and grammar of one family.

    `marks`: a chat template that writes no past calls, but has all texts of one of these groups, is of this family.
    `syntax` makes the grammar's parts from calls as the template writes them, or from the template; None: the family
    has no way to write calls. `answer`: the tag that begins the visible answer, in families where the end of the
    reasoning does not. `bridge`: the sentence with which these models, as they were trained, break off reasoning that
    has run out of its budget.
    """

    name: str
    reader: type[Reader]
    syntax: Callable[[str], ToolSyntax] | None
    marks: tuple[tuple[str, ...], ...]
    thinking: Thinking | None = None
    answer: str | None = None
    bridge: str | None = None


@dataclass(frozen=True, slots=True)
class ParserFamily:
    """A family as one model's chat template has it.

    `written`: calls as the template writes them, or the template itself where it writes none. `thinking` are the tags
    around reasoning.
    """

    family: Family
    template: str
    written: str
    thinking: Thinking = THINK

    @property
    def name(self) -> str:
        """The family's name."""
        return self.family.name

    @property
    def cut_short(self) -> str:
        """What is put in the model's mouth to end its reasoning."""
        bridge = f"\n\n{self.family.bridge}" if self.family.bridge is not None else ""
        return f"{bridge}\n{self.thinking.closing}\n\n"

    def start(self, prompt_tail: str, tools: Tools | None) -> ReplyParser:
        """A parser for one reply. `prompt_tail`: the rendered prompt, or its end from the last turn on.

        Without tools nothing is taken for a call.
        """
        return self.family.reader(tools, self.thinking, prompt_tail)

    def tool_grammar(
        self,
        tools: Tools,
        choice: str | None = None,
        *,
        parallel: bool = True,
        special: Mapping[str, int] | None = None,
    ) -> str | None:
        """A Lark grammar of replies that call the tool `choice`, any of `tools` when it is None or "required".

        None: the family has no format for calls. Without `parallel` there is one call.
        `special`: ids of the tokenizer's special tokens by their text.
        """
        named = schemas(tools)
        chosen = {choice: named[choice]} if choice in named else named if choice in (None, "required") else {}
        if self.family.syntax is None or not chosen:
            return None
        return tool_grammar(self.family.syntax(self.written), chosen, parallel=parallel, special=special or {})

    def wait(self, prompt_tail: str, *, for_tools: bool) -> Wait | None:
        """What a constraint on the answer (`for_tools`: on the calls) has to wait for; None: it begins at once."""
        if self.family.answer is not None:
            return None if for_tools else Wait(self.family.answer)
        if left_open(prompt_tail, self.thinking):
            return Wait(self.thinking.closing)
        if self.thinking.closing not in self.template or was_closed(prompt_tail, self.thinking):
            return None
        return Wait(self.thinking.closing, self.thinking.opening)


def bind(family: Family, template: str, written: str = "") -> ParserFamily:
    """`family` with the tags that `template` uses, and its way to write calls where that is known."""
    return ParserFamily(family, template, written or template, family.thinking or tags_of(template))
