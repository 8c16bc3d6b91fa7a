"""How compilers are found, run, ended and blamed, and what their cache keeps: with shell scripts as compilers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imp_codegen.build import BuildError, Unit, build, cache, engine_sources
from imp_codegen.build.processes import Processes, together

GXX = """#!/bin/sh
case "$1" in --version) echo "g++ (Test) 12.2.0"; exit;; esac
for each; do last="$output"; output="$each"; done
echo "$* in $PWD" >>"{calls}"
{action}
"""
NVCC = """#!/bin/sh
case "$1" in --version) echo "Cuda compilation tools, release 13.1, V13.1.80"; exit;; esac
for each; do output="$each"; done
echo call >>"{calls}"
{action}
"""
MAKE = 'echo code >"$output"'
UNIT = Unit("sim", "g++", "int x;")
GPU = Unit("sm_90a", "nvcc", "int x;")


class Machine:
    """A PATH with compilers that are scripts, and a cache of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.monkeypatch = monkeypatch
        self.cache = folder / "cache"
        self._calls = folder / "calls"
        monkeypatch.setenv("IMP_CACHE_DIR", str(self.cache))

    def install(self, name: str, text: str, action: str = MAKE) -> Path:
        """A script in a folder of its own, which is the first of the PATH; nvcc is found by IMP_NVCC too."""
        path = self.folder / f"bin{len(list(self.folder.glob('bin*')))}" / name
        path.parent.mkdir()
        path.write_text(text.format(calls=self._calls, action=action), "utf-8")
        path.chmod(0o755)
        self.monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
        if name == "nvcc":
            self.monkeypatch.setenv("IMP_NVCC", str(path))
        return path

    def calls(self) -> int:
        """How often a compiler was run since the last time."""
        text = self._calls.read_text("utf-8") if self._calls.exists() else ""
        self._calls.unlink(missing_ok=True)
        return len(text.splitlines())

    def left(self) -> list[str]:
        """What a build has left in the cache that is no entry."""
        return [path.name for path in self.cache.iterdir() if len(path.name) != 2]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def message(*units: Unit) -> str:
    with pytest.raises(BuildError) as raised:
        build(units)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_engine_is_built_once_for_all_models(machine: Machine) -> None:
    machine.install("g++", GXX)
    engine, checked = len(engine_sources("plain")), len(engine_sources("check"))
    assert 0 < engine < checked
    (first,) = build((UNIT,))
    assert (first.code, first.cached) == (b"code\n", False)
    assert machine.calls() == engine + 2  # the model's own source, and the link
    (again,) = build((UNIT,))
    assert (again.code, again.cached, machine.calls()) == (b"code\n", True, 0)
    build((Unit("sim", "g++", "int y;"),))
    assert machine.calls() == 2
    build((Unit("sim", "g++", "int x;", "check"),))
    assert machine.calls() == checked - engine + 2
    assert machine.left() == []


def test_what_models_share_is_built_once(machine: Machine) -> None:
    machine.install("g++", GXX, f'cat model.cpp >>"{machine.folder}/compiled" 2>/dev/null; {MAKE}')
    engine = len(engine_sources("plain"))
    build((Unit("sim", "g++", "int x;", shared="int end;"), Unit("sim", "g++", "int y;", shared="int end;")))
    assert machine.calls() == engine + 5  # two sources, what they share, two links
    build((Unit("sim", "g++", "int z;", shared="int end;"),))
    assert machine.calls() == 2
    assert (machine.folder / "compiled").read_text("utf-8").count("int end;") == 1
    build((Unit("sim", "g++", "int z;", shared="int another;"),))
    assert machine.calls() == 3
    build((Unit("sim", "g++", "int z;", "check", "int end;"),))  # with other flags it is another object
    assert machine.calls() == len(engine_sources("check")) - engine + 3
    assert machine.left() == []


def test_progress_counts_pieces(machine: Machine) -> None:
    machine.install("g++", GXX)
    said: list[tuple[int, int]] = []
    build((UNIT,), lambda *numbers: said.append(numbers))
    total = len(engine_sources("plain")) + 1
    assert said == [(done, total) for done in range(total + 1)]
    said.clear()
    build((UNIT,), lambda *numbers: said.append(numbers))
    assert said == [(1, 1)]


