"""Every instruction of the simulator against numpy, in every order of threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sim_library import Flavour, SimLibrary, aligned, compile_portable, compile_sim

from isa_cases import FP4_SOURCE, SOURCE, WGMMA_SOURCE, Case, cases, check, fp4_cases, wgmma_cases

ORDERS = {"ascending": (1, 0, 1), "descending": (1, 1, 1), "random": (1, 2, 5), "two threads": (2, 2, 6)}


def _run(library: SimLibrary, case: Case) -> None:
    buffers = [aligned(buffer.before) for buffer in case.buffers]
    assert library.launch(case.entry, buffers, case.grid, case.block, case.shared_bytes) == ""
    check(case, buffers)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    return SimLibrary(compile_sim(SOURCE, tmp_path_factory.mktemp("sim")))


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    return SimLibrary(compile_portable(SOURCE, tmp_path_factory.mktemp("sim")))


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    return SimLibrary(compile_sim(SOURCE, tmp_path_factory.mktemp("sim"), "check"))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", cases(), ids=lambda case: case.entry)
def test_plain(plain: SimLibrary, case: Case, order: str) -> None:
    plain.configure(*ORDERS[order])
    _run(plain, case)


def test_launches_from_changing_threads(plain: SimLibrary) -> None:
    """Stacks outlive a launch; the thread that calls need not be the one that called before."""
    plain.configure(2, 0, 1)
    for case in cases():
        with ThreadPoolExecutor(max_workers=1) as pool:
            pool.submit(_run, plain, case).result()
        _run(plain, case)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.entry)
def test_without_half_instructions(portable: SimLibrary, case: Case) -> None:
    _run(portable, case)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", cases(), ids=lambda case: case.entry)
def test_check_finds_nothing(checked: SimLibrary, case: Case, order: str) -> None:
    checked.configure(*ORDERS[order])
    _run(checked, case)


@pytest.mark.parametrize("flavour", ["plain", "check"])
@pytest.mark.parametrize(
    ("source", "found"), [(WGMMA_SOURCE, wgmma_cases()), (FP4_SOURCE, fp4_cases())], ids=["warpgroups", "fp4"]
)
def test_products_of_some_targets(tmp_path: Path, source: Path, found: list[Case], flavour: Flavour) -> None:
    library = SimLibrary(compile_sim(source, tmp_path, flavour))
    for order in ORDERS.values():
        library.configure(*order)
        for case in found:
            _run(library, case)
