from __future__ import annotations

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


@given(st.integers(1, 40), st.lists(st.tuples(st.booleans(), st.integers(0, 10)), max_size=60))
def test_any_history_keeps_blocks_apart(blocks: int, history: list[tuple[bool, int]]) -> None:
    manager = BlockManager(blocks)
    held: list[list[int]] = []
    for take, n in history:
        if take and n <= manager.free_blocks:
            held.append(manager.allocate(n))
        elif held:
            manager.free(held.pop(n % len(held)))
        every = [block for part in held for block in part]
        assert len(set(every)) == len(every)
        assert set(every) <= set(range(1, blocks))
        assert manager.free_blocks + len(every) == blocks - 1
