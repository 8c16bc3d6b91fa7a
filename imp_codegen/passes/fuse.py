"""fuse: cut the graph into groups of operations, each of which one kernel runs (or, in prefill, a few).

The operations are written as a string, one letter each, and the groups are found by regular expressions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from imp_codegen.graph import (
    Add,
    Attention,
    Embed,
    Gated,
    Graph,
    GraphError,
    HeadNorm,
    Linear,
    Op,
    RmsNorm,
    Rope,
    Sample,
)

_LETTER: dict[type[Op], str] = {
    Embed: "E",
    RmsNorm: "N",
    Linear: "L",
    HeadNorm: "H",
    Rope: "R",
    Attention: "A",
    Gated: "G",
    Add: "+",
    Sample: "S",
}

# Tried in this order at every position.
_PATTERNS = {
    "embed": "E",
    "gate_up": "NLLG",
    "head": "NLS",
    "norm_linear": "NL+",
    "attention": "H*RRA",
    "linear_add": r"L\+",
}


@dataclass(frozen=True, slots=True)
class Group:
    """Consecutive operations that one kernel family takes. `name` is the last result's."""

    family: str
    ops: tuple[Op, ...]

    @property
    def name(self) -> str:
        """Unique in a program."""
        return self.ops[-1].out.name


def fuse(graph: Graph) -> tuple[Group, ...]:
    """The groups, in order; GraphError at an operation that no kernel family takes."""
    letters = "".join(_LETTER[type(op)] for op in graph.ops)
    groups: list[Group] = []
    at = 0
    while at < len(letters):
        for family, pattern in _PATTERNS.items():
            match = re.compile(pattern).match(letters, at)
            if match:
                groups.append(Group(family, graph.ops[at : match.end()]))
                at = match.end()
                break
        else:
            raise GraphError(f"no kernel family takes {graph.ops[at].out.name} ({letters[at : at + 8]}...)")
    return tuple(groups)