@pytest.mark.parametrize("name", ["NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "NVCC_CCBIN"])
def test_variables_that_nvcc_obeys_are_part_of_the_key(machine: Machine, name: str) -> None:
    machine.install("nvcc", NVCC, f'echo "${name}" >"$output"')
    assert build((GPU,))[0].code == b"\n"
    machine.monkeypatch.setenv(name, "-maxrregcount=32")
    assert build((GPU,))[0].code == b"-maxrregcount=32\n"


def test_no_other_variable_reaches_a_compiler(machine: Machine) -> None:
    machine.install("g++", GXX, 'env >"$output"')
    for name in ("CPATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "GCC_EXEC_PREFIX", "INCLUDES", "LANG", "LC_MESSAGES"):
        machine.monkeypatch.setenv(name, "/odd")
    seen = dict(line.split("=", 1) for line in build((UNIT,))[0].code.decode().splitlines())
    ours = {"PATH", "HOME", "LD_LIBRARY_PATH", "LC_ALL", "TMPDIR"}
    assert set(seen) - {"PWD", "OLDPWD", "SHLVL", "_"} <= ours  # the shell's own
    assert (seen["LC_ALL"], seen["TMPDIR"]) == ("C", ".")


def test_the_compilers_first_error_and_where_the_rest_is(machine: Machine) -> None:
    said = "In file included from x.h:1:\nmodel.cpp:7:1: error: no such thing\nmodel.cpp:8:1: error: another\n" * 500
    (machine.folder / "said").write_text(said, "utf-8")
    machine.install("g++", GXX, f"cat '{machine.folder / 'said'}' >&2; exit 1")
    text = message(Unit("sim", "g++", "int odd;"))
    assert text.startswith("g++ 12.2.0 does not compile ")
    assert ": model.cpp:7:1: error: no such thing; the whole log: " in text
    log = Path(text.rpartition(": ")[2])
    assert log.read_text("utf-8") == said
    assert machine.left() == ["failed"]


def test_the_source_of_a_failure_lies_beside_its_log(machine: Machine) -> None:
    machine.install("nvcc", NVCC, "echo 'nvcc fatal   : Unsupported gpu architecture'; exit 1")
    text = message(GPU)
    assert "does not compile the code for sm_90a: nvcc fatal : Unsupported gpu architecture; the whole log: " in text
    assert (Path(text.rpartition(": ")[2]).parent / "model.cu").read_text("utf-8") == GPU.source


@pytest.mark.parametrize(
    ("name", "text", "version", "said"),
    [
        ("nvcc", NVCC.replace("13.1", "13.0"), "13.0", "13.1 or newer: pip install --upgrade nvidia-cuda-nvcc"),
        ("g++", GXX.replace("12.2.0", "9.4.0"), "9.4.0", "11.0 or newer: apt install g++"),
    ],
)
def test_an_old_compiler_is_refused_before_it_makes_anything(
    machine: Machine, name: str, text: str, version: str, said: str
) -> None:
    path = machine.install(name, text)
    begin = "IMP_NVCC names" if name == "nvcc" else "g++ is"
    assert message(UNIT if name == "g++" else GPU) == f"{begin} {path}, version {version}; imp needs {name} {said}"
    assert machine.calls() == 0


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("exit 3", "it said nothing and returned 3"),
        ("kill -9 $$", "it was ended by SIGKILL"),
        ("echo nothing is made", "nothing is made"),
        (f"{MAKE}; exit 1", "it said nothing and returned 1"),
    ],
)
def test_a_compiler_that_fails_without_an_error(machine: Machine, action: str, words: str) -> None:
    machine.install("nvcc", NVCC, action)
    assert f"does not compile the code for sm_90a: {words}; the whole log: " in message(GPU)


def test_an_nvcc_that_is_none(machine: Machine) -> None:
    def said(path: Path | str) -> str:
        machine.monkeypatch.setenv("IMP_NVCC", str(path))
        return message(GPU)

    nothing, text, script = machine.folder / "no", machine.folder / "text", machine.folder / "script"
    text.write_text("this is no program", "utf-8")
    script.write_text("#!/nowhere/at/all\n", "utf-8")
    script.chmod(0o755)
    assert said(nothing) == f"IMP_NVCC names {nothing}, which is not a file; give the path of an nvcc"
    assert said(machine.folder).endswith("which is not a file; give the path of an nvcc")
    assert said(text) == f"IMP_NVCC names {text}, which cannot be run (Permission denied)"
    assert said(script) == f"IMP_NVCC names {script}, which cannot be run (No such file or directory)"
    text.chmod(0o755)
    assert said(text) == f"IMP_NVCC names {text}, which cannot be run (Exec format error)"
    assert said("/bin/true") == "IMP_NVCC names /bin/true, which does not answer --version as nvcc does"
    assert said("/bin/false").startswith("IMP_NVCC names /bin/false, which does not run (")


def test_an_empty_variable_is_none(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMP_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(machine.folder))
    assert cache.folder() == machine.folder / ".cache" / "imp"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache.folder() == Path("/x/imp")


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IMP_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a user that the machine does not know
    with pytest.raises(BuildError, match="set IMP_CACHE_DIR"):
        cache.folder()


def test_a_cache_that_cannot_be_made(machine: Machine) -> None:
    machine.install("g++", GXX)
    machine.cache.write_text("a file", "utf-8")
    assert message(UNIT).startswith(f"the cache folder {machine.cache} cannot be used (File exists); ")


@pytest.mark.parametrize(
    "action",
    [
        'rm log; ln -s /dev/full log; echo said; echo code >"$output"',  # whatever is written there finds no room
        "echo 'model.cpp:426:1: fatal error: error writing to ./cc.s: No space left on device'; exit 1",
    ],
    ids=["ours", "the compiler's"],
)
def test_a_full_disk(machine: Machine, action: str) -> None:
    machine.install("nvcc", NVCC, action)
    said = message(GPU)
    assert said.startswith(
        f"the cache folder {machine.cache} cannot be used (No space left on device); make room there"
    )
    assert machine.left() == []


def test_an_entry_without_its_log_is_built_again(machine: Machine) -> None:
    machine.install("nvcc", NVCC)
    build((GPU,))
    (log,) = machine.cache.glob("*/*.log")
    log.unlink()
    assert build((GPU,))[0].cached is False
    assert build((GPU,))[0].cached is True


def test_several_builds_of_the_same_at_once(machine: Machine) -> None:
    machine.install("g++", GXX, f"sleep 0.1; {MAKE}")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: build((UNIT,))[0].code, range(4)))
    assert found == [b"code\n"] * 4
    assert machine.left() == []


