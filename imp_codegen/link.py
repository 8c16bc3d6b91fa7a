"""link: a thin artifact and the weights that it was compiled from become a whole one. No compiler runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

from imp_codegen.build.cache import folder
from imp_codegen.checkpoint import Checkpoint, open_checkpoint
from imp_codegen.output import check_output
from imp_codegen.pack import Bytes, counter, pack
from imp_codegen.recipe import Recipe, RecipeError, file_hash, packing_key, tensor_hash
from imp_codegen.sources import spans_of
from imp_codegen.stored import Stored, open_source
from imp_runtime.artifact import CHECKSUMS, PLAN, RECIPE, Artifact
from imp_runtime.artifact_writer import write_artifact
from imp_runtime.errors import ImpError
from imp_runtime.plan import Plane
from imp_runtime.version import VERSION

Progress = Callable[[str, int, int], None]


def link(thin: Path, source: Path, output: Path, progress: Progress, force: bool = False) -> None:
    """Write `output`, bit for bit what compiling the checkpoint `source` gave, had `thin` not been thin.

    ImpError where the weights are not those that it was compiled from, or a file cannot be read or written; `output` is
    then as it was. `force`: it may replace a file that is no artifact.
    """
    artifact = Artifact.open(thin, thin=True)
    if not artifact.thin:
        raise ImpError(f"{thin}: has its weights already; imp run and imp serve take it as it is")
    recipe = _recipe_of(artifact)
    with closing(open_checkpoint(source)) as checkpoint:
        check_output(output, checkpoint.path, force)
        if output.exists() and output.samefile(thin):
            raise ImpError(f"{output}: is the thin artifact that is to be linked; give the whole one another name")
        _compare(recipe, checkpoint)
        with ThreadPoolExecutor(thread_name_prefix="imp-hash") as workers:
            hashes = _Hashes(recipe, checkpoint, workers)
            planes = {plane.name: plane for plane in artifact.plan.planes}
            packed = counter(partial(progress, "link"), sum(plane.nbytes for plane in artifact.plan.planes))

            def weight(plane: str) -> Stored:
                hashes.begin(spans_of(recipe.source(plane)))
                return _fitting(artifact, planes[plane], open_source(recipe.source(plane), checkpoint))

            packing = hashes.checked(pack(artifact.plan.planes, weight, recipe.given, packed))
            try:
                write_artifact(output, artifact.plan, _blobs(artifact), artifact.metadata, packing)
            finally:
                workers.shutdown(cancel_futures=True)


def kept(thin: Path) -> Path:
    """Where the whole artifact of a thin one is kept, or would be: its recipe leaves nothing open."""
    return folder() / "linked" / f"{file_hash(thin)}.impc"


def _recipe_of(artifact: Artifact) -> Recipe:
    """The recipe of a thin artifact, known to be for all of its planes and for this imp."""
    recipe = Recipe.from_json(artifact.read(RECIPE))
    if missing := [plane.name for plane in artifact.plan.planes if plane.name not in recipe.planes]:
        raise RecipeError(f"{artifact.path}: its recipe lacks the plane {missing[0]!r:.80}; compile the model again")
    if recipe.packing != packing_key():
        made = artifact.metadata["imp_version"]
        raise RecipeError(
            f"{artifact.path}: was compiled by imp {made:.40}, which lays weights out in another way than this one, "
            f"{VERSION}; link it by that one, or compile the model again"
        )
    return recipe


def _fitting(artifact: Artifact, plane: Plane, stored: Stored) -> Stored:
    """A weight that is as its plane has it; RecipeError where it is not."""
    if (stored.format.name, math.prod(stored.shape)) != (plane.format, plane.rows * plane.cols):
        raise RecipeError(
            f"{artifact.path}: its recipe gives {stored.format.name} {list(stored.shape)} for the plane "
            f"{plane.name!r:.80}, which is {plane.format} [{plane.rows}, {plane.cols}]; compile the model again"
        )
    return stored


def _blobs(artifact: Artifact) -> dict[str, bytes]:
    left = (PLAN, CHECKSUMS, RECIPE)
    return {name: artifact.read(name) for name, _ in artifact.names() if name not in left}


def _compare(recipe: Recipe, checkpoint: Checkpoint) -> None:
    """RecipeError unless a checkpoint has all the tensors that are needed, of the right shapes."""
    for name, wanted in recipe.tensors.items():
        found = checkpoint.tensors.get(name)
        if found is None:
            raise RecipeError(
                f"{checkpoint.path}: has no tensor {name!r:.80}, so it is not what the thin artifact was compiled from"
            )
        if (found.format, found.shape) != (wanted.format, wanted.shape):
            raise RecipeError(
                f"{checkpoint.path}: tensor {name!r:.80} is {found.format} {list(found.shape)}, expected "
                f"{wanted.format} {list(wanted.shape)}; it is not what the thin artifact was compiled from"
            )


class _Hashes:
    """Compares what is read with what the recipe says of it, beside what is done with it."""

    def __init__(self, recipe: Recipe, checkpoint: Checkpoint, workers: ThreadPoolExecutor) -> None:
        self._recipe = recipe
        self._checkpoint = checkpoint
        self._workers = workers
        self._begun: dict[str, tuple[Future[str], str]] = {}  # what it is of, with what it should be
        for path, wanted in [] if all(t.sha256 for t in recipe.tensors.values()) else _pairs(recipe, checkpoint):
            self._begun[str(path)] = workers.submit(file_hash, path), wanted

    def begin(self, tensors: Iterable[str]) -> None:
        """Begin with tensors; those that were begun before are left, and those whose file is compared as a whole."""
        for name in tensors:
            wanted = self._recipe.tensors[name].sha256
            what = f"{self._checkpoint.path}: tensor {name!r:.80}"
            if wanted and what not in self._begun:
                self._begun[what] = self._workers.submit(tensor_hash, self._checkpoint, name), wanted

    def checked(self, planes: Iterator[tuple[str, Iterator[Bytes]]]) -> Iterator[tuple[str, Iterator[Bytes]]]:
        """The same planes; RecipeError as soon as something is known to be other, at the latest behind the last."""
        compared: set[str] = set()
        for plane in planes:
            yield plane
            done = {what for what, (found, _) in self._begun.items() if found.done()} - compared
            for what in sorted(done):
                self._compare(what)
            compared |= done
        for what in self._begun:
            self._compare(what)

    def _compare(self, what: str) -> None:
        begun, wanted = self._begun[what]
        if (found := begun.result()) != wanted:
            raise RecipeError(
                f"{what} has the SHA-256 {found}, expected {wanted}; it was changed or damaged, or is of another model "
                "than the thin artifact: download it again"
            )


def _pairs(recipe: Recipe, checkpoint: Checkpoint) -> list[tuple[Path, str]]:
    """Each file of a checkpoint with the hash that it should have. RecipeError where it is longer or shorter."""
    named = {path.name: path for path in checkpoint.files}
    if len(named) != len(recipe.files):
        raise RecipeError(
            f"{checkpoint.path}: its weights are in {len(named)} files, those of the thin artifact in "
            f"{len(recipe.files)}: {', '.join(file.name for file in recipe.files[:4])}"
        )
    same = named.keys() == {file.name for file in recipe.files}
    paths = [named[file.name] for file in recipe.files] if same else checkpoint.files
    pairs = list(zip(paths, recipe.files, strict=True))
    for path, wanted in pairs:
        if (found := path.stat().st_size) != wanted.bytes:
            raise RecipeError(
                f"{path}: has {found:,} bytes, expected {wanted.bytes:,}; it is not what the thin artifact was "
                "compiled from"
            )
    return [(path, wanted.sha256) for path, wanted in pairs]
