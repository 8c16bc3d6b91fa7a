"""The folder of what has been built. An entry is two files, its key and its key + ".log", each put there at once."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imp_codegen.build.failure import BuildError


@dataclass(frozen=True, slots=True)
class Entry:
    """What a compiler made and said."""

    code: bytes
    log: str


def folder() -> Path:
    """Where it lies, absolute."""
    if given := os.environ.get("IMP_CACHE_DIR"):
        return Path(given).absolute()
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given).absolute() / "imp"
    try:
        return Path.home() / ".cache" / "imp"
    except RuntimeError:
        raise BuildError("there is no home folder to keep what is built in; set IMP_CACHE_DIR to a folder") from None


def place(key: str) -> Path:
    """Where the code of an entry lies, or would lie."""
    return folder() / key[:2] / key


def has(key: str) -> bool:
    """Whether there is an entry."""
    return place(key).is_file()


def find(key: str) -> Entry | None:
    """An entry, if it is there. BuildError where it cannot be read."""
    path = place(key)
    try:
        return Entry(path.read_bytes(), _log_of(path).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _trouble(error) from None


def keep(key: str, made: Path) -> None:
    """Move the files `code` and `log` of a folder into the cache.

    Others may do the same at the same time: equal keys mean equal content.
    """
    path = place(key)
    path.parent.mkdir(exist_ok=True)
    for source, target in ((made / "log", _log_of(path)), (made / "code", path)):
        with source.open("rb") as file:
            os.fsync(file)  # else a name could outlive a power cut without its content
        source.replace(target)


def keep_failure(made: Path) -> Path:
    """Move log and source of a folder to where they stay until the same fails again; gives the log's path."""
    failed = folder() / "failed" / made.name
    failed.mkdir(parents=True, exist_ok=True)
    for source in (made / "log", *made.glob("model.c*")):
        source.replace(failed / source.name)
    return failed / "log"


@contextmanager
def workshop() -> Iterator[Path]:
    """A temporary folder inside the cache. What cannot be written there becomes a BuildError."""
    path = folder()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=path) as name:
            yield Path(name)
    except OSError as error:
        raise _trouble(error) from None


def _trouble(error: OSError) -> BuildError:
    advice = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend it"
    return BuildError(
        f"the cache folder {folder()} cannot be used ({error.strerror}); {advice}, or set IMP_CACHE_DIR to another"
    )


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.log")
