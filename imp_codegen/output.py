"""Where an artifact may be written."""

from __future__ import annotations

from pathlib import Path

from imp_codegen.checkpoint.gguf import parts_of
from imp_runtime.artifact import is_artifact
from imp_runtime.errors import ImpError


def check_output(output: Path, source: Path, force: bool) -> None:
    """ImpError unless an artifact at `output` replaces nothing, an artifact, or with `force` any file but the source's.

    `source`: a file, with all parts of one that was split, or a folder, all of whose files are the model.
    """
    if not output.parent.is_dir():
        raise ImpError(f"{output}: the folder {output.parent} does not exist; make it first")
    if output.is_dir():
        raise ImpError(f"{output}: is a folder; name the file to write, like {output / f'{source.stem}.impc'}")
    if not output.exists():
        return
    if _is_of(output, source):
        raise ImpError(f"{output}: is the model that is to be compiled; give the artifact another name")
    if not output.is_file():
        raise ImpError(f"{output}: is not a regular file; an artifact is a file that is put in place when it is whole")
    if not force and output.stat().st_size and not is_artifact(output):
        raise ImpError(f"{output}: exists and is no compiled model; choose another name, or overwrite it with --force")


def _is_of(output: Path, source: Path) -> bool:
    """Whether `output` is the model at `source` or, by whatever name, one of its files."""
    if source.is_dir():
        return not is_artifact(output) and any(path.is_file() and output.samefile(path) for path in source.rglob("*"))
    return any(part.exists() and output.samefile(part) for part in parts_of(source))
