"""A folder in which a compiler runs, and what is said when it fails.

The compiler is told names relative to the folder, through links: nvcc makes shell commands of what it is told, and
quotes little. So it does not matter what characters are in the names of the folders where imp, the compilers and the
cache lie.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from pathlib import Path

from imp_codegen import device_code
from imp_codegen.build import cache
from imp_codegen.build.failure import BuildError, first_error
from imp_codegen.build.processes import Processes
from imp_codegen.build.toolchain import Compiler, environment, find

_FULL = "No space left on device"
_COMMAND = re.compile(r"`|\$[({]")


class Workplace:
    """`folder`, which is made here, holds the links `include` and `bin`, later what the compiler makes, and `log`."""

    def __init__(self, folder: Path, compiler: Compiler, purpose: str) -> None:
        self.folder = folder
        self._tool = find(compiler)
        self._purpose = purpose
        if compiler == "nvcc" and _COMMAND.search(str(folder.resolve())):
            # Of all paths this one it finds out by itself.
            raise BuildError(
                f"the shell that nvcc starts would run commands in the name {folder.parent}; "
                "set IMP_CACHE_DIR to another folder"
            )
        folder.mkdir()
        (folder / "include").symlink_to(device_code.templates().absolute() / "include")
        (folder / "bin").symlink_to(self._tool.path.parent)
        (folder / "log").touch()

    def run(self, processes: Processes, arguments: Sequence[str | Path], output: str) -> None:
        """Make the file `output`. BuildError where the compiler fails."""
        command = (f"bin/{self._tool.path.name}", *arguments, "-o", output)
        try:
            done = processes.run(command, self.folder, environment())
        except OSError as error:
            raise BuildError(f"{self._tool.path} cannot be run ({error.strerror})") from None
        with (self.folder / "log").open("a", encoding="utf-8") as log:
            log.write(done.log)
        if done.status and _FULL in done.log:
            raise OSError(errno.ENOSPC, _FULL)
        if done.status or not (self.folder / output).is_file():
            raise BuildError(
                f"{self._tool.name} {self._tool.version} does not compile {self._purpose}: {first_error(done)}"
                f"; the whole log: {cache.keep_failure(self.folder)}"
            )
