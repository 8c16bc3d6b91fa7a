"""Which blocks of the paged KV cache are free."""

from __future__ import annotations


class BlockManager:
    """Hands out block ids 1 .. blocks-1; block 0 is reserved, so that a table of zeros names nobody's memory."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._free = list(range(blocks - 1, 0, -1))
        self._used: set[int] = set()

    @property
    def free_blocks(self) -> int:
        """How many blocks can be had."""
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """`count` blocks. ValueError when there are fewer: callers look at `free_blocks` first."""
        if count > len(self._free):
            raise ValueError(f"{count} blocks asked for, {len(self._free)} are free")
        taken = [self._free.pop() for _ in range(count)]
        self._used.update(taken)
        return taken

    def free(self, blocks: list[int]) -> None:
        """Give blocks back and empty the list. ValueError for a block that is not in use."""
        for block in blocks:
            if block not in self._used:
                raise ValueError(f"block {block} is given back but not in use")
            self._used.remove(block)
            self._free.append(block)
        blocks.clear()
