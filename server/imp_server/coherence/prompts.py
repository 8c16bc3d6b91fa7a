"""What a model is asked. The texts were written for imp."""

from __future__ import annotations

from dataclasses import dataclass

from imp_server.model import Model


@dataclass(frozen=True, slots=True)
class Prompt:
    """`chat`: a user's message, where the model has a template, else a text to go on with like the others.

    `repetitive`: whoever goes on with it well repeats himself.
    """

    name: str
    text: str
    chat: bool = False
    repetitive: bool = False


def _log(lines: int) -> str:
    return "".join(f"Pump {i % 4 + 1} runs at {40 + i % 3} percent, pressure 2.1 bar.\n" for i in range(lines))


PROMPTS = (
    Prompt("chat", "Explain to a child, in three sentences, why the moon changes its shape.", chat=True),
    Prompt("list", "Name four tools that a gardener needs, and say what each is for.", chat=True),
    Prompt("completion", "The ferry left the harbour before dawn. On deck stood a man with two suitcases, and"),
    Prompt("code", 'def merge(a, b):\n    """Merge two sorted lists into one that is sorted."""\n    result = []\n'),
    Prompt("numbers", "7 x 8 = 56, 7 x 9 = 63, 7 x 10 = 70, 7 x 11 = 77, 7 x 12 ="),
    Prompt("languages", "Sag auf Deutsch in einem Satz, was ein Fluss ist. 然后用中文再说一遍。", chat=True),
    Prompt("log", _log(24), repetitive=True),
)


def tokens_of(model: Model, prompt: Prompt, room: int) -> list[int]:
    """The prompt's token ids, the last `room` of them."""
    if prompt.chat and model.chat_form is not None:
        return model.chat_prompt([{"role": "user", "content": prompt.text}])[-room:]
    return model.tokenizer.encode(prompt.text, special=True)[-room:]
