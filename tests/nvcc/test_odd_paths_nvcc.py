"""nvcc compiles wherever imp, the cache and itself lie, though it makes shell commands of the names it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from imp_codegen.build import BuildError, Unit, build
from imp_codegen.build.toolchain import find
from odd_paths import OddPlace


def test_everything_below_an_odd_folder(tmp_path: Path) -> None:
    place = OddPlace(tmp_path)
    toolkit = place.folder / "cuda"
    toolkit.symlink_to(find("nvcc").path.parents[1])
    place.environment |= {"IMP_NVCC": str(toolkit / "bin" / "nvcc"), "IMP_CACHE_DIR": str(place.folder / "cache")}
    artifact = place.compile("sm_90a")
    assert "sm_90a" in place.imp("inspect", artifact).stdout


@pytest.mark.parametrize("name", ["`touch found`", "$(touch found)", "${"])
def test_a_name_that_the_shell_would_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("IMP_CACHE_DIR", str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BuildError, match="set IMP_CACHE_DIR to another folder"):
        build((Unit("sm_90a", "nvcc", '#include "imp/ptx/isa.h"\n'),))
    assert list(tmp_path.rglob("found")) == []
