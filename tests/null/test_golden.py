import runpy
from pathlib import Path

GOLDEN = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "golden.py"))


def test_emitted_source_is_the_committed_one():
    """`make golden` writes it; look at the difference before committing it."""
    for path, source in GOLDEN["emitted"]().items():
        assert path.read_text("utf-8") == source, f"{path.name} differs from what is emitted; run `make golden`"


def test_emission_is_deterministic():
    assert GOLDEN["emitted"]() == GOLDEN["emitted"]()
