"""What an artifact stores of a tokenizer, and by which names the ends of replies are known."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from tokenizers import Tokenizer

# What ends a reply, by the names that models share. The first are control tokens even where a file types them as text,
# the others stand in some vocabularies as what they look like: a tag of HTML.
ENDS = frozenset((
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>",
    "<end_of_utterance>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<turn|>", "<|tool_response>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
))  # fmt: skip
_ENDS_IF_CONTROL = frozenset(("</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "[e~["))
# Of Harmony: a reply ends in the one or the other, and who named the first alone would let the model answer its calls.
_RETURN, _CALL = "<|return|>", "<|call|>"
# Formats whose <|end|> ends a message and not the reply, by another of their tokens: gpt-oss and Solar Open.
_END_GOES_ON = frozenset(("<|return|>", "<|flush|>"))


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What the artifact stores of the tokenizer. `stop_tokens` end a reply.

    `tool_template` is the chat template for conversations with tools, where the file has one of its own.
    `add_bos` and `add_eos`: what stands around a text. `notes`: what the file leaves open, a line each for people.
    `recommended`: how the model's makers sample, under the names of generation_config.json.
    """

    tokenizer_json: str
    chat_template: str | None
    tool_template: str | None
    vocab_size: int
    bos: int | None
    eos: int | None
    add_bos: bool
    add_eos: bool
    stop_tokens: tuple[int, ...]
    notes: tuple[str, ...]
    recommended: Mapping[str, float | bool]

    def first_tokens(self, text: str, most: int) -> list[int]:
        """The first token ids of a text, behind what the model wants in front of one."""
        ids: list[int] = Tokenizer.from_str(self.tokenizer_json).encode(text, add_special_tokens=False).ids
        begin = [] if self.bos is None or not self.add_bos else [self.bos]
        return [*begin, *ids][:most]


def with_calls(ends: Set[int], special: Mapping[str, int]) -> tuple[int, ...]:
    """The tokens that end a reply, by a list that may lack the end of calls."""
    both = _CALL in special and special.get(_RETURN) in ends
    return tuple(sorted(ends | {special[_CALL]} if both else ends))


def ends_of_reply(special: Mapping[str, int], named: Set[int]) -> tuple[int, ...]:
    """The tokens that end a reply: those that the file names, and of the special ones those that are known by name."""
    ends = named | {special[text] for text in (ENDS | _ENDS_IF_CONTROL) & special.keys()}
    if _END_GOES_ON & special.keys():
        ends -= {special.get("<|end|>", -1)}
    return tuple(sorted(ends))
