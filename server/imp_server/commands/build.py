"""`imp build`: a list of checkpoints becomes a folder of `.impc` files, with an index of what is in it.

One after the other: a compile takes all cores itself, and the next finds in the cache what both have. Three at a time
took twice as long on two cores.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from imp_codegen.build import toolchain
from imp_codegen.cache import cache_format
from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.checkpoint.gguf import parts_of
from imp_codegen.emit import templates
from imp_codegen.targets import find_targets
from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError
from imp_runtime.version import VERSION
from imp_server.commands.compile import checkpoint_of, describer, form_of
from imp_server.commands.inspect_numbers import card_of, decode_speed, launches_of
from imp_server.console.progress import Report, progress
from imp_server.console.tables import quantity, show, table

NAME = "build"
INDEX = "index.json"
INDEX_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_KEYS: Mapping[str, type] = {
    "name": str, "source": str, "targets": list, "context": int, "kv": str, "exec": str, "check": bool,
}  # fmt: skip
_WORDS = {str: "a text", list: "a list of texts", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A `[[model]]` of the list; the fields are the options of `imp compile` of that name, `form` is `exec`."""

    name: str
    source: str
    targets: tuple[str, ...]
    context: int | None
    kv: str
    form: str
    check: bool


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
    before = _before(output / INDEX)
    code = _code()
    results: list[tuple[dict[str, Any] | None, str]] = []
    with progress() as report:
        for entry in entries:
            report("models", len(results), len(entries))
            try:
                results.append(_one(entry, models.parent, output, before.get(entry.name), code, report))
            except (ImpError, OSError) as error:
                results.append((None, f"failed: {error}"))
        report("models", len(results), len(entries))
    built = [made for made, _ in results if made is not None]
    _put(output / INDEX, json.dumps({"version": INDEX_VERSION, "imp": VERSION, "models": built}, indent=1) + "\n")
    _put(output / "index.html", _page(built))
    outcomes = {entry.name: outcome for entry, (_, outcome) in zip(entries, results, strict=True)}
    if as_json:
        print(json.dumps({"outcomes": outcomes, "index": str(output / INDEX)}, indent=2))
    else:
        show(table(str(output), ("model", "outcome"), list(outcomes.items()), right=2))
    return int(len(built) < len(entries))


