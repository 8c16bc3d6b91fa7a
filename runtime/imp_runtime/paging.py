"""How many blocks of the paged cache sequences need: arithmetic of groups of layers and of what their windows see.

Positions come in places of BLOCK_TOKENS. At each place every group has a block of its own, all of the same size. A
group with a window needs the blocks that rows to come can see, and no others.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from imp_runtime.plan import BLOCK_TOKENS, Plan


def blocks_for(tokens: int) -> int:
    """Places that hold `tokens` positions."""
    return -(-tokens // BLOCK_TOKENS)


@dataclass(frozen=True, slots=True)
class Paging:
    """The groups' windows, 0 where all is seen.

    `rows`: of a sequence that are launched at once, at most, or before it is known what has become of them. `longest`:
    places of the longest sequence.
    """

    windows: tuple[int, ...] = (0,)
    rows: int = 1
    longest: int = 1 << 24

    @staticmethod
    def of(plan: Plan) -> Paging:
        """A plan's."""
        return Paging(tuple(group.window for group in plan.state), plan.rows, blocks_for(plan.context))

    def first(self, group: int, position: int) -> int:
        """The first place that rows from `position` on see."""
        window = self.windows[group]
        return max(position + 1 - window, 0) // BLOCK_TOKENS if window else 0

    def most(self, group: int) -> int:
        """Blocks of a sequence at once: of what the first of its rows sees and of them all, wherever blocks begin."""
        window = self.windows[group]
        return min(blocks_for(window + self.rows - 2) + 1, self.longest) if window else self.longest

    def end(self, group: int, position: int, tokens: int) -> int:
        """The place up to which a sequence of `tokens` positions holds blocks, rows from `position` on to be run."""
        return min(blocks_for(tokens), self.first(group, position) + self.most(group))

    def blocks(self, places: int) -> int:
        """Blocks that so many places take at once, at most; those of one sequence if it can be that long."""
        full, rest = divmod(places, self.longest)
        most = [self.most(group) for group in range(len(self.windows))]
        return sum(full * min(self.longest, each) + min(rest, each) for each in most)

    def places(self, blocks: int, most: int) -> int:
        """Places that `blocks` blocks are enough for, `most` at most: of as few sequences as can be."""
        return bisect.bisect_right(range(most + 1), blocks, key=self.blocks) - 1

    def table(self, tokens: int, blocks: Sequence[int]) -> list[int]:
        """A block table of one sequence that is run from its start up to `tokens` positions: [places, groups] in a row.

        It takes the first `self.blocks(blocks_for(tokens))` of `blocks`; windows go round in theirs.
        """
        places = blocks_for(tokens)
        columns, taken = [], 0
        for group in range(len(self.windows)):
            count = min(places, self.most(group))
            columns.append([blocks[taken + place % count] for place in range(places)])
            taken += count
        return [block for place in zip(*columns, strict=True) for block in place]
