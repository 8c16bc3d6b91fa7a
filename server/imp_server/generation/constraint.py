"""What a reply is held to, as it goes to the engine: `grammar/masks.py` makes it, and the mask of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Wait:
    """A constraint begins after `tag`; where there is an `opening`, only if the reply begins with that."""

    tag: str
    opening: str | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """Replies that fit `grammar`, as llguidance reads it; with `wait`, from where on what that names has come."""

    grammar: str
    wait: Wait | None = None


Constraint: TypeAlias = tuple[Held, ...]  # a reply fits one of them
