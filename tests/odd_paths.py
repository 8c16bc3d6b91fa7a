"""A checkout, a home, a cache and a temporary folder whose names have every character that a shell stumbles over."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = "a b 'c' \"d\" $e #f ü,&;<g>(h)[i]{j}*?!%~\\k"


class OddPlace:
    """Runs imp's command line from a copy of the checkout, everything below one oddly named folder."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder / NAME
        self.checkout = self.folder / "checkout"
        for name in ("imp_codegen", "runtime", "server", "templates"):
            shutil.copytree(ROOT / name, self.checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        (self.folder / "tmp").mkdir()
        places = {"HOME": self.folder, "TMPDIR": self.folder / "tmp"}
        path = ":".join(str(self.checkout / each) for each in ("", "runtime", "server"))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("IMP_", "XDG_"))}
        self.environment = {**kept, **{n: str(p) for n, p in places.items()}, "PYTHONPATH": path, **environment}

    def imp(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run one command; it must be the copy that answers."""
        program = (
            "import sys, imp_codegen, imp_runtime, imp_server.__main__ as process\n"
            "here = sys.argv.pop(1)\n"
            "for each in (imp_codegen, imp_runtime, process):\n"
            "    assert each.__file__.startswith(here), each.__file__\n"
            "process.main()"
        )
        command = [sys.executable, "-c", program, self.checkout, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=300, check=False, env=self.environment, cwd=self.folder
        )

    def compile(self, target: str) -> Path:
        """The tiny llama for `target`, by the command line."""
        source = self.folder / "model.gguf"
        shutil.copy(ROOT / "tests" / "fixtures" / "llama" / "llama-Q8_0.gguf", source)
        artifact = self.folder / f"{target}.impc"
        done = self.imp("compile", source, "-o", artifact, "--target", target)
        assert done.returncode == 0, done.stderr
        assert list((self.folder / "tmp").iterdir()) == []
        return artifact
