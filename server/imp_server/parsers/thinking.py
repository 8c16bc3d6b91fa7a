"""Where a model's reasoning begins and ends in the text."""

# ruff: noqa: RUF001  DeepSeek's tokens are written with these bars

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thinking:
    """The tags around reasoning."""

    opening: str
    closing: str


THINK = Thinking("<think>", "</think>")
# From Qwen's documentation of thinking budgets.
QWEN_BRIDGE = (
    "Considering the limited time by the user, I have to give the solution based on the thinking directly now."
)
_OTHERS = (
    Thinking("[THINK]", "[/THINK]"),
    Thinking("<|channel>thought\n", "<channel|>"),
    Thinking("<seed:think>", "</seed:think>"),
    Thinking("<|START_THINKING|>", "<|END_THINKING|>"),
    Thinking("<thinking>", "</thinking>"),
)

# A turn of the conversation begins or ends here, in the families that have parsers; what a user wrote stands before.
_TURN = re.compile(
    r"<\|im_start\|>|<\|im_end\|>|<\|start_header_id\|>|<\|eot_id\|>|<\|header_start\|>|<\|eot\|>|<\|?start_of_turn>"
    r"|<\|turn>|<turn\|>|<end_of_turn>|\[/?INST\]|<\|user\|>|<\|assistant\|>|<\|end\|>|<｜User｜>|<｜Assistant｜>"
    r"|<SPECIAL_1[0-2]>|<\|eom_id\|>|<extra_id_[01]>|</s>|<seed:[be]os>|<\|im_(?:user|middle|assistant)\|>"
    r"|<\|(?:start|end)_of_role\|>|<\|begin_(?:user|assistant)\|>|<(?:user|assistant)>|<role>|<\|Bot\|>|\]~b\]|\[e~\["
    r"|<(?:begin|end)_of_sentence>|<\|(?:role|message)_sep\|>|<sep>|<tool_response\|>"
)


def tags_of(template: str) -> Thinking:
    """The tags that a chat template names; `<think>` when it names none."""
    return next((tags for tags in _OTHERS if tags.closing in template), THINK)


def last_turn(prompt_tail: str) -> str:
    """What the prompt has put into the reply already."""
    *_, start = (0, *(hit.end() for hit in _TURN.finditer(prompt_tail)))
    return prompt_tail[start:]


def left_open(prompt_tail: str, tags: Thinking) -> bool:
    """Whether the prompt ends inside reasoning."""
    turn = last_turn(prompt_tail)
    return turn.rfind(tags.opening.rstrip()) > turn.rfind(tags.closing)


def was_closed(prompt_tail: str, tags: Thinking) -> bool:
    """Whether the prompt has opened and closed the reasoning: there will be none."""
    turn = last_turn(prompt_tail)
    return turn.rfind(tags.closing) >= 0 and not left_open(prompt_tail, tags)
