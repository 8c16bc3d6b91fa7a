"""What is emitted for the demo model is what is committed, in any process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "golden.py"
PROGRAM = (
    "import runpy, sys\n"
    "for path, source in runpy.run_path(sys.argv[1])['emitted']().items():\n"
    "    assert path.read_text('utf-8') == source, f'{path.name} differs from what is emitted; run `make golden`'"
)


@pytest.mark.parametrize("seed", ["0", "1"])
def test_emitted_source_is_the_committed_one(seed):
    """In processes that hash texts differently. `make golden` writes it; look at the difference before committing."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, TOOL],
        env=os.environ | {"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
