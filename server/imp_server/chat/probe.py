"""What a chat template can do, found out by rendering small conversations, with tools where it renders none without."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from imp_server.chat.capabilities import ChatCapabilities, part, user
from imp_server.chat.template import ChatTemplate, ChatTemplateError, Json, Message
from imp_server.chat.turns import results_with_calls
from imp_server.parsers import readers_of, recognise

_SWITCHES = ("enable_thinking", "thinking")
_KEY, _VALUE, _NUMBER = "needle_key", "needle value", "needle_number"
_ARGUMENTS: Mapping[str, Json] = {_KEY: _VALUE, _NUMBER: 3}
_RESULT = "needle result"
_BROKEN = '{"needle_key": "needle'
_NAMES = ("first_tool", "second_tool")
_FOREIGN = "call_0a1b2c3d4e5f60718293a4b5"  # an id as most servers make them
_MOST_WRITTEN = 4096  # characters of two calls


def describe(source: str) -> ChatCapabilities:
    """What the template `source` does. Raises ChatTemplateError for one that cannot be parsed."""
    return probe(ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}))


def probe(template: ChatTemplate) -> ChatCapabilities:
    """Find out what `template` does."""
    trial = _trial(template)
    lists = _VALUE in trial.render([user([part(_VALUE)])]) and "'text'" not in trial.render([user([part(_VALUE)])])
    hello, system = trial.says("user", "Hello"), trial.says("system", _VALUE)
    arguments: Literal["dict", "string"] = "string" if trial.wants_text() else "dict"
    given: Json = json.dumps(_ARGUMENTS) if arguments == "string" else _ARGUMENTS
    one, both = trial.calls(given, _NAMES[:1]), trial.calls(given, _NAMES)
    shown = trial.render(both, [])
    tool_calls = _NAMES[0] in trial.render(one)
    parallel = all(name in shown for name in _NAMES)
    written, parser = _family(trial, both if parallel else one, _NAMES if parallel else _NAMES[:1])
    return ChatCapabilities(
        parser=parser if tool_calls else recognise(template.source),
        written=written if tool_calls else "",
        arguments=arguments,
        text_arguments=_BROKEN in trial.render(trial.calls(_BROKEN, _NAMES[:1])),
        content=trial.content,
        content_lists=lists,
        needs_tools=trial.no_tools is not None,
        system=_VALUE in trial.render([system, hello]),
        later_system=trial.in_order(("system", "say1"), ("system", "say2"), ("user", "say3"), ("system", "say4")),
        alternates=not trial.in_order(("user", "say1"), ("user", "say2"))
        or (tool_calls and not trial.in_order(("user", "say1"), after=one)),
        tools=any("needle_tool" in trial.render(asked, [_tool("needle_tool")]) for asked in ([hello], [system, hello])),
        tool_calls=tool_calls,
        parallel_calls=parallel,
        tool_results=_RESULT in trial.render(one),
        short_ids=trial.short_ids(given),
        results_in_calls=trial.results_in_calls(one),
        thinking_switch=next((name for name in _SWITCHES if trial.switches(hello, name)), None),
    )


@dataclass(frozen=True, slots=True)
class _Trial:
    """Conversations in the form that one template takes. `no_tools` is what stands for none, where None fails."""

    template: ChatTemplate
    content: Literal["string", "list"] = "string"
    no_tools: Sequence[Mapping[str, Json]] | None = None

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Json]] | None = None, *, prompt: bool = True
    ) -> str:
        """The rendered conversation; nothing where the template refuses it."""
        try:
            return self.template.render(messages, tools=tools or self.no_tools, add_generation_prompt=prompt)
        except ChatTemplateError:
            return ""

    def says(self, role: str, text: str) -> dict[str, Json]:
        """A message."""
        return {"role": role, "content": [part(text)] if self.content == "list" else text}

    def in_order(self, *said: tuple[str, str], after: Sequence[Message] = ()) -> bool:
        """Whether turns (role, text) come out one after the other, with tools and without."""
        messages = [*after, *(self.says(role, text) for role, text in said)]
        shown = (self.render(messages, tools) for tools in (None, [_tool("some_tool")]))
        return all(re.search(".*".join(text for _, text in said), text, re.DOTALL) for text in shown)

    def wants_text(self) -> bool:
        """Whether past arguments come out right as JSON text only.

        Python's spelling of a dict, or a string within a string, is the template's way to say that it got the wrong
        form.
        """
        as_dict = self.render(self.calls(_ARGUMENTS, _NAMES[:1]))
        as_text = self.render(self.calls(json.dumps(_ARGUMENTS), _NAMES[:1]))
        dict_works = _VALUE in as_dict and f"'{_KEY}'" not in as_dict
        text_works = _VALUE in as_text and f'\\"{_KEY}' not in as_text
        return text_works and not dict_works

    def calls(
        self, arguments: Json, names: Sequence[str], ids: Sequence[str] = ("abcdefgh0", "abcdefgh1")
    ) -> list[Message]:
        """A conversation with past calls. The ids have nine letters because some templates insist on that."""
        named = list(zip(ids, names, strict=False))
        calls: list[Json] = [
            {"id": each, "type": "function", "function": {"name": name, "arguments": arguments}} for each, name in named
        ]
        results = ({**self.says("tool", _RESULT), "tool_call_id": each, "name": name} for each, name in named)
        return [self.says("user", "Hello"), {**self.says("assistant", ""), "tool_calls": calls}, *results]

    def short_ids(self, arguments: Json) -> bool:
        """Whether ids of past calls must have nine letters or digits."""
        shown = (
            _NAMES[0] in self.render(self.calls(arguments, _NAMES[:1], [each])) for each in (_FOREIGN, "abcdefgh0")
        )
        return tuple(shown) == (False, True)

    def results_in_calls(self, one: Sequence[Message]) -> bool:
        """Whether a call's result comes out otherwise, and comes out, as a part of the turn that has the call."""
        shown = self.render(results_with_calls(one))
        return _RESULT in shown and shown != self.render(one)

    def switches(self, hello: Message, name: str) -> bool:
        """Whether the variable `name` changes the prompt."""
        try:
            on, off = (
                self.template.render([hello], tools=self.no_tools, variables={name: value}) for value in (True, False)
            )
        except ChatTemplateError:
            return False
        return on != off


