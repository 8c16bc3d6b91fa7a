"""The process `imp` from its first moment to its last: signals, closed streams, readers that leave."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fake_engine import write_tiny_artifact
from imp_runtime.version import VERSION

ROOT = Path(__file__).parents[2]
IMP = [sys.executable, "-m", "imp_server"]
# Sends itself a signal when a module is about to be loaded.
AT_IMPORT = """
import os, signal, sys
module = sys.argv.pop(1)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from imp_server.__main__ import main
main()
"""
# Sends itself a signal while an artifact is written, when all of it is on the disk but not under its name.
AT_FSYNC = """
import os, signal, sys
number = signal.Signals[sys.argv[1]]
def fsync(_):
    assert [name for name in os.listdir(sys.argv[2]) if name.endswith(".tmp")]
    os.kill(os.getpid(), number)
    os.kill(os.getpid(), number)  # a second one does not interrupt the tidying up
os.fsync = fsync
from pathlib import Path
import imp_server.cli
from fake_engine import write_tiny_artifact
def execute(_):
    write_tiny_artifact(Path(sys.argv[2]) / "x.impc")
    return 0
imp_server.cli.execute = execute
from imp_server.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("process") / "tiny.impc"
    write_tiny_artifact(path)
    return path


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=False, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("module", ["imp_server.cli", "typer", "imp_codegen.targets", "rich.table"])
def test_an_early_ctrl_c_ends_it_without_a_word(file: Path, module: str) -> None:
    done = run(sys.executable, "-c", AT_IMPORT, module, "inspect", file)
    assert (done.returncode in (-signal.SIGINT, 130), done.stdout, done.stderr) == (True, "", "")


def test_an_ignored_ctrl_c_stays_ignored(file: Path) -> None:
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", AT_IMPORT, "rich.table"]
    done = run(*command, "inspect", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert "tiny" in done.stdout


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_an_end_in_the_middle_leaves_no_file(tmp_path: Path, name: str) -> None:
    program = f"import sys; sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(__file__).parent)]}\n{AT_FSYNC}"
    done = run(sys.executable, "-c", program, name, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.Signals[name], "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_compile_that_is_ended_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Neither compilers nor files; the compiler here never ends by itself."""
    for name in ("bin", "cache", "out"):
        (tmp_path / name).mkdir()
    compiler, pids = tmp_path / "bin" / "g++", tmp_path / "pids"
    version = f'[ "$1" = --version ] && exec "{shutil.which("g++")}" --version'
    compiler.write_text(f'#!/bin/sh\n{version}\necho $$ >> "{pids}"\nsleep 60\n', "utf-8")
    compiler.chmod(0o755)
    source = ROOT / "tests" / "fixtures" / "llama" / "llama-Q8_0.gguf"
    process = subprocess.Popen(
        [*IMP, "compile", source, "-o", tmp_path / "out" / "x.impc", "--target", "sim"],
        env=os.environ | {"PATH": f"{compiler.parent}:{os.environ['PATH']}", "IMP_CACHE_DIR": str(tmp_path / "cache")},
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while not pids.exists() and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    for pid in pids.read_text("utf-8").split():
        with contextlib.suppress(FileNotFoundError):
            assert Path(f"/proc/{pid}/cmdline").read_bytes() == b""  # ended, though nobody has asked for its status
    assert [*(tmp_path / "cache").rglob("*"), *(tmp_path / "out").rglob("*")] == []


@pytest.mark.parametrize(
    "arguments",
    [["inspect", "FILE"], ["inspect", "FILE", "--json"], ["--help"], ["inspect", "--help"], ["config", "show"]],
)
def test_a_reader_that_leaves(file: Path, arguments: list[str]) -> None:
    given = [str(file) if each == "FILE" else each for each in arguments]
    process = subprocess.Popen([*IMP, *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=60)
    assert errors == b""
    assert process.returncode == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(file: Path, closed: str) -> None:
    for arguments, status in ((("inspect", file), 0), (("--version",), 0), (("inspect", "none"), 2)):
        done = run("sh", "-c", f'exec "$@" {closed}', "sh", *IMP, *arguments)
        assert done.returncode == status, done.stderr
        assert "internal error" not in done.stderr


def test_a_full_disk_behind_stdout(file: Path) -> None:
    done = run("sh", "-c", 'exec "$@" > /dev/full', "sh", *IMP, "inspect", file)
    assert (done.returncode, done.stderr) == (2, "imp: error: No space left on device\n")


def test_the_version_is_that_of_the_package() -> None:
    assert importlib.metadata.version("imp") == VERSION


def test_a_checkout_that_is_not_installed_can_be_used() -> None:
    program = """
import contextlib
import importlib.metadata
version = importlib.metadata.version
def none(name):
    if name == "imp":
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = none
import imp_codegen.compiler, imp_server.api.app, imp_server.cli
import imp_server.frontend
"""
    assert run(sys.executable, "-c", program).stderr == ""