def read_list(path: Path) -> list[Entry]:
    """The entries of a list. ImpError names file, entry and key of what is wrong."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ImpError(f"{path}: cannot be read as TOML: {getattr(error, 'strerror', None) or error}") from None
    if unknown := sorted(set(document) - {"model"}):
        raise ImpError(f"{path}: {unknown[0]} is unknown; a list has [[model]] tables and nothing else")
    tables = document.get("model")
    if not isinstance(tables, list) or not tables or not all(isinstance(each, dict) for each in tables):
        raise ImpError(f"{path}: lists no model; write a [[model]] table with name, source and targets for each")
    entries = [_entry(path, number, each) for number, each in enumerate(tables, 1)]
    names = [entry.name for entry in entries]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ImpError(f"{path}: two entries have the name {twice[0]}; give each its own")
    return entries


def _entry(path: Path, number: int, given: Mapping[str, Any]) -> Entry:
    where = f"{path}: model {number} ({given.get('name', 'without a name')})"
    for key, value in given.items():
        if key not in _KEYS:
            raise ImpError(f"{where}: {key} is unknown; known: {', '.join(_KEYS)}")
        if type(value) is not _KEYS[key]:
            raise ImpError(f"{where}: {key} is {value!r}, expected {_WORDS[_KEYS[key]]}")
    for key in ("name", "source", "targets"):
        if not given.get(key):
            raise ImpError(f"{where}: {key} is missing")
    if not _NAME.fullmatch(given["name"]):
        raise ImpError(f"{where}: name must be letters, digits, dots, dashes, underscores, since it becomes a file's")
    if not all(type(target) is str for target in given["targets"]):
        raise ImpError(f'{where}: targets is {given["targets"]!r}, expected texts like ["sm_120a", "sim"]')
    try:
        find_targets(tuple(given["targets"]))
        cache_format(given.get("kv", "f16"))
        form_of(given.get("exec", "auto"))
    except ImpError as error:
        raise ImpError(f"{where}: {error}") from None
    return Entry(
        given["name"],
        given["source"],
        tuple(given["targets"]),
        given.get("context"),
        given.get("kv", "f16"),
        given.get("exec", "auto"),
        given.get("check", False),
    )


def _one(
    entry: Entry, folder: Path, output: Path, before: Mapping[str, Any] | None, code: str, report: Report
) -> tuple[dict[str, Any], str]:
    """The index's record of an entry, and what became of it."""
    from imp_codegen.compiler import CompileOptions, compile_model
    from imp_codegen.tune.table import shipped

    source = checkpoint_of(entry.source) if entry.source.startswith("hf:") else folder / entry.source
    with closing(open_checkpoint(source)) as checkpoint:  # which says what is wrong with it
        licence = checkpoint.metadata.string("general.license") if "general.license" in checkpoint.metadata else None
    inputs = [{"name": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path)} for path in _files(source)]
    options = {"targets": entry.targets, "context": entry.context, "kv": entry.kv, "exec": entry.form}
    compilers = sorted({target.compiler for target in find_targets(entry.targets)})
    told = json.dumps([inputs, options, entry.check, code, [toolchain.key(name) for name in compilers]], sort_keys=True)
    key = hashlib.sha256(told.encode()).hexdigest()
    path = output / f"{entry.name}.impc"
    if before is not None and before.get("key") == key and path.is_file() and _sha256(path) == before.get("sha256"):
        return dict(before), "unchanged"
    choices = CompileOptions(
        context=entry.context,
        check=entry.check,
        describe_chat=describer([]),
        tuning=shipped(),  # the user's own tables would make other bytes on another machine
        form=form_of(entry.form),
        kv=entry.kv,
    )

    def told_of(step: str, done: int, total: int, /) -> None:
        report(f"{entry.name}: {step}", done, total)

    compile_model(source, path, entry.targets, choices, told_of)
    artifact = Artifact.open(path)
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
        "inputs": inputs,
        "model": plan.model,
        "quant": plan.quant,
        **options,
        "licence": licence,
        "predicted_decode_tokens_per_second": speeds,
        "imp": VERSION,
        "compilers": {name: toolchain.find(name).version for name in compilers},
    }
    return made, f"built, {quantity(path.stat().st_size, 'B')}"


def _files(source: Path) -> list[Path]:
    """Every file of a checkpoint."""
    if source.is_dir():
        return sorted(path for path in source.iterdir() if path.is_file() and path.suffix != ".impc")
    return list(parts_of(source))


def _code() -> str:
    """Hash of imp's own code, of which what it makes is a function: Python, templates, tuning tables."""
    package = Path(__file__).parents[1]
    import imp_codegen
    import imp_runtime

    roots = (*map(Path, (*imp_codegen.__path__, *imp_runtime.__path__)), package, templates())
    digest = hashlib.sha256()
    for number, root in enumerate(roots):
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                digest.update(f"{number}/{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _before(path: Path) -> dict[str, dict[str, Any]]:
    """The records of the last build by name; none where there is no index of this version."""
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["version"] != INDEX_VERSION:
            return {}
        return {each["name"]: each for each in document["models"]}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _put(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


def _page(models: list[dict[str, Any]]) -> str:
    rows = []
    for each in models:
        speeds = each["predicted_decode_tokens_per_second"].items()
        said = ", ".join(f"{speed:,.0f} tok/s on {card}" for card, speed in speeds)
        cells = [each["model"], each["quant"], ", ".join(each["targets"]), f"{each['bytes']:,}", said]
        cells += [each["licence"] or "not said", each["sha256"]]
        link = f'<a href="{html.escape(each["file"])}">{html.escape(each["name"])}</a>'
        rows.append(f"<tr><td>{link}{''.join(f'<td>{html.escape(cell)}' for cell in cells)}")
    head = "".join(
        f"<th>{c}" for c in ("name", "model", "format", "targets", "bytes", "predicted", "licence", "SHA-256")
    )
    body = "\n".join(rows)
    return f'<!doctype html><meta charset="utf-8"><title>Models</title>\n<table><tr>{head}\n{body}\n</table>\n'