def _trial(template: ChatTemplate) -> _Trial:
    """The form of content, and whether there must be tools, with which `template` renders a user's turn."""
    forms: tuple[Literal["string", "list"], ...] = ("string", "list")
    for no_tools in (None, [], [_tool("some_tool")]):
        for form in forms:
            trial = _Trial(template, form, no_tools)
            if _VALUE in trial.render([trial.says("user", _VALUE)]):
                return trial
    return _Trial(template)


def _family(trial: _Trial, messages: Sequence[Message], names: Sequence[str]) -> tuple[str, str]:
    """How the template writes the calls in `messages`, and the family that reads them; "plain" where none does."""
    tools = [_tool(name) for name in names]
    calls = [(name, dict(_ARGUMENTS)) for name in names]
    for given, end in ((tools, 2), (tools, None), ([], 2)):  # some write a call only with its result, or no tools
        whole = trial.render(messages[:end], given, prompt=False)
        for prompt in (True, False):
            before = trial.render(messages[:1], given, prompt=prompt)
            pairs = enumerate(zip(before, whole, strict=False))
            shared = next((i for i, (one, other) in pairs if one != other), min(len(before), len(whole)))
            if prompt and shared < len(before):
                continue  # the prompt has more than a past turn, like the beginning of reasoning
            written, tail = whole[shared : shared + _MOST_WRITTEN], before if prompt else ""
            if found := readers_of(written, tail, tools, calls, trial.template.source):
                return written, found[0]
    return "", "plain"


def _tool(name: str) -> Mapping[str, Json]:
    properties: Json = {_KEY: {"type": "string", "description": "A word."}, _NUMBER: {"type": "integer"}}
    parameters: Json = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": parameters}}
