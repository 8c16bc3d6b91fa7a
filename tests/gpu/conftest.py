from __future__ import annotations

import pytest

from imp_runtime.device import detect_target
from ptx.absent_gpu import absent_gpu


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ptx", metavar="TARGET", help="run nvcc's PTX for this target on the CPU, in place of a GPU")


def pytest_configure(config: pytest.Config) -> None:
    if target := config.getoption("--ptx"):
        gpu = absent_gpu(target)
        gpu.__enter__()
        config.add_cleanup(lambda: gpu.__exit__(None, None, None))


@pytest.fixture(scope="session", autouse=True)
def target() -> str:
    """The GPU's target; this tier is for machines that have one, or are told to do without."""
    found = detect_target()
    if found == "sim":
        pytest.exit(
            "no GPU here: `make gpu` needs one, or --ptx TARGET; `make test` runs everything else", returncode=4
        )
    return found
