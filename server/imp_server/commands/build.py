"""`imp build`: a list of checkpoints becomes a folder of `.impc` files, with an index of what is in it.

One after the other: a compile takes all cores itself, and the next finds in the cache what both have. Three at a time
took twice as long on two cores.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from imp_codegen.build import toolchain
from imp_codegen.checkpoint import Checkpoint, open_checkpoint
from imp_codegen.checkpoint.heads import HeadCheckpoint
from imp_codegen.device_code import templates
from imp_codegen.targets import find_targets
from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError
from imp_runtime.text import visible
from imp_runtime.version import VERSION
from imp_server.commands.build_index import INDEX, before, put, write_index
from imp_server.commands.build_list import Entry, read_list
from imp_server.commands.build_sbom import SBOM, sbom
from imp_server.commands.compile import describer, form_of, hub_licence, opened, prefill_of
from imp_server.commands.inspect_numbers import card_of, decode_speed, launches_of
from imp_server.console.progress import Report, progress
from imp_server.console.tables import quantity, show, table

NAME = "build"
_LICENCE = re.compile(r"^license(?:_name)?: *['\"]?([^'\"\n]+?)['\"]? *$", re.MULTILINE)
_LONGEST_README = 1 << 20
# What decides an artifact's bytes, besides all of the compiler and of the runtime: how chat templates are described.
_DECIDING = ("chat", "parsers", "generation", "errors.py", "commands/compile.py", "commands/build.py")


def command(
    models: Annotated[
        Path, typer.Argument(metavar="MODELS.toml", help="The list: a table for each model, as the README has it.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to fill.")],
    as_json: Annotated[bool, typer.Option("--json", help="What became of each, machine-readable.")] = False,
) -> int:
    """Compile a list of models; what has not changed since the last time is left as it is."""
    entries = read_list(models)
    output.mkdir(parents=True, exist_ok=True)
    last = before(output / INDEX)
    code = _code()
    results: list[tuple[dict[str, Any] | None, str]] = []
    with progress() as report:
        for entry in entries:
            report("models", len(results), len(entries))
            try:
                results.append(_one(entry, models.parent, output, last.get(entry.name), code, report))
            except (ImpError, OSError) as error:
                results.append((None, f"failed: {error}"))
        report("models", len(results), len(entries))
    built = [made for made, _ in results if made is not None]
    failed = {e.name: said for e, (made, said) in zip(entries, results, strict=True) if made is None}
    write_index(output, built, failed)
    used = {target.compiler for made in built for target in find_targets(tuple(made["targets"]))}
    put(output / SBOM, sbom(used))
    for name in last.keys() - {made["name"] for made in built}:  # else what failed now would pass for made
        (output / f"{name}.impc").unlink(missing_ok=True)
    outcomes = {entry.name: outcome for entry, (_, outcome) in zip(entries, results, strict=True)}
    if as_json:
        print(json.dumps({"outcomes": outcomes, "index": str(output / INDEX)}, indent=2))
    else:
        show(table(str(output), ("model", "outcome"), list(outcomes.items()), right=2))
    return int(len(built) < len(entries))


def _one(
    entry: Entry, folder: Path, output: Path, last: Mapping[str, Any] | None, code: str, report: Report
) -> tuple[dict[str, Any], str]:
    """The index's record of an entry, and what became of it."""
    where = entry.source if entry.source.startswith("hf:") else str(folder / entry.source)
    with opened(where, entry.thin) as source:
        checkpoint = open_checkpoint(source) if isinstance(source, Path) else source
        with closing(checkpoint):
            return _made(entry, checkpoint, output, last, code, report)


