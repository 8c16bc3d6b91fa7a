"""Blocks that wait for one another, rings between the warps of one: results in every order, and seeded bugs found."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from sim_library import SimLibrary, aligned, compile_sim

from imp_codegen.build import Unit, build
from imp_runtime.device import Launch
from imp_runtime.sim import SimDevice
from isa_cases import RESIDENT_SOURCE, Case, check, pass_case, resident_cases, ring_case

LINES = RESIDENT_SOURCE.read_text("utf-8").splitlines()
ORDERS = [(0, 1), (1, 1), *((2, seed) for seed in range(1, 6))]


def _line(text: str) -> int:
    """Number of the only line with `text`."""
    (number,) = (i for i, line in enumerate(LINES, 1) if text in line)
    return number


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    return SimLibrary(compile_sim(RESIDENT_SOURCE, tmp_path_factory.mktemp("sim")))


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    return SimLibrary(compile_sim(RESIDENT_SOURCE, tmp_path_factory.mktemp("sim"), "check"))


def _launch(library: SimLibrary, case: Case, resident: bool = True) -> str:
    """What went wrong; the results are checked when nothing did."""
    buffers = [aligned(buffer.before) for buffer in case.buffers]
    said = library.launch(case.entry, buffers, case.grid, case.block, case.shared_bytes, resident)
    if not said:
        check(case, buffers)
    return said


def _renamed(entry: str, case: Case) -> Case:
    return Case(entry, case.buffers, case.grid, case.block, case.shared_bytes, True)


def _case(entry: str) -> Case:
    return next(case for case in resident_cases() if case.entry == entry)


@pytest.mark.parametrize(("order", "seed"), ORDERS)
@pytest.mark.parametrize("case", resident_cases(), ids=lambda case: f"{case.entry}-{case.grid[0]}")
def test_results(plain: SimLibrary, checked: SimLibrary, case: Case, order: int, seed: int) -> None:
    for library in (plain, checked):
        library.configure(2, order, seed)
        assert _launch(library, case) == ""


RING = ring_case("ring", 2)
# kernel, what the check build says of it
FAULTS = [
    (_renamed("ring_refilled_when_landed", RING), "data race on shared memory|a bulk_load has not filled yet"),
    (_renamed("ring_refilled_at_once", RING), r"bulk_load while the bulk copy of phase 0.*is in flight"),
    (pass_case("plain_data"), "data race on 'argument 0'.*of another block"),
    (_renamed("hand_over_unsynchronised", _case("hand_over_fixed")), "data race on shared memory.*no block_sync"),
    (
        _renamed("hand_over_half_synchronised", _case("hand_over_fixed")),
        rf"data race on shared memory|deadlock.*32 in named_sync at [^ ]*resident.cu:{_line('named_sync(3, 64)')}",
    ),
    (
        _renamed("exchange_without_arrival", _case("exchange")),
        "deadlock: 128 threads wait for ever, and nothing changes for those that poll; block 0 and 1: "
        rf".*1 in Poll::pause at [^ ]*resident.cu:{_line('while (load_fresh(args.counter) < all)')}"
        rf".*63 in block_sync at [^ ]*resident.cu:\d+",
    ),
    (
        _renamed("barrier_no_init", _case("barrier_none")),
        "the barrier at shared memory, offset 512, was not initialised",
    ),
    (
        _renamed("barrier_no_init_sync", _case("barrier_none")),
        r"data race on shared memory, offset 5|was not initialised",
    ),
    (
        _renamed("barrier_no_arrival", _case("barrier_none")),
        "deadlock: 32 threads wait for ever; block 0: "
        rf"32 in barrier_wait at [^ ]*resident.cu:{_line('barrier_wait(barrier, 0);')}",
    ),
    (_renamed("barrier_arrives_twice", _case("barrier_none")), "barrier_arrive begins phase 1, but nobody has waited"),
    (_renamed("barrier_leaves_early", _case("barrier_none")), "the block ends before its bulk copy has landed"),
    (_renamed("barrier_source_reused", _case("barrier_none")), "data race on 'argument 0'.*by thread"),
    (_renamed("barrier_polls_for_ever", _case("barrier_none")), "barrier_done .* times without Poll::pause"),
]


@pytest.mark.parametrize(("order", "seed"), ORDERS)
@pytest.mark.parametrize(("case", "message"), FAULTS, ids=[case.entry for case, _ in FAULTS])
def test_faults(checked: SimLibrary, case: Case, message: str, order: int, seed: int) -> None:
    checked.configure(1, order, seed)
    said = _launch(checked, case)
    assert re.search(message, said), said
    if shutil.which("addr2line"):
        assert re.search(r"resident\.cu:\d+", said), said
    # The process is as good as new.
    assert _launch(checked, RING) == ""


@pytest.mark.parametrize(("order", "seed"), ORDERS)
def test_relaxed_stores_arrive_late_and_in_any_order(checked: SimLibrary, order: int, seed: int) -> None:
    """No race by the memory model's definition, but the flag may come first: the sum is wrong."""
    checked.configure(1, order, seed)
    with pytest.raises(AssertionError, match="relaxed_data, argument 2"):
        _launch(checked, pass_case("relaxed_data"))


@pytest.mark.parametrize(("order", "seed"), ORDERS[1:])
def test_a_wait_a_whole_turn_too_early_is_found(checked: SimLibrary, order: int, seed: int) -> None:
    """In ascending order everybody happens to come in time."""
    checked.configure(1, order, seed)
    said = _launch(checked, _renamed("ring_of_too_few_slots", RING))
    assert re.search("bulk_wait of parity 1, but phase 0 is not complete|a bulk_load has not filled yet", said), said


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_plain_build_reports_what_cannot_go_on(plain: SimLibrary, order: int) -> None:
    plain.configure(2, order, 3)
    never = _renamed("exchange_without_arrival", _case("exchange"))
    assert "nothing changes for those that poll" in _launch(plain, never)
    assert "is in flight" in _launch(plain, _renamed("ring_refilled_at_once", RING))
    assert _launch(plain, RING) == ""


def test_through_the_runtime() -> None:
    case = _case("exchange")
    (code,) = build((Unit("sim", "g++", RESIDENT_SOURCE.read_text("utf-8")),))
    device = SimDevice()
    kernel = device.load_code(code.code).kernel(case.entry, 0)
    addresses = [device.alloc(buffer.before.nbytes, case.entry) for buffer in case.buffers]
    for address, buffer in zip(addresses, case.buffers, strict=True):
        device.upload(address, buffer.before)
    device.capture([Launch(case.entry, kernel, case.grid, case.block, 0, tuple(addresses), resident=True)]).launch()
    results = [device.download(a, b.before.nbytes) for a, b in zip(addresses, case.buffers, strict=True)]
    check(case, [r.view(b.before.dtype).reshape(b.before.shape) for r, b in zip(results, case.buffers, strict=True)])
    device.close()


def test_a_bad_launch_is_an_error(plain: SimLibrary) -> None:
    words = [aligned(np.zeros(1, np.uint32))] * 4097
    assert "4097 arguments (up to 4096)" in plain.launch("pointers", words, resident=True)
    assert "25 arguments (up to 24)" in plain.launch("pointers", words[:25])
