import pytest

from imp_runtime.device import detect_target


@pytest.fixture(scope="session", autouse=True)
def target() -> str:
    """The GPU's target; this tier is for machines that have one."""
    found = detect_target()
    if found == "sim":
        pytest.exit("no GPU here: `make gpu` needs one; `make test` runs everything else", returncode=4)
    return found
