from __future__ import annotations

import pytest

from absent_gpu import absent_gpu
from imp_runtime.device import detect_target
from ptx.code import by_ptx
from sass.code import by_sass

TRANSLATED = {"ptx": by_ptx, "sass": by_sass}


def pytest_addoption(parser: pytest.Parser) -> None:
    for option in TRANSLATED:
        parser.addoption(f"--{option}", metavar="TARGET", help="run what nvcc makes for this target on the CPU")


def pytest_configure(config: pytest.Config) -> None:
    if all(config.getoption(f"--{option}") for option in TRANSLATED):
        raise pytest.UsageError("--ptx and --sass are two ways to do without a GPU; give one")
    for option, translated in TRANSLATED.items():
        if target := config.getoption(f"--{option}"):
            gpu = absent_gpu(target, translated)
            gpu.__enter__()
            config.add_cleanup(lambda gpu=gpu: gpu.__exit__(None, None, None))


@pytest.fixture(scope="session", autouse=True)
def target() -> str:
    """The GPU's target; this tier is for machines that have one, or are told to do without."""
    found = detect_target()
    if found == "sim":
        pytest.exit(
            "no GPU here: `make gpu` needs one, or --ptx or --sass TARGET; `make test` runs everything else",
            returncode=4,
        )
    return found
