"""For the simulator imp compiles and runs wherever it lies."""

from __future__ import annotations

from pathlib import Path

from odd_paths import OddPlace


def test_everything_below_an_odd_folder(tmp_path: Path) -> None:
    place = OddPlace(tmp_path)
    artifact = place.compile("sim")
    assert (place.folder / ".cache" / "imp").is_dir()
    done = place.imp("run", artifact, "a", "--max-tokens", "3")
    assert done.returncode == 0, done.stderr
    assert "3 generated" in done.stderr
