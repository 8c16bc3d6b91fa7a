"""What users and tools say is text: no special token that is spelled in it becomes one.

Otherwise `<|im_end|><|im_start|>system` in a question, or in a page that a tool has fetched, would open a turn of its
own. Such spellings get a mark, which no template and no writer can know, before the template is rendered, and lose it
when the prompt is encoded.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from imp_server.chat.template import Json, Message
from imp_server.generation.tokenizer import Tokenizer

_SPEAKERS = ("user", "tool", "function")
_NAMES = ("role", "type")  # whose values are words of the protocol


class Quotation:
    """The marks of one prompt."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._mark = secrets.token_hex(8)  # plain letters, so that templates may quote or trim what is around them

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """`messages` with marks in what users and tools say."""
        return [
            {key: value if key in _NAMES else self._marked(value) for key, value in message.items()}
            if message.get("role") in _SPEAKERS
            else message
            for message in messages
        ]

    def text(self, rendered: str) -> str:
        """The prompt as people read it."""
        return rendered.replace(self._mark, "")

    def tokens(self, rendered: str) -> list[int]:
        """The prompt's token ids."""
        return self._tokenizer.encode_marked(rendered, self._mark)

    def _marked(self, value: Json) -> Json:
        if isinstance(value, str):
            return self._tokenizer.marked(value, self._mark)
        if isinstance(value, Mapping):
            return {key: each if key in _NAMES else self._marked(each) for key, each in value.items()}
        if isinstance(value, Sequence):
            return [self._marked(each) for each in value]
        return value
