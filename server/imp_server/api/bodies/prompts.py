"""The forms in which llama-server takes a prompt, and their token ids.

A prompt is a text, token ids, both mixed in one list, `{"prompt_string": text}`, or `{"content": [parts]}` as some
embedding APIs have it. A list that holds no token id is a list of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, JsonValue, model_validator

from imp_server.api.bodies.fields import Strict, Token
from imp_server.api.bodies.messages import Part, not_text
from imp_server.errors import ApiError
from imp_server.frontend import Frontend

MOST_PROMPTS = 2048


class PromptObject(Strict):
    """A prompt as an object: one of its first two fields."""

    prompt_string: str | None = None
    content: list[Part] | None = None
    multimodal_data: JsonValue = None

    @model_validator(mode="after")
    def _one(self) -> PromptObject:
        if (self.prompt_string is None) == (self.content is None):
            raise ValueError("an object needs prompt_string or content")
        return self

    def text(self, where: str) -> str:
        """Its text. Raises ApiError where there is something else."""
        if self.multimodal_data:
            raise not_text(where, "multimodal_data")
        texts = []
        for i, part in enumerate(self.content or ()):
            if part.type != "text" or part.text is None:
                raise not_text(f"{where}.content.{i}", part.type)
            texts.append(part.text)
        return "".join(texts) if self.prompt_string is None else self.prompt_string


Text = Annotated[str, Field(strict=True)]
Mixed = list[Token | Text]
Prompt = Text | PromptObject | Mixed
Prompts = Text | PromptObject | list[Token | Text | PromptObject | Mixed]


def several(prompts: Prompts) -> bool:
    """Whether it is a list of prompts, and not one."""
    return isinstance(prompts, list) and not any(isinstance(each, int) for each in prompts)


def token_ids(model: Frontend, prompts: Prompts, where: str, *, end: bool = False) -> list[list[int]]:
    """The token ids of each prompt; with `end` as a model that has an end-of-sequence token behind a text wants them.

    `where` is the field's name. Raises ImpError naming what in it is wrong.
    """
    if not several(prompts):
        return [_ids(model, prompts, where, end)]
    assert isinstance(prompts, list)
    if not prompts:
        raise ApiError(f"{where} is an empty list; give a text or token ids", param=where)
    if len(prompts) > MOST_PROMPTS:
        message = f"{where} has {len(prompts)} entries; at most {MOST_PROMPTS} go in one request"
        raise ApiError(message, param=where)
    return [_ids(model, prompt, f"{where}.{i}", end) for i, prompt in enumerate(prompts)]


def _ids(model: Frontend, prompt: object, where: str, end: bool) -> list[int]:
    parts: Sequence[object] = prompt if isinstance(prompt, list) else [prompt]
    field, last = where.split(".")[0], model.plan.vocab - 1
    found: list[int] = []
    for i, part in enumerate(parts):
        if isinstance(part, int):
            if part > last:
                raise ApiError(f"{where}.{i} is {part}, expected a token id from 0 to {last}", param=field)
            found.append(part)
        elif isinstance(part, str | PromptObject):
            text = part if isinstance(part, str) else part.text(where)
            found += model.tokenizer.encode(text, special=i == 0, end=end and i == len(parts) - 1)
        else:
            raise ApiError(f"{where}.{i} is a list in a list of token ids", param=field)
    if not found:
        raise ApiError(f"{where} is empty; give a text or token ids", param=field)
    return found
