"""A chat template of a model with all that belongs to it: what it can do, and how replies to it are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imp_runtime.artifact import Artifact
from imp_server import parsers
from imp_server.chat import generic_tools
from imp_server.chat.capabilities import ChatCapabilities, conform
from imp_server.chat.probe import probe
from imp_server.chat.template import ChatTemplate, Json, Message
from imp_server.parsers import ParserFamily


@dataclass(frozen=True, slots=True)
class ChatForm:
    """One template. `parsers` read the replies to what it renders."""

    template: ChatTemplate
    capabilities: ChatCapabilities
    parsers: ParserFamily

    @staticmethod
    def of(template: ChatTemplate, capabilities: ChatCapabilities | None = None, parser: str | None = None) -> ChatForm:
        """The form of a template, probed unless its capabilities are known; `parser` names another family."""
        known = capabilities or probe(template)
        family = parsers.for_model(template.source, parser or known.parser, known.written)
        return ChatForm(template, known, family)

    def reading(self, *, tools: bool) -> ParserFamily:
        """How replies are read where the model was shown tools, or was not."""
        return generic_tools.spelling(self.parsers) if tools and not self.capabilities.tools else self.parsers

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Json]] = (),
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Json] | None = None,
    ) -> str:
        """The prompt for OpenAI's messages, put the way the template wants them. Raises ImpError."""
        if not self.capabilities.tools and (tools or not self.capabilities.tool_calls):
            messages, tools = generic_tools.told(messages, tools), ()
        given = list(tools) if tools or self.capabilities.needs_tools else None
        return self.template.render(
            conform(messages, self.capabilities),
            tools=given,
            add_generation_prompt=add_generation_prompt,
            variables=variables,
        )


def read_form(artifact: Artifact, kind: str, tokens: Mapping[str, str], parser: str | None) -> ChatForm | None:
    """The artifact's template of a kind, "" or ".tool_use", with what was found out about it; None where it has none.

    `tokens` are the special tokens that templates name. `parser` names another family than the template's. Raises
    ImpError.
    """
    source, known = f"chat_template{kind}.jinja", f"chat{kind}.json"
    if not artifact.has(source):
        return None
    template = ChatTemplate(artifact.read(source).decode(errors="replace"), tokens)
    capabilities = None
    if artifact.has(known):
        capabilities = ChatCapabilities.from_json(artifact.read(known).decode(errors="replace"))
    return ChatForm.of(template, capabilities, parser)