def _made(
    entry: Entry, checkpoint: Checkpoint, output: Path, last: Mapping[str, Any] | None, code: str, report: Report
) -> tuple[dict[str, Any], str]:
    from imp_codegen.compiler import CompileOptions, compile_model
    from imp_codegen.tune.table import shipped

    inputs, licence = _inputs(checkpoint), _licence(checkpoint) or hub_licence(entry.source)
    options = {
        "targets": list(entry.targets),
        "context": entry.context,
        "kv": entry.kv,
        "exec": entry.form,
        "check": entry.check,
        "thin": entry.thin,
        "weights": entry.weights,
        "prefill": entry.prefill,
    }
    compilers = sorted({target.compiler for target in find_targets(entry.targets)})
    told = json.dumps([inputs, options, code, [toolchain.key(name) for name in compilers]], sort_keys=True)
    key = hashlib.sha256(told.encode()).hexdigest()
    path = output / f"{entry.name}.impc"
    if last is not None and last.get("key") == key and path.is_file() and _sha256(path) == last.get("sha256"):
        return {**last, "licence": licence}, "unchanged"
    choices = CompileOptions(
        context=entry.context,
        check=entry.check,
        describe_chat=describer([]),
        tuning=shipped(),  # the user's own tables would make other bytes on another machine
        form=form_of(entry.form),
        kv=entry.kv,
        thin=entry.thin,
        weights=entry.weights,
        prefill=prefill_of(entry.prefill),
    )

    def told_of(step: str, done: int, total: int, /) -> None:
        report(f"{entry.name}: {step}", done, total)

    compile_model(checkpoint, path, entry.targets, choices, told_of)
    artifact = Artifact.open(path, thin=True)
    plan = artifact.plan
    speeds = {}
    for target in plan.targets:
        card = card_of(target)
        if card is not None and card.speed is not None:
            speeds[card.name] = decode_speed({"step_r1": launches_of(target.program("step_r1"), card)})
    made = {
        "name": entry.name,
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": _sha256(path),
        "key": key,
        "source": entry.source,
        "inputs": inputs,
        "model": plan.model,
        "quant": plan.weights,
        **options,
        "licence": licence,
        "predicted_decode_tokens_per_second": speeds,
        "imp": VERSION,
        "runtime": artifact.metadata["runtime"],
        "compilers": {name: toolchain.find(name).version for name in compilers},
    }
    return made, f"built, {quantity(path.stat().st_size, 'B')}"


def _inputs(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Every file of a checkpoint; of those whose heads alone are here the Hub has told the hash."""
    weights = checkpoint.weight_files if isinstance(checkpoint, HeadCheckpoint) else ()
    told = [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in weights]
    root, paths = checkpoint.path, list(checkpoint.files)
    if root.is_dir():
        below = (path for path in root.glob("*/*") if path.suffix in (".json", ".jinja"))
        paths = sorted(p for p in (*root.iterdir(), *below) if p.is_file() and p.suffix != ".impc")
    else:
        root = root.parent
    named = {file.name for file in weights}
    return told + [
        {"name": path.relative_to(root).as_posix(), "bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in paths
        if path.name not in named
    ]


def _licence(checkpoint: Checkpoint) -> str | None:
    """What a GGUF's key or the head of a folder's README says of the licence, as one line."""
    if "general.license" in checkpoint.metadata:
        return visible(checkpoint.metadata.string("general.license"))[:200]
    readme = checkpoint.path / "README.md"
    if not readme.is_file() or readme.stat().st_size > _LONGEST_README:
        return None
    _, mark, rest = readme.read_text("utf-8", "replace").partition("---\n")
    found = _LICENCE.findall(rest.partition("\n---")[0]) if mark else []
    named = [each for each in found if each != "other"] or found
    return visible(named[0])[:200] if named else None


def _code() -> str:
    """Hash of imp's own code, of which what it makes is a function: Python, templates, tuning tables."""
    package = Path(__file__).parents[1]
    import imp_codegen
    import imp_runtime

    roots = (*map(Path, (*imp_codegen.__path__, *imp_runtime.__path__)), *(package / each for each in _DECIDING))
    digest = hashlib.sha256()
    for number, root in enumerate((*roots, templates())):
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if path.is_file() and path.suffix != ".pyc":
                digest.update(f"{number}/{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