def test_the_first_failure_ends_the_others(machine: Machine) -> None:
    machine.install("nvcc", NVCC, "sleep 60")
    machine.install("g++", GXX, "case $PWD in *) echo error: bad; exit 1;; esac")
    began = time.monotonic()
    assert "error: bad" in message(GPU, UNIT)
    assert time.monotonic() - began < 30


def runs(pid: str) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] not in "XZ"
    except FileNotFoundError:
        return False


PROGRAM = """
import signal, sys
from imp_codegen.build import Unit, build
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
build((Unit("sim", "g++", "int x;"), Unit("sm_90a", "nvcc", "int x;")))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whatever_ends_a_build_ends_its_compilers(machine: Machine, number: signal.Signals) -> None:
    """With what they have started, and with their files."""
    started = machine.folder / "started"
    started.mkdir()
    wait = f"touch part; sh -c 'sleep 300 & echo > \"{started}\"/$!; wait'"
    machine.install("nvcc", NVCC, wait)
    machine.install("g++", GXX, wait)
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=subprocess.PIPE, text=True)
    while len(list(started.iterdir())) < min(2, len(os.sched_getaffinity(0))):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == (143 if number == signal.SIGTERM else -number), errors
    assert not any(runs(path.name) for path in started.iterdir())
    assert machine.left() == []


def test_an_interruption_that_reaches_another_thread_ends_the_wait(tmp_path: Path) -> None:
    """Only the main thread answers a signal, and nothing but its clock wakes it here."""

    def task(processes: Processes) -> None:
        time.sleep(0.5)  # the main thread waits by now
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        processes.run(["sleep", "60"], tmp_path, {"PATH": os.defpath})

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        together([task])
    assert time.monotonic() - begin < 30
