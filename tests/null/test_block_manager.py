from __future__ import annotations

from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imp_runtime.block_manager import BlockManager


def test_block_zero_is_never_handed_out() -> None:
    manager = BlockManager(5)
    assert sorted(manager.allocate(4)) == [1, 2, 3, 4]
    assert manager.free_blocks == 0


def test_asking_for_too_much_changes_nothing() -> None:
    manager = BlockManager(5)
    with pytest.raises(ValueError, match="5 blocks asked for, 4 are free"):
        manager.allocate(5)
    assert manager.free_blocks == 4


def test_blocks_cannot_be_given_back_twice() -> None:
    manager = BlockManager(5)
    taken = manager.allocate(2)
    again = list(taken)
    manager.free(taken)
    assert taken == []
    with pytest.raises(ValueError, match="not in use"):
        manager.free(again)
    with pytest.raises(ValueError, match="block 0"):
        manager.free([0])


def filled(manager: BlockManager, path: str) -> list[int]:
    """Blocks as a sequence holds them: those of `path`, one a letter, found or allocated and named."""
    names = names_of(path)
    blocks = find(manager, names)
    manager.share(blocks)
    blocks += manager.allocate(len(path) - len(blocks))
    for block, name in zip(blocks, names, strict=True):
        manager.name(block, name)
    return blocks


def find(manager: BlockManager, names: list[bytes]) -> list[int]:
    """The blocks of the first names, up to the first that no block has."""
    found = takewhile(lambda block: block is not None, map(manager.find, names))
    return [block for block in found if block]


def names_of(path: str) -> list[bytes]:
    return [path[: i + 1].encode() for i in range(len(path))]


def test_holders_share_a_block_until_the_last_has_gone() -> None:
    manager = BlockManager(5)
    first = filled(manager, "ab")
    second = filled(manager, "abc")
    assert second[:2] == first
    assert manager.free_blocks == 1
    manager.free(first)
    assert manager.free_blocks == 1
    with pytest.raises(ValueError, match="2 blocks asked for, 1 are free"):
        manager.allocate(2)
    manager.free(second)
    assert manager.free_blocks == 4
    assert len(find(manager, names_of("abcd"))) == 3


def test_the_longest_idle_goes_first_and_leaves_before_what_they_follow() -> None:
    manager = BlockManager(8)
    old, new = filled(manager, "abc"), filled(manager, "xyz")
    manager.free(old)
    manager.free(new)
    manager.free(filled(manager, "a"))  # of use once more
    order = ["abc", "ab", "xyz", "xy", "x", "a"]
    assert manager.allocate(1) == [7], "what holds nothing of use comes first"
    for i, gone in enumerate(order):
        manager.allocate(1)
        for path in order:
            there = len(find(manager, names_of(path))) == len(path)
            assert there == (path not in order[: i + 1]), (gone, path)


def test_of_two_that_computed_the_same_one_is_kept() -> None:
    manager = BlockManager(7)
    first, second = manager.allocate(2), manager.allocate(2)
    for blocks in (first, second):
        for block, name in zip(blocks, names_of("ab"), strict=True):
            manager.name(block, name)
    kept = list(first)
    manager.free(first)
    manager.free(filled(manager, "xy"))
    manager.free(second)
    assert find(manager, names_of("ab")) == kept
    again = filled(manager, "de")
    assert set(again).isdisjoint(kept)
    assert find(manager, names_of("de")) == again, "the other two serve something else"
    manager.allocate(2)
    assert find(manager, names_of("xy")) == []
    assert find(manager, names_of("ab")) == kept, "just now somebody had the same"


def test_without_a_prefix_cache_nothing_is_kept() -> None:
    manager = BlockManager(5, prefix_cache=False)
    blocks = filled(manager, "ab")
    assert find(manager, names_of("ab")) == []
    manager.free(blocks)
    assert find(manager, names_of("ab")) == []
    assert manager.free_blocks == 4


class Naive:
    """What the manager must do, by looking at every block each time."""

    def __init__(self, blocks: int) -> None:
        self.clock = 0
        self.holders = dict.fromkeys(range(1, blocks), 0)
        self.names: dict[int, bytes] = {}
        self.known: dict[bytes, int] = {}  # the block that is found by a name: of several the first
        self.since = dict.fromkeys(range(1, blocks), 0)  # when the last holder went

    def free(self) -> int:
        return sum(count == 0 for count in self.holders.values())

    def find(self, names: list[bytes]) -> list[int]:
        missing = [i for i, name in enumerate(names) if name not in self.known]
        return [self.known[name] for name in names[: min(missing, default=len(names))]]

    def name(self, block: int, name: bytes) -> None:
        if block not in self.names:
            self.names[block] = name
            self.known.setdefault(name, block)

    def take(self, block: int) -> None:
        """Check that `block` is the one to hand out, and hand it out."""
        available = [each for each, count in self.holders.items() if count == 0]
        assert block in available
        if all(each in self.names for each in available):
            assert block == min(available, key=lambda each: self.since[each])
            del self.known[self.names.pop(block)]
        else:
            assert block not in self.names
        self.holders[block] = 1

    def give(self, blocks: list[int]) -> None:
        for block in reversed(blocks):
            self.holders[block] -= 1
            if self.holders[block] or block not in self.names:
                continue
            self.clock += 1
            first = self.known.setdefault(self.names[block], block)
            self.since[first] = self.clock
            if first != block:
                del self.names[block]


@given(
    st.integers(2, 12), st.lists(st.tuples(st.booleans(), st.text("ab", max_size=5), st.integers(0, 5)), max_size=80)
)
def test_any_history_is_what_a_naive_model_says(blocks: int, history: list[tuple[bool, str, int]]) -> None:
    """Sequences over prompts of one letter a block; some end before all of theirs is computed."""
    manager, naive = BlockManager(blocks), Naive(blocks)
    held: list[list[int]] = []
    for begin, path, n in history:
        if begin:
            names = names_of(path)
            found = find(manager, names)
            assert found == naive.find(names)
            assert manager.idle(found) == sum(naive.holders[block] == 0 for block in found)
            if len(path) - len(found) > manager.free_blocks - manager.idle(found):
                continue
            # As where two compute the same at the same time: only some of what was found is used.
            found = found[: max(0, len(found) - n % 3)]
            manager.share(found)
            for block in found:
                naive.holders[block] += 1
            if len(path) - len(found) > manager.free_blocks:
                mine = found
            else:
                taken = manager.allocate(len(path) - len(found))
                for block in taken:
                    naive.take(block)
                mine = found + taken
            for block, name in list(zip(mine, names, strict=False))[: max(len(path) - n // 3, len(found))]:
                manager.name(block, name)
                naive.name(block, name)
            held.append(mine)
        elif held:
            mine = held.pop(n % len(held))
            naive.give(mine)
            manager.free(mine)
        assert manager.free_blocks == naive.free()
        assert 0 not in {block for each in held for block in each}
        # Whatever is kept can be reached: what it follows is there too.
        for block, name in naive.names.items():
            if naive.holders[block] == 0:
                assert len(find(manager, names_of(name.decode()))) == len(name)
