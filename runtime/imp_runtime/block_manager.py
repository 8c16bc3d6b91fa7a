"""Blocks of the paged KV cache: who holds them, and which are kept for the prompts to come.

A full block whose content is computed gets a name, of its group of layers, its tokens and all before them. Blocks that
nobody holds keep name and content until their memory is needed: a prompt that begins with the same tokens takes them as
they are.
"""

from __future__ import annotations

from collections import OrderedDict


class BlockManager:
    """Hands out block ids 1 .. blocks-1; block 0 is reserved, so that a table of zeros names nobody's memory.

    Every block is free (without content of use), idle (named, held by nobody) or held, by several at once if named.
    A named block is never written again: its holders write behind it, and it loses its name before it is handed out.
    """

    def __init__(self, blocks: int, *, prefix_cache: bool = True) -> None:
        self.blocks = blocks
        self._prefix_cache = prefix_cache
        self._free = list(range(blocks - 1, 0, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # the longest idle first
        self._holders: dict[int, int] = {}
        self._names: dict[int, bytes] = {}
        self._named: dict[bytes, int] = {}

    @property
    def free_blocks(self) -> int:
        """How many blocks can be had, idle ones included."""
        return len(self._free) + len(self._idle)

    def allocate(self, count: int) -> list[int]:
        """`count` blocks, the longest idle if need be. ValueError when there are fewer: see `free_blocks` first."""
        if count > self.free_blocks:
            raise ValueError(f"{count} blocks asked for, {self.free_blocks} are free")
        taken = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        self._holders.update(dict.fromkeys(taken, 1))
        return taken

    def free(self, blocks: list[int]) -> None:
        """Give blocks back, the last first, and empty the list. ValueError for a block that is not in use."""
        while blocks:
            block = blocks.pop()
            if block not in self._holders:
                raise ValueError(f"block {block} is given back but not in use")
            self._holders[block] -= 1
            if not self._holders[block]:
                del self._holders[block]
                self._retire(block)

    def name(self, block: int, name: bytes) -> None:
        """A held block is full and computed, `name` says of what. Does nothing to one that has a name."""
        if self._prefix_cache and block not in self._names:
            self._names[block] = name
            self._named.setdefault(name, block)

    def find(self, name: bytes) -> int | None:
        """The block of that name, if there is one."""
        return self._named.get(name)

    def idle(self, blocks: list[int]) -> int:
        """How many of `blocks` nobody holds: to share them takes as many from `free_blocks`."""
        return sum(block in self._idle for block in blocks)

    def share(self, blocks: list[int]) -> None:
        """Hold blocks that `find` has found."""
        for block in blocks:
            self._idle.pop(block, None)
            self._holders[block] = self._holders.get(block, 0) + 1

    def _evict(self) -> int:
        block, _ = self._idle.popitem(last=False)
        del self._named[self._names.pop(block)]
        return block

    def _retire(self, block: int) -> None:
        """Nobody holds `block` any more: keep it if it is the one of its name."""
        name = self._names.get(block)
        if name is None:
            self._free.append(block)
            return
        first = self._named.setdefault(name, block)
        if first == block:
            self._idle[block] = None
            return
        # Two have computed the same; the one that is kept has just been of use.
        del self._names[block]
        self._free.append(block)
        if first in self._idle:
            self._idle.move_to_end(first)
