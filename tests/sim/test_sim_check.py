"""The check build finds seeded bugs, says where they are, and is content with their correct twins."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from sim_library import KERNELS, Array, SimLibrary, aligned, compile_sim

SOURCE = KERNELS / "bugs.cu"
LINES = SOURCE.read_text("utf-8").splitlines()


def _line(text: str, after: str = "") -> int:
    """Number of the first line with `text`, after the first with `after`."""
    begin = next(i for i, line in enumerate(LINES) if after in line)
    return next(i for i, line in enumerate(LINES[begin:], begin + 1) if text in line)


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    return SimLibrary(compile_sim(SOURCE, tmp_path_factory.mktemp("sim"), "check"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    return SimLibrary(compile_sim(SOURCE, tmp_path_factory.mktemp("sim")))


def _memory() -> Array:
    return aligned(np.zeros(64, np.float32))


# kernel, what the message says, the line it names, block, grid
RACES = [
    ("missing_block_sync", "data race on shared memory.*no block_sync", _line("y[", "block_race"), 64, 1),
    ("write_after_read", "data race on shared memory.*write by thread 0", _line("= 2.0f", "late_write"), 64, 1),
    ("missing_warp_sync", "data race on shared memory.*no block_sync or warp_sync", _line("y[", "warp_race"), 64, 1),
    ("write_after_warp_sync", "data race on shared memory.*write by thread", _line("= 2.0f", "warp_late_write"), 64, 1),
    ("warp_sync_between_warps", "data race on shared memory", _line("y[", "across_warps"), 64, 1),
    (
        "async_wait_after_barrier",
        "data race on shared memory|has not filled yet",
        _line("float v =", "void copy"),
        64,
        1,
    ),
    (
        "blocks_without_counter",
        "data race on 'argument 0'.*of another block",
        _line("float sum", "void meet") + 1,
        32,
        4,
    ),
    ("blocks_without_fence", "data race on 'argument 0'.*of another block", _line("float sum", "void meet") + 1, 32, 4),
    (
        "blocks_with_stale_reads",
        "data race on 'argument 0'.*of another block",
        _line("float sum", "void meet") + 1,
        32,
        4,
    ),
]
FAULTS = [
    ("global_out_of_bounds", "out of bounds: write of 4 bytes at byte 256 of 'argument 0', which has 256", "thread 63"),
    ("shared_out_of_bounds", "out of bounds: shared write of 4 bytes at offset 256, the launch has 256", "thread 63"),
    ("misaligned_vector", "misaligned access.*float4.* needs a multiple of 16", "thread"),
    ("misaligned_stream", "misaligned address in load_stream", "thread"),
    ("divergent_barrier", "divergent block_sync", "thread"),
    ("deadlock", "deadlock.*has ended.*group_sum|deadlock.*has ended.*warp_sum", "thread"),
    ("early_exit", r"deadlock: 63 threads wait.*\(thread 7 has ended\).*block_sync", "thread"),
    ("missing_async_wait", "cp_async16 has not filled yet: cp_async_wait", "thread"),
    ("missing_async_commit", "cp_async16 has not filled yet: cp_async_wait", "thread"),
]
TWINS = [
    *(
        "missing_block_sync_fixed",
        "write_after_read_fixed",
        "missing_warp_sync_fixed",
        "write_after_warp_sync_fixed",
        "warp_sync_between_warps_fixed",
    ),
    *("global_out_of_bounds_fixed", "shared_out_of_bounds_fixed", "misaligned_vector_fixed", "misaligned_stream_fixed"),
    *("divergent_barrier_fixed", "deadlock_fixed", "early_exit_fixed", "missing_async_wait_fixed", "blocks_fixed"),
]
SETTINGS = [(0, 1), (1, 1), (2, 1), (2, 2)]


@pytest.mark.parametrize(("order", "seed"), SETTINGS)
@pytest.mark.parametrize(("entry", "message", "line", "block", "blocks"), RACES, ids=[race[0] for race in RACES])
def test_races(
    checked: SimLibrary, entry: str, message: str, line: int, block: int, blocks: int, order: int, seed: int
) -> None:
    checked.configure(1, order, seed)
    said = checked.launch(entry, [_memory()], (blocks, 1, 1), block, 256)
    assert re.search(message, said), said
    assert f"kernel {entry}:" in said
    if shutil.which("addr2line"):
        assert f"bugs.cu:{line}" in said
    # The process is as good as new.
    assert checked.launch("missing_block_sync_fixed", [_memory()], (1, 1, 1), 64, 256) == ""


@pytest.mark.parametrize(("order", "seed"), SETTINGS)
@pytest.mark.parametrize(("entry", "message", "thread"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_faults(checked: SimLibrary, entry: str, message: str, thread: str, order: int, seed: int) -> None:
    checked.configure(1, order, seed)
    said = checked.launch(entry, [_memory()], (1, 1, 1), 64, 256)
    assert re.search(message, said), said
    assert f"block 0, {thread}" in said
    if shutil.which("addr2line"):
        assert re.search(r"bugs\.cu:\d+", said), said
    assert checked.launch("missing_block_sync_fixed", [_memory()], (1, 1, 1), 64, 256) == ""


@pytest.mark.parametrize(("order", "seed"), SETTINGS)
@pytest.mark.parametrize("entry", TWINS)
def test_correct_twins(checked: SimLibrary, entry: str, order: int, seed: int) -> None:
    checked.configure(1, order, seed)
    block = 32 if entry.startswith(("blocks", "misaligned")) else 64
    blocks = 4 if entry.startswith("blocks") else 1
    assert checked.launch(entry, [_memory()], (blocks, 1, 1), block, 256) == ""


@pytest.mark.parametrize("threads", [1, 2])
def test_the_plain_build_survives_what_it_cannot_run(plain: SimLibrary, threads: int) -> None:
    plain.configure(threads, 2, 3)
    for entry, message in (("divergent_barrier", "divergent"), ("deadlock", "deadlock"), ("early_exit", "deadlock")):
        assert message in plain.launch(entry, [_memory()], (4, 1, 1), 64, 256)
        memory = _memory()
        assert plain.launch("missing_block_sync_fixed", [memory], (4, 1, 1), 64, 256) == ""
        np.testing.assert_array_equal(memory, np.arange(63, -1, -1, dtype=np.float32))


def test_shared_memory_begins_as_nan(checked: SimLibrary) -> None:
    memory = _memory()
    assert checked.launch("uninitialised_shared", [memory], (1, 1, 1), 64, 256) == ""
    assert np.isnan(memory).all()


def test_a_bad_launch_is_an_error(plain: SimLibrary) -> None:
    assert "whole warps" in plain.launch("missing_block_sync_fixed", [_memory()], (1, 1, 1), 40, 256)
    assert "bad launch" in plain.launch("missing_block_sync_fixed", [_memory()], (1, 0, 1), 64, 256)
    assert "bad launch" in plain.launch("missing_block_sync_fixed", [_memory()], (1, 1, 1), 64, 1 << 20)
