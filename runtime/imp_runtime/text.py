"""Text from strangers: what a model file calls itself, and any text on its way to a terminal or a log.

Text of a model file reaches emitted source not at all; names of models go everywhere else as `plain_name` leaves them.
"""

from __future__ import annotations

import re
import unicodedata

LONGEST_NAME = 80
_SIGNS = frozenset("-_.,:+()@")
# What a terminal obeys (C0, C1), what ends a line elsewhere, what turns the order of characters round, lone surrogates.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain_name(text: str) -> str:
    """Letters, digits, `-_.,:+()@` and single spaces of `text`, at most 80 characters; all else is as if a space.

    What is left means nothing to a compiler, shell, terminal, page or log. It may be empty.
    """
    kept = (c if c.isalnum() or c in _SIGNS else " " for c in unicodedata.normalize("NFC", text[: 4 * LONGEST_NAME]))
    return " ".join("".join(kept).split())[:LONGEST_NAME].rstrip()


def visible(text: str, keep: str = "") -> str:
    r"""`text` with every character that a terminal obeys, except those in `keep`, as JSON's `\uXXXX`.

    So JSON stays the same JSON.
    """
    return _OBEYED.sub(lambda match: match[0] if match[0] in keep else _escape(match[0]), text)


def _escape(character: str) -> str:
    return f"\\u{ord(character):04x}"
